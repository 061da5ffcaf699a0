"""Which pairs were found near-equal before, so that added rows cost only their own comparisons.

    FOLDER/NAME/{pairs.parquet, manifest.json}    the pairs that preparation NAME asked about

Ids name content, so a verdict about two ids is true for ever under one threshold and one version of
the code, which FOLDER stands for. A preparation's file has every pair that it asked about, those
that were known, too; the files of the last few are kept, so that several sources may take turns.
"""

import shutil
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from orpo_pipeline.data.relations.near_duplicates import Judge
from orpo_pipeline.data.relations.words import Indices
from orpo_pipeline.stages import MANIFEST, is_complete, new_stage

PAIRS = "pairs.parquet"
KEPT = 4  # preparations
SCHEMA = {"first": pl.String, "second": pl.String, "same": pl.Boolean}


class Verdicts:
    """Verdicts that are known, and those that are asked for now."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._known = _known(folder)
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
        for old in _newest_first(self._folder)[KEPT:]:
            shutil.rmtree(old, ignore_errors=True)


def _known(folder: Path) -> pl.DataFrame:
    found = [
        pl.read_parquet(one / PAIRS, glob=False)
        for one in _newest_first(folder)[:KEPT]
        if is_complete(one)
    ]
    return pl.concat([pl.DataFrame(schema=SCHEMA), *found]).unique(["first", "second"])


def _newest_first(folder: Path) -> list[Path]:
    manifests = folder.glob(f"[!.]*/{MANIFEST}")
    aged = sorted(((path.stat().st_mtime_ns, path.parent) for path in manifests), reverse=True)
    return [parent for _, parent in aged]
