"""The same rows through TRL's preparation and through ours: time, CPU seconds, token ids."""

from collections import Counter
from pathlib import Path
from typing import Any

import polars as pl
from measuring import ONE_THREAD, Result, median, run_job, show_table
from trl_maps import IDS

MAX_LENGTH = 1024
SIDES = ("prompt", "chosen", "rejected")
VARIANTS: tuple[tuple[str, str, int, dict[str, str]], ...] = (
    ("TRL, 1 process", "trl", 1, {}),
    ("ours, 1 process", "ours", 1, {}),
    ("ours, 1 process, 1 thread", "ours", 1, ONE_THREAD),
    ("TRL, 2 processes", "trl", 2, {}),
    ("ours, 2 processes", "ours", 2, {}),
)
"""Without ONE_THREAD each side has the threads that it has for its user: ours the tokenizer's,
which encodes batches; TRL has none to use, since it encodes text by text."""
RATIOS = (
    ("ours, 1 process", "TRL, 1 process", 8.0),
    ("ours, 1 process, 1 thread", "TRL, 1 process", None),
    ("ours, 2 processes", "TRL, 2 processes", 4.0),
)

EQUAL, UNEXPLAINED = "equal", "unexplained"
REPAIRS = ("characters_repaired", "secret_redacted", "personal_data_redacted")


def compare_with_trl(source: Path, common: dict[str, str], work: Path, rounds: int) -> Result:
    """A B C, A B C, ...: medians of each, their ratios, and the ids of the first round.

    `common`: the job's warm rows and model.
    """
    runs: dict[str, list[Result]] = {name: [] for name, *_ in VARIANTS}
    for number in range(rounds):
        for place, (name, kind, processes, environment) in enumerate(VARIANTS):
            own = work / f"{number}-{place}"
            job: Result = {
                **common,
                "kind": kind,
                "source": str(source),
                "processes": processes,
                "max_length": MAX_LENGTH,
                "home": str(own / "home"),
                "cache": str(own / "cache"),
            }
            if number == 0 and kind == "trl" and processes == 1:
                job["ids"] = str(work / "trl-ids.parquet")
            runs[name].append(run_job(job, environment))
    summary = {name: _summary(results) for name, results in runs.items()}
    prepared = Path(runs["ours, 1 process"][0]["folder"])
    return {
        "source": source.name,
        "max_length": MAX_LENGTH,
        "variants": summary,
        "ids": compare_ids(work / "trl-ids.parquet", prepared),
        "ratios": {
            f"{ours} / {theirs}": {
                "rows_per_second": summary[ours]["rate"] / summary[theirs]["rate"],
                "cpu_seconds": summary[theirs]["cpu"] / summary[ours]["cpu"],
                "wanted": wanted,
            }
            for ours, theirs, wanted in RATIOS
        },
    }


def _summary(results: list[Result]) -> Result:
    wall = median([result["wall"] for result in results])
    return {
        "rows": results[0]["rows"],
        "wall": wall,
        "cpu": median([result["cpu"] for result in results]),
        "rate": results[0]["rows"] / wall,
        "walls": [result["wall"] for result in results],
        "peak_pss": max(result["peak_pss"] for result in results),
    }


def compare_ids(trl: Path, prepared: Path) -> dict[str, int]:
    """For every row that we keep, whether TRL has the same ids, or else why not."""
    theirs = pl.read_parquet(trl, glob=False)
    return dict(Counter(_difference(*row) for row in _aligned(theirs, prepared)))


def _aligned(theirs: pl.DataFrame, prepared: Path) -> Any:
    """Of every row kept by us: our ids, TRL's ids, the notes, control tokens; row by row."""
    from orpo_pipeline.data.prepared_files import TOKEN_COLUMNS, read_shard_rows, shard_name

    kept = pl.concat(
        pl.read_parquet(
            prepared / f"{split}.parquet", columns=["shard", "position", "origin_row"], glob=False
        )
        for split in ("train", "eval")
    )
    for (number,), part in kept.group_by("shard", maintain_order=True):
        shard = prepared / "shards" / shard_name(int(str(number)))
        ours = read_shard_rows(shard, part["position"], TOKEN_COLUMNS)
        index = pl.read_parquet(shard / "index.parquet", columns=["notes"], glob=False)[
            part["position"]
        ]
        other = theirs[part["origin_row"].cast(pl.Int64) - 1]
        for mine, his, (notes,) in zip(
            ours.iter_rows(), other.select(IDS).iter_rows(), index.iter_rows(), strict=True
        ):
            yield mine, his, {note["code"] for note in notes}


def _difference(ours: tuple[list[int], ...], theirs: tuple[list[int], ...], notes: set[str]) -> str:
    prompt, whole = theirs[0], theirs[1:]
    answers = tuple(ids[len(prompt) :] for ids in whole)
    if (prompt, *answers) == ours:
        return EQUAL
    for code in ("control_token_neutralised", "boundary_kept", *REPAIRS):
        if code in notes:
            return f"ours: {code}"
    if prompt != ours[0]:
        if ours[0][: len(prompt)] == prompt or prompt[: len(ours[0])] == ours[0]:
            return "TRL cuts the prompt elsewhere (at the first character in which answers differ)"
        return "TRL applies no chat template (it takes transcripts for plain text)"
    trimmed = [_through_end(theirs, ours) for theirs, ours in zip(answers, ours[1:], strict=True)]
    if all(trimmed):
        return "equal up to the end of turn; TRL trains on a line end and a second end behind it"
    if any(len(ids) >= MAX_LENGTH for ids in whole):
        return "TRL cut the answer for what it had put behind the end of turn"
    return UNEXPLAINED


def _through_end(theirs: list[int], ours: list[int]) -> bool:
    """Whether TRL's answer is ours and, behind its end of turn, a little more."""
    return theirs[: len(ours)] == ours and len(theirs) - len(ours) <= 2


def show(result: Result) -> None:
    rows = [
        (
            name,
            f"{one['rate']:,.0f}",
            f"{one['wall']:.2f}",
            f"{one['cpu']:.2f}",
            f"{one['peak_pss'] / 2**20:,.0f}",
            " ".join(f"{wall:.2f}" for wall in one["walls"]),
        )
        for name, one in result["variants"].items()
    ]
    count = next(iter(result["variants"].values()))["rows"]
    header = ("", "rows/s", "wall s", "CPU s", "peak MiB (PSS)", "all walls")
    show_table(f"Against TRL: {result['source']}, {count:,} rows, medians", header, rows)
    ids = sorted(result["ids"].items(), key=lambda item: -item[1])
    show_table(
        "Token ids of the rows that both keep", ("", "rows"), [(k, f"{n:,}") for k, n in ids]
    )


def show_ratios(result: Result) -> None:
    rows = [
        (
            name,
            f"{ratio['rows_per_second']:.1f}x",
            f"{ratio['cpu_seconds']:.1f}x",
            f"{ratio['wanted']:.0f}x" if ratio["wanted"] else "",
        )
        for name, ratio in result["ratios"].items()
    ]
    show_table(f"Ratios: {result['source']}", ("", "rows/s", "CPU seconds saved", "wanted"), rows)
