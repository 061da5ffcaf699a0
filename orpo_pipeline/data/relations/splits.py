"""Which prompts are held out: decided by content, so that it never changes when data grows.

A dialogue may be several rows, one for each turn that was rated. All of them begin with the same
question, and its hash decides for all; of two prompts, one that begins with the other leaks it.
"""

import hashlib
import math

import numpy as np
import polars as pl

SALT = "orpo-pipeline split v1"

EVALUATED = (
    "the evaluation split holds this prompt, a nearly equal one or another turn of the dialogue"
)
HELD_OUT_BEFORE = (
    "an earlier evaluation split held out this prompt, a nearly equal one or an earlier turn"
)


def held_out(opening_ids: pl.Series, fraction: float) -> pl.Series:
    """Whether each prompt belongs to the evaluation split; about 1 s for a million.

    A salted hash, read as a number in [0, 1), is compared with `fraction`, which is below 1. It is
    that of the first question's prompt id, so that all turns of a dialogue land on one side, as
    equal prompts do, whatever else the data holds; in expectation `fraction` of them in evaluation.
    """
    salted = hashlib.sha256(f"{SALT}\n".encode())
    beginnings = bytearray()
    for opening_id in opening_ids:
        digest = salted.copy()
        digest.update(opening_id.encode())
        beginnings += digest.digest()[:8]
    numbers = np.frombuffer(bytes(beginnings), dtype=">u8")
    # The limit as an integer: as a float it would be compared with rounded numbers.
    return pl.Series("held_out", numbers < np.uint64(math.ceil(fraction * 2**64)))


def leaking_reasons(
    group: pl.Series, training: pl.Series, withheld: pl.Series, reason: str
) -> pl.Series:
    """`reason` for each training row whose group has a withheld row; else null.

    `group` labels each row's group of equal and near-equal prompts, `training` is true for the rows
    of the training split, `withheld` for rows whose own prompt must not be trained on. Evaluation
    rows stay and nothing changes sides: a prompt's side is its own.
    """
    rows = pl.DataFrame({"group": group, "training": training, "withheld": withheld})
    leaks = pl.col("training") & pl.col("withheld").any().over("group")
    return rows.select(pl.when(leaks).then(pl.lit(reason)).alias("reason")).to_series()
