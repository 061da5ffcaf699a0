"""Ours at several sizes: speed from the first tenth to the last, memory, disk, and added rows."""

import json
import shutil
from pathlib import Path

from measuring import Result, disk_used, run_job, show_table

BEYOND = 0.01  # share of rows that are added
FEWEST_REPORTS = 20  # of rows checked; with fewer a tenth says nothing
COMPARED_UP_TO = 100_000  # rows; beyond only on request, since everything is prepared once more
CHECKED, COMPARING, WRITING = "rows checked", "comparing rows", "writing the prepared pairs"


def prepare_sizes(
    sizes: list[int], common: dict[str, str], work: Path, seed: int, compare_all: bool
) -> list[Result]:
    """One result a size. Each size's files are removed before the next."""
    results = []
    for size in sizes:
        folder = work / f"size-{size}"
        results.append(_prepare_size(size, common, folder, seed, compare_all))
        shutil.rmtree(folder)
    return results


def _prepare_size(
    size: int, common: dict[str, str], folder: Path, seed: int, compare_all: bool
) -> Result:
    source = folder / "source"
    source.mkdir(parents=True)
    # The first file is there from the beginning; its name, which rows carry, stays the same.
    rows, beside, new = source / "rows-0.jsonl", source / "rows-1.jsonl", folder / "new.jsonl"
    files = {"source": str(rows), "more": str(new)}
    beyond = max(1, round(size * BEYOND))
    numbers = {"rows": size, "beyond": beyond, "seed": seed, "readable": False}
    run_job({"kind": "rows", **files, **numbers})

    def prepare(home: str) -> Result:
        return run_job(
            {
                **common,
                "kind": "ours",
                "source": str(source),
                "home": str(folder / home),
                "processes": None,
                "max_length": 1024,
            }
        )

    first = prepare("home")
    found = {"size": size, "bytes": rows.stat().st_size, "first": _phases(first)}
    found["disk"] = disk_used(folder / "home")
    new.rename(beside)
    by_file = prepare("home")
    with rows.open("ab") as file, beside.open("rb") as added:
        shutil.copyfileobj(added, file)
    beside.unlink()
    by_append = prepare("home")
    for name, again in (("new_file", by_file), ("appended", by_append)):
        shares = {f"{what}_share": again[what] / first[what] for what in ("wall", "cpu")}
        found[name] = _phases(again) | shares
    if compare_all or size <= COMPARED_UP_TO:
        fresh = prepare("fresh-home")
        found["fresh"] = _phases(fresh)
        found["equal_to_fresh"] = _manifest(by_append) == _manifest(fresh)
    return found


def _manifest(prepared: Result) -> object:
    """Sizes and SHA-256 of every file of the prepared folder."""
    return json.loads((Path(prepared["folder"]) / "manifest.json").read_text(encoding="utf-8"))


def _phases(prepared: Result) -> Result:
    """Seconds of each phase, and rows/s of the row phase's first and last tenth."""
    starts = {what: at for at, what, _ in prepared["events"] if what in (COMPARING, WRITING)}
    checked = [(at, done) for at, what, done in prepared["events"] if what == CHECKED]
    kept = ("wall", "cpu", "peak_pss", "peak_rss", "rows", "kept", "duplicates", "removed")
    return {name: prepared[name] for name in kept} | {
        "rate": prepared["rows"] / prepared["wall"],
        "rows_seconds": starts[COMPARING],
        "selection_seconds": starts[WRITING] - starts[COMPARING],
        "publication_seconds": prepared["wall"] - starts[WRITING],
        **_tenths(checked),
    }


def _tenths(checked: list[tuple[float, int]]) -> Result:
    """rows/s in the first and in the last tenth of the rows; none where there are few reports.

    Reports come as blocks are handed out. The clock starts when the first ones have been checked:
    until then the processes load the tokenizer.
    """
    if len(checked) < FEWEST_REPORTS:
        return {"first_tenth": None, "last_tenth": None}
    steady = checked[len(checked) // FEWEST_REPORTS + 4 :]
    tenth = max(1, len(steady) // 10)
    return {
        "first_tenth": _rate(steady[0], steady[tenth]),
        "last_tenth": _rate(steady[-1 - tenth], steady[-1]),
    }


def _rate(begin: tuple[float, int], end: tuple[float, int]) -> float:
    return (end[1] - begin[1]) / (end[0] - begin[0])


def show(results: list[Result]) -> None:
    rows, added = [], []
    for result in results:
        one = result["first"]
        tenths = [one["first_tenth"], one["last_tenth"]]
        rows.append(
            (
                f"{result['size']:,}",
                f"{one['wall']:.1f}",
                f"{one['cpu']:.1f}",
                f"{one['rate']:,.0f}",
                *(f"{tenth:,.0f}" if tenth else "-" for tenth in tenths),
                *(f"{one[f'{name}_seconds']:.1f}" for name in ("rows", "selection", "publication")),
                f"{one['peak_pss'] / 2**20:,.0f}",
                f"{one['peak_rss'] / 2**20:,.0f}",
                f"{result['bytes'] / 2**20:,.0f}",
                f"{result['disk'] / 2**20:,.0f}",
            )
        )
        added.append(
            (
                f"{result['size']:,}",
                *(
                    f"{result[how][what]:.1f} ({result[how][f'{what}_share']:.1%})"
                    for how in ("new_file", "appended")
                    for what in ("wall", "cpu")
                ),
                {True: "yes", False: "NO", None: "-"}[result.get("equal_to_fresh")],
            )
        )
    header = (
        "rows",
        "wall s",
        "CPU s",
        "rows/s",
        "first tenth",
        "last tenth",
        "row stage s",
        "selection s",
    )
    sizes = ("publication s", "peak MiB (PSS)", "sum of RSS", "source MiB", "disk MiB")
    show_table("Sizes, a process for each core", (*header, *sizes), rows)
    show_table(
        f"{BEYOND:.0%} new rows: seconds, and their share of the first preparation",
        ("rows", "new file: wall", "CPU", "appended: wall", "CPU", "equal to preparing afresh"),
        added,
    )
