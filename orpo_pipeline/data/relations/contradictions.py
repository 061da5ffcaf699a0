"""Contradictions: preferences within one prompt that lead in a circle."""

import numpy as np
import polars as pl
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components


def contradiction_reasons(rows: pl.DataFrame) -> pl.Series:
    """A reason for each row whose preference another row's, or several in turn, contradict.

    `rows` has prompt_id, and chosen_key and rejected_key: equal numbers for equal answers. Within
    a prompt each row is an edge from chosen to rejected; an edge inside a strongly connected
    component lies on a circle (A over B, B over A; or A over B over C over A), and all edges of a
    circle go: nothing says which of them is wrong. Null for the other rows.
    """
    edges = _edges_that_may_close(rows)
    nodes = pl.concat(
        [edges.select("prompt_id", key=f"{side}_key") for side in ("chosen", "rejected")]
    )
    numbers = nodes.select(pl.struct("prompt_id", "key").rank("dense")).to_series().to_numpy()
    component, size = _strong_components(numbers.reshape(2, -1).astype(np.int64) - 1)
    inside = (component[0] == component[1]) & (size[component[0]] > 1)
    found = edges.select("row", answers=pl.Series(size[component[0]])).filter(pl.Series(inside))
    sentence = (
        pl.when(pl.col("answers") == 2)
        .then(pl.lit("another row prefers these two answers the other way round"))
        .otherwise(pl.format("the prompt's rows prefer {} answers in a circle", "answers"))
    )
    every = pl.DataFrame({"row": pl.arange(rows.height, dtype=pl.UInt32, eager=True)})
    reasons = found.select("row", reason=sentence)
    return every.join(reasons, on="row", how="left", maintain_order="left")["reason"]


def _edges_that_may_close(rows: pl.DataFrame) -> pl.DataFrame:
    """Rows with their number, without most of those that cannot lie on a circle.

    On a circle an answer that is chosen is also rejected somewhere, and the other way round. In
    most data hardly any row passes, so that the graph is small.
    """
    edges = (
        rows.select("prompt_id", "chosen_key", "rejected_key")
        .with_row_index("row")
        .filter(pl.len().over("prompt_id") > 1)
    )
    chosen = edges.select("prompt_id", rejected_key="chosen_key").unique()
    rejected = edges.select("prompt_id", chosen_key="rejected_key").unique()
    return edges.join(chosen, on=["prompt_id", "rejected_key"], how="semi").join(
        rejected, on=["prompt_id", "chosen_key"], how="semi"
    )


def _strong_components(ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Component (2, m) of each end of m edges (2, m), and the number of nodes of each component."""
    count = int(ends.max()) + 1 if ends.size else 0
    if not count:
        return ends, np.zeros(0, dtype=np.int64)
    graph = coo_array((np.ones(ends.shape[1], dtype=np.bool_), (ends[0], ends[1])), (count, count))
    _, labels = connected_components(graph, directed=True, connection="strong")
    return labels[ends], np.bincount(labels)
