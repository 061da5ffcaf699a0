"""What TRL's ORPOTrainer does with a data set before it trains: three `map` calls, row by row.

The functions are TRL's own, called as its __init__ does. Its `messages` column is taken out first:
TRL 1.16 raises KeyError("Invalid keys in the example") for a row that has it.
"""

from pathlib import Path
from typing import Any

READERS = {".parquet": "parquet", ".csv": "csv"}
IDS = ("prompt_input_ids", "chosen_input_ids", "rejected_input_ids")


def read_file(path: Path, cache: Path, most: int | None = None) -> Any:
    """The file's rows as a datasets.Dataset."""
    from datasets import load_dataset

    reader = READERS.get(path.suffix, "json")
    split = "train" if most is None else f"train[:{most}]"
    rows = load_dataset(reader, data_files=str(path), split=split, cache_dir=str(cache))
    return rows.remove_columns([name for name in ("messages",) if name in rows.column_names])


def map_rows(rows: Any, tokenizer: Any, max_length: int, num_proc: int | None) -> Any:
    """Token ids of the rows, in TRL's columns."""
    from trl.data_utils import maybe_apply_chat_template, maybe_extract_prompt
    from trl.experimental.orpo import ORPOTrainer

    # Of the trainer tokenize_row needs these fields alone, and __init__ wants a model as well.
    trainer = object.__new__(ORPOTrainer)
    trainer.processing_class = tokenizer
    trainer.is_encoder_decoder = False
    trainer.max_length = max_length
    trainer.padding_value = tokenizer.pad_token_id
    rows = rows.map(maybe_extract_prompt, num_proc=num_proc)
    rows = rows.map(
        maybe_apply_chat_template, fn_kwargs={"processing_class": tokenizer}, num_proc=num_proc
    )
    return rows.map(trainer.tokenize_row, num_proc=num_proc)
