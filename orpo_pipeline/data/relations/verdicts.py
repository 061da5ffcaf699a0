"""Which pairs were found near-equal before, so that added rows cost only their own comparisons.

    FOLDER/NAME/{pairs.parquet, manifest.json}    the pairs that preparation NAME asked about

Ids name content, so a verdict about two ids is true for ever under one threshold and one version of
the code, which FOLDER stands for. Only the newest file is read: it has the pairs of all others that
still matter.
"""

from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from orpo_pipeline.data.relations.near_duplicates import Judge
from orpo_pipeline.data.relations.words import Indices
from orpo_pipeline.stages import MANIFEST, is_complete, new_stage

PAIRS = "pairs.parquet"
SCHEMA = {"first": pl.String, "second": pl.String, "same": pl.Boolean}


class Verdicts:
    """Verdicts that are known, and those that are asked for now."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._known = _newest(folder)
        self._asked = [self._known.clear()]

    def remembering(self, judge: Judge, ids: pl.Series) -> Judge:
        """`judge`, asked only about pairs that are not known; `ids` are the items' ids."""

        def answer(pairs: Indices) -> NDArray[np.bool_]:
            asked = pl.DataFrame(
                {"first": ids.gather(pairs[:, 0]), "second": ids.gather(pairs[:, 1])}
            )
            known = asked.join(
                self._known, on=["first", "second"], how="left", maintain_order="left"
            )["same"]
            new = known.is_null().to_numpy()
            same = known.fill_null(value=False).to_numpy().copy()
            same[new] = judge(pairs[new])
            self._asked.append(asked.with_columns(same=pl.Series(same)))
            return same

        return answer

    def save(self, name: str) -> None:
        """Keep all pairs that were asked about. Raises EnvironmentFault when the disk is full."""
        folder = self._folder / name
        if not is_complete(folder):
            with new_stage(folder) as temporary:
                pl.concat(self._asked).unique(["first", "second"]).write_parquet(temporary / PAIRS)


def _newest(folder: Path) -> pl.DataFrame:
    manifests = sorted(folder.glob(f"[!.]*/{MANIFEST}"), key=lambda path: path.stat().st_mtime_ns)
    for manifest in reversed(manifests):
        if is_complete(manifest.parent):
            return pl.read_parquet(manifest.parent / PAIRS)
    return pl.DataFrame(schema=SCHEMA)
