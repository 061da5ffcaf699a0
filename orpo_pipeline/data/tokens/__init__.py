"""Text to token ids, with the tokenizer, chat template and length of the run."""
