"""Which rows stay, of all rows together: duplicates, prompt groups, leakage, contradictions.

Rules of one row have spoken before, block by block. These look at short columns only; texts are
read again where two rows are to be compared. No rule sees the order of rows or names of files.
"""

from collections.abc import Sequence
from functools import partial

import numpy as np
import polars as pl

from orpo_pipeline.data.block_checks import INDEX
from orpo_pipeline.data.block_store import StoredBlock
from orpo_pipeline.data.prepared_files import EVAL, TRAIN, read_column, read_few_rows
from orpo_pipeline.data.relations.contradictions import contradiction_reasons
from orpo_pipeline.data.relations.near_duplicates import (
    BANDS,
    groups,
    keepers,
    near_duplicate_reasons,
    near_equal_groups,
    verify,
)
from orpo_pipeline.data.relations.repetition import find_duplicates, overrepresented_reasons
from orpo_pipeline.data.relations.splits import (
    EVALUATED,
    EVALUATED_TURN,
    HELD_OUT_BEFORE,
    HELD_OUT_TURN,
    held_out,
    leaking_reasons,
)
from orpo_pipeline.data.relations.verdicts import Verdicts
from orpo_pipeline.data.relations.words import Hashes, Indices
from orpo_pipeline.stages import code_version, fingerprint
from schemas.config import DataConfig
from schemas.pairs import DefectCode

FORGOTTEN = "somebody asked for it to be forgotten (`orpo-pipeline forget`)"

NARROW = (
    *("number", "code", "reason", "notes", "row_id", "prompt_id", "earlier_ids", "source"),
    *("score_chosen", "score_rejected", "prompt_tokens", "chosen_tokens", "rejected_tokens"),
    *("chosen_key", "rejected_key", "chosen_marks", "rejected_marks"),
)
PLACE = ("shard", "position")
ANSWERS = ("prompt_id", "chosen_key", "rejected_key")


def load_rows(blocks: Sequence[StoredBlock]) -> pl.DataFrame:
    """Every row of every block, without texts, tokens and sketches.

    Columns: those of NARROW, shard and position (where the row is stored), origin_file, origin_row,
    and split (the side its file names).
    """
    counts = np.array([block.rows for block in blocks])
    shard = np.repeat(np.arange(len(blocks), dtype=np.uint32), counts)
    of_block = pl.DataFrame(
        {
            "file": [block.file for block in blocks],
            "split": [block.split for block in blocks],
            "before": pl.Series([block.first_row for block in blocks], dtype=pl.Int64),
        }
    )[shard]
    starts = (np.cumsum(counts) - counts)[shard]
    rows = pl.read_parquet(
        [block.folder / INDEX for block in blocks], columns=list(NARROW), glob=False
    )
    return rows.select(
        pl.Series("shard", shard),
        pl.Series("position", np.arange(rows.height) - starts, dtype=pl.UInt32),
        of_block["file"].alias("origin_file"),
        (pl.col("number").cast(pl.Int64) + of_block["before"]).alias("origin_row"),
        of_block["split"],
        pl.exclude("number"),
    )


class Selection:
    """Rows on their way through the rules; each rule takes some out, with a reason."""

    def __init__(
        self,
        rows: pl.DataFrame,
        blocks: Sequence[StoredBlock],
        config: DataConfig,
        verdicts: Verdicts,
    ) -> None:
        """`rows` as `load_rows` gives them."""
        self._blocks = blocks
        self._config = config
        self._verdicts = verdicts
        if config.eval_split is None:
            rows = rows.with_columns(split=_sides(rows["prompt_id"], config.eval_fraction))
        self.rows = rows.with_columns(
            group=pl.lit(None, pl.UInt32),
            duplicate=pl.lit(False),
        )

    def select(self, barred: pl.Series, forgotten: pl.Series) -> pl.DataFrame:
        """The rows with code, reason, split, group and duplicate decided.

        `barred` are prompt ids that may not be trained on, `forgotten` row ids that are left out.
        """
        # Before anything else, so that every copy goes and no other row goes because of it.
        self._leave_out(forgotten)
        self._mark_duplicates()
        self._group_prompts()
        # Also of rows that are out: a prompt stays one of evaluation where its row is too long.
        evaluated = self.rows.filter(pl.col("split") == EVAL)
        self._withhold(
            DefectCode.EVAL_PROMPT_IN_TRAIN,
            (EVALUATED, EVALUATED_TURN),
            evaluated["prompt_id"],
            evaluated["earlier_ids"].explode(),
        )
        self._withhold(DefectCode.HELD_OUT_BEFORE, (HELD_OUT_BEFORE, HELD_OUT_TURN), barred)
        self._group_dialogues()
        self.rows = self.rows.drop("earlier_ids")
        # After leakage: a training row that goes takes no evaluation row with it.
        self._take_out(DefectCode.CONTRADICTION, contradiction_reasons(self._live(*ANSWERS)))
        self._take_out(DefectCode.NEAR_DUPLICATE, self._near_duplicates())
        self._take_out(DefectCode.OVERREPRESENTED_PROMPT, self._overrepresented())
        return self.rows

    def _withhold(
        self,
        code: DefectCode,
        reasons: tuple[str, str],
        prompt_ids: pl.Series,
        earlier_ids: pl.Series | None = None,
    ) -> None:
        """Take out the training rows whose group of prompts has or leaks one of `prompt_ids`.

        A prompt leaks another one where it begins with that or with a nearly equal one, or where
        that begins with it: then it is one of `earlier_ids`, known for prompts of this data only.
        Two that only begin alike ("Hello") are two dialogues.

        Args:
            code: of the rows.
            reasons: of rows that have such a prompt, and of those that are another turn.
            prompt_ids: what must not be trained on.
            earlier_ids: the earlier turns of those.
        """
        live = self._live("prompt_id", "earlier_ids", "split", "group")
        training = live["split"] == TRAIN
        asked = live.select(_among("prompt_id", prompt_ids)).to_series()
        near = live.filter(_among("group", live.filter(asked)["group"]))["prompt_id"]
        begun = live.select("row", id="earlier_ids").explode("id")
        begun = begun.filter(_among("id", pl.concat([prompt_ids, near])))
        turn = _among("row", begun["row"])
        if earlier_ids is not None:
            turn |= _among("prompt_id", earlier_ids)
        turns = live.select(turn).to_series() & training
        of_prompt, of_turn = (
            leaking_reasons(live["group"], training, withheld, reason)
            for withheld, reason in zip((asked, turns), reasons, strict=True)
        )
        self._take_out(code, of_prompt.zip_with(of_prompt.is_not_null(), of_turn))

    def _leave_out(self, row_ids: pl.Series) -> None:
        """Every row with one of these ids, whatever else may be wrong with it."""
        listed = pl.col("row_id").is_in(row_ids.implode())
        self.rows = self.rows.with_columns(
            code=pl.when(listed).then(pl.lit(DefectCode.FORGOTTEN.value)).otherwise("code"),
            reason=pl.when(listed).then(pl.lit(FORGOTTEN)).otherwise("reason"),
        )

    def _live(self, *columns: str) -> pl.DataFrame:
        """These columns of the rows that are still in, and as `row` their numbers among all."""
        live = pl.col("code").is_null() & ~pl.col("duplicate")
        return self.rows.lazy().with_row_index("row").filter(live).select("row", *columns).collect()

    def _take_out(self, code: DefectCode, reasons: pl.Series) -> None:
        """`reasons`: one for each live row that must go, null for the others."""
        live = self._live().with_columns(new_reason=reasons.cast(pl.String))
        found = live.filter(pl.col("new_reason").is_not_null())
        if found.is_empty():
            return
        joined = self.rows.with_row_index("row").join(
            found, on="row", how="left", maintain_order="left"
        )
        new = pl.col("new_reason")
        self.rows = joined.with_columns(
            code=pl.when(new.is_not_null()).then(pl.lit(code.value)).otherwise("code"),
            reason=pl.coalesce(new, "reason"),
        ).drop("row", "new_reason")

    def _mark_duplicates(self) -> None:
        live = self._live("row_id", "split", "origin_file", "origin_row")
        repeated = live.filter(find_duplicates(live))["row"]
        self.rows = self.rows.with_columns(
            duplicate=pl.int_range(pl.len(), dtype=pl.UInt32).is_in(repeated.implode())
        )

    def _near_duplicates(self) -> pl.Series:
        """A reason for each live row that says nearly what another one of its split says."""
        live = self._live("row_id", "split", *PLACE)
        order = _ranks(live["row_id"])
        # The sides' numbers keep an evaluation row from standing for a training row.
        judge = self._verdicts.remembering(partial(self._same_rows, live), live["row_id"])
        labels = near_equal_groups(self._bands(live, "pair_bands"), order, judge)
        sides = (live["split"] == EVAL).to_numpy()
        return near_duplicate_reasons(keepers(labels * 2 + sides, order), live["row_id"])

    def _same_rows(self, live: pl.DataFrame, pairs: Indices) -> np.ndarray:
        """Which pairs are near-equal in prompt, chosen and rejected, each by itself.

        Together a long prompt would outweigh answers that differ.
        """
        same = np.arange(len(pairs))
        for side in ("chosen", "rejected", "prompt"):
            texts_of = partial(self._texts, live, side=side)
            same = same[verify(pairs[same], texts_of, self._config.near_duplicates)]
        return np.isin(np.arange(len(pairs)), same)

    def _overrepresented(self) -> pl.Series:
        live = self._live("row_id", "prompt_id")
        return overrepresented_reasons(live, self._config.max_pairs_per_prompt)

    def _group_prompts(self) -> None:
        """Number the groups of equal and near-equal prompts of the live rows."""
        live = self._live("prompt_id", *PLACE)
        prompts = live.unique("prompt_id", keep="first").sort("prompt_id")
        texts_of = partial(self._texts, prompts, side="prompt")
        same = partial(verify, texts_of=texts_of, threshold=self._config.near_duplicates)
        judge = self._verdicts.remembering(same, prompts["prompt_id"])
        bands = self._bands(prompts, "prompt_bands")
        labels = near_equal_groups(bands, np.arange(prompts.height), judge)
        numbered = prompts.select("prompt_id", group=pl.Series(labels.astype(np.uint32)))
        self.rows = self.rows.drop("group").join(
            numbered, on="prompt_id", how="left", maintain_order="left"
        )

    def _group_dialogues(self) -> None:
        """Join the groups of live rows one of whose prompts begins with the other.

        Pairs of one dialogue are no independent evidence, as those of one prompt are not.
        """
        live = self._live("prompt_id", "earlier_ids", "group")
        group_of = live.unique("prompt_id").select("prompt_id", other="group")
        begun = live.select("group", prompt_id="earlier_ids").explode("prompt_id")
        edges = begun.join(group_of, on="prompt_id").select("group", "other").unique()
        if edges.is_empty():
            return
        labels = groups(self.rows.height, edges.to_numpy())
        joined = pl.lit(pl.Series(labels.astype(np.uint32))).gather(pl.col("group"))
        self.rows = self.rows.with_columns(group=joined)

    def _bands(self, some: pl.DataFrame, column: str) -> Hashes:
        """Band hashes (n, BANDS) of rows, read from their shards."""
        joined = b"".join(read_column(self._blocks, INDEX, column, some))
        return np.frombuffer(joined, dtype="<u8").reshape(-1, BANDS)

    def _texts(self, some: pl.DataFrame, items: Indices, side: str) -> list[str]:
        """One side's texts of rows, as `checking.conversation_text` makes them."""
        places = some[items].select("shard", "position").with_row_index("item")
        turn = pl.element().struct
        spoken = turn.field("content").filter(turn.field("role") != "system")
        content = pl.col(side).list.eval(spoken).list.join("\n")
        parts = [
            read_few_rows(self._blocks[int(str(number))].folder, part["position"], (side,)).select(
                item=part["item"], text=content
            )
            for (number,), part in places.group_by("shard")
        ]
        if not parts:
            return []
        return pl.concat(parts).sort("item")["text"].to_list()


def _sides(prompt_ids: pl.Series, fraction: float) -> pl.Series:
    """The split of each row by its prompt; rows that are no pair count with the training rows."""
    known = prompt_ids.is_not_null()
    evaluation = np.zeros(len(prompt_ids), dtype=np.bool_)
    evaluation[known.to_numpy()] = held_out(prompt_ids.drop_nulls(), fraction).to_numpy()
    return pl.select(
        pl.when(pl.lit(pl.Series(evaluation))).then(pl.lit(EVAL)).otherwise(pl.lit(TRAIN))
    ).to_series()


def _among(column: str, values: pl.Series) -> pl.Expr:
    return pl.col(column).is_in(values.drop_nulls().unique().implode())


def _ranks(ids: pl.Series) -> Indices:
    return (ids.rank("ordinal").to_numpy() - 1).astype(np.int64)


def comparison_settings(config: DataConfig) -> str:
    """Names what decides, besides their texts, whether two rows are near-equal."""
    return fingerprint({"threshold": config.near_duplicates, "code": code_version(__name__)})
