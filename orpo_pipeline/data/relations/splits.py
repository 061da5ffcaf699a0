"""Which prompts are held out, and what leaks them.

Content alone decides, so that no prompt changes sides when data grows.
"""

import hashlib
import math

import numpy as np
import polars as pl

SALT = "orpo-pipeline split v1"

EVALUATED = "the evaluation split holds this prompt or a nearly equal one"
EVALUATED_TURN = "the evaluation split holds another turn of this dialogue"
HELD_OUT_BEFORE = "an earlier evaluation split held out this prompt or a nearly equal one"
HELD_OUT_TURN = "an earlier evaluation split held out an earlier turn of this dialogue"


def held_out(prompt_ids: pl.Series, fraction: float) -> pl.Series:
    """Whether each prompt belongs to the evaluation split; about 1 s for a million.

    A salted hash of the prompt id, read as a number in [0, 1), is compared with `fraction`, which
    is below 1: equal prompts land on the same side whatever else the data holds, in expectation
    `fraction` of them in evaluation.
    """
    salted = hashlib.sha256(f"{SALT}\n".encode())
    beginnings = bytearray()
    for prompt_id in prompt_ids:
        digest = salted.copy()
        digest.update(prompt_id.encode())
        beginnings += digest.digest()[:8]
    numbers = np.frombuffer(bytes(beginnings), dtype=">u8")
    # The limit as an integer: as a float it would be compared with rounded numbers.
    return pl.Series("held_out", numbers < np.uint64(math.ceil(fraction * 2**64)))


def leaking_reasons(
    group: pl.Series, training: pl.Series, withheld: pl.Series, reason: str
) -> pl.Series:
    """`reason` for each training row whose group has a withheld row; else null.

    `group` labels each row's group of equal and near-equal prompts, `training` is true for the rows
    of the training split, `withheld` for rows that must not be trained on themselves. Evaluation
    rows stay and nothing changes sides: a prompt's side is its own.
    """
    rows = pl.DataFrame({"group": group, "training": training, "withheld": withheld})
    leaks = pl.col("training") & pl.col("withheld").any().over("group")
    return rows.select(pl.when(leaks).then(pl.lit(reason)).alias("reason")).to_series()
