"""What a soak found, in words and as a figure: `python benchmarks/soak_figure.py CYCLES.jsonl`."""

import json
import statistics
import sys
from collections import Counter
from pathlib import Path
from typing import Any

MIB = 2**20
DISK = {
    "stages": "stages (pruned)",
    "artifacts": "MLflow's artifacts",
    "mlflow_db": "MLflow's database",
    "prefect": "Prefect's database",
}

Rows = list[dict[str, Any]]


def summarise(rows: Rows) -> str:
    """A few lines: what was done, and how disk and memory went on after the first quarter."""
    kills = [kill for row in rows for kill in row["kills"]]
    trained = sum(row["trained"] for row in rows)
    lines = [
        f"{len(rows)} cycles: {trained} trained, {len(rows) - trained} skipped; "
        f"{len(kills)} kills ({_by_kind(kills)}); "
        f"{sum(row['attempts'] for row in rows)} attempts; {rows[-1]['versions']} versions",
    ]
    for key, label in DISK.items():
        first, last = rows[len(rows) // 4][key] / MIB, rows[-1][key] / MIB
        most = max(row[key] for row in rows) / MIB
        lines.append(
            f"{label}: {first:.1f} MiB at a quarter, {last:.1f} at the end, most {most:.1f}"
        )
    half = len(rows) // 2
    for name, part in (("first", rows[:half]), ("second", rows[half:])):
        peaks = [row["peak_rss"] / MIB for row in part if row["trained"]]
        seconds = [row["seconds"] for row in part if not row["kills"]]
        if peaks and seconds:
            lines.append(
                f"{name} half: median peak {statistics.median(peaks):.0f} MiB, "
                f"median {statistics.median(seconds):.0f} s a cycle without a kill"
            )
    return "\n".join(lines)


def _by_kind(kills: list[str]) -> str:
    """`flow 12, train 5`."""
    counts = Counter(kill.partition(" ")[0] for kill in kills)
    return ", ".join(f"{kind} {count}" for kind, count in counts.most_common())


def draw(rows: Rows, path: Path) -> None:
    """Disk, memory and seconds over the cycles; kills are marked."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 9), layout="constrained")
    disk, memory, time = figure.subplots(3, sharex=True)
    days = [row["day"] for row in rows]
    for key, label in DISK.items():
        disk.plot(days, [row[key] / MIB for row in rows], label=label)
    disk.set(ylabel="MiB on the disk", ylim=(0, None))
    trained = [row for row in rows if row["trained"]]
    peaks = [row["peak_rss"] / MIB for row in trained]
    memory.plot([row["day"] for row in trained], peaks, ".-", label="flow and stages, peak")
    memory.plot(days, [row["server_rss"] / MIB for row in rows], label="Prefect's server")
    memory.set(ylabel="MiB of memory (RSS)", ylim=(0, None))
    time.plot(days, [row["seconds"] for row in rows], ".-", label="a cycle, all attempts")
    killed = [row for row in rows if row["kills"]]
    marks = [row["day"] for row in killed], [row["seconds"] for row in killed]
    time.plot(*marks, "x", color="tab:red", label="with kill -9")
    time.set(ylabel="seconds", xlabel="cycle", ylim=(0, None))
    for plot in (disk, memory, time):
        plot.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    found = [json.loads(line) for line in Path(sys.argv[1]).read_text().splitlines()]
    print(summarise(found))
    draw(found, Path(sys.argv[1]).with_suffix(".png"))
