"""The packed engine: each prompt computed once, no padding, no kept logits."""
