"""Many retrainings one after another, with kill -9 at random moments: is anything lost?

python benchmarks/soak.py --cycles 200 --seed 1 --output build/soak

Each cycle is a day: data arrives (benchmarks/feed.py), and `orpo-pipeline retrain` is called until
it succeeds, as a scheduler would call it. In some cycles the flow's process, or the process of the
stage that it runs, is killed at a moment that the seed decides. Model and training are tiny.
After each cycle: one more version, or a skip with its reason; no row is lost; no MLflow run is
RUNNING; no process and no lock is left. Disk, memory and seconds go to OUTPUT/cycles.jsonl and to
the figure. One Prefect server serves the cycles, as `make up` would. Called again with the same
OUTPUT it goes on after the last cycle.
"""

import argparse
import fcntl
import json
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
import yaml
from feed import Feed
from soak_figure import draw, summarise
from soak_site import (
    MODEL,
    Result,
    configuration,
    prefect_server,
    query,
    sizes,
    versions,
    write_model,
)

from orpo_pipeline.data.explanation import prepared_folders
from orpo_pipeline.data.publication import RECORD
from orpo_pipeline.retention.use import LOCK
from orpo_pipeline.retraining.watermark import read_watermark
from tasks.process_group import find_processes

ATTEMPTS = 8  # a cycle; more means that it cannot recover
CYCLE_SECONDS = 1500.0
ENDING_SECONDS = 15.0  # for processes of a killed run to notice
FIGURE = Path(__file__).parents[1] / "docs" / "images" / "soak.png"
VICTIMS = ("flow", "stage")


class Lost(AssertionError):
    """What a soak looks for."""


@dataclass
class Soak:
    """One state folder, its feed, and the chance of a kill."""

    folder: Path
    home: Path
    config: Path
    environment: dict[str, str]
    feed: Feed
    seed: int
    kill_share: float
    server: psutil.Process
    usual_seconds: float = 40.0

    def cycle(self, day: int) -> Result:
        """One day. Raises Lost when something is not as it must be."""
        arrived = self.feed.next_day(day)
        before = versions(self.home)
        chance = random.Random(f"{self.seed} {day}")
        started, kills, peak, output = time.monotonic(), [], 0, ""
        for attempt in range(ATTEMPTS):
            plan = self._next_kill(chance) if attempt < 3 else None
            code, output, killed, rss = self._retrain(plan)
            kills += [killed] if killed else []
            peak = max(peak, rss)
            if code == 0:
                break
        else:
            raise Lost(f"day {day}: {ATTEMPTS} attempts failed; the last said:\n{output}")
        seconds = time.monotonic() - started
        if not kills:
            self.usual_seconds = 0.8 * self.usual_seconds + 0.2 * seconds
        trained = "trains:" in output
        self._check(day, trained, output, versions(self.home) - before)
        return {
            "day": day,
            "trained": trained,
            "kills": kills,
            "attempts": attempt + 1,
            "seconds": round(seconds, 1),
            "peak_rss": peak,
            "server_rss": _rss(self.server),
            "versions": versions(self.home),
            "rows": self.feed.rows(),
            **arrived,
            **sizes(self.home),
        }

    def _next_kill(self, chance: random.Random) -> tuple[str, float] | None:
        """Whom to kill, and how many seconds after the start."""
        share, victim = chance.random(), chance.choice(VICTIMS)
        after = chance.random() * self.usual_seconds
        return (victim, after) if share < self.kill_share else None

    def _retrain(self, kill: tuple[str, float] | None) -> tuple[int, str, str, int]:
        """Exit code, output, what was killed, and the most memory of its processes together."""
        command = [sys.executable, "-m", "flows", "retrain", "--config", str(self.config)]
        log = self.folder / "output.txt"
        with log.open("w") as output:
            process = psutil.Popen(
                command, env=self.environment, stdout=output, stderr=subprocess.STDOUT
            )
        started, killed, peak = time.monotonic(), "", 0
        try:
            while process.poll() is None:
                time.sleep(0.25)
                family = [process, *_children(process)]
                peak = max(peak, sum(map(_rss, family)))
                elapsed = time.monotonic() - started
                if kill and not killed and elapsed >= kill[1]:
                    killed = _kill(kill[0], process, elapsed)
                if elapsed > CYCLE_SECONDS:
                    raise Lost(f"a retraining did not end in {CYCLE_SECONDS:.0f} s")
        finally:
            if process.poll() is None:
                process.kill()
        return process.returncode, log.read_text(errors="replace"), killed, peak

    def _check(self, day: int, trained: bool, output: str, more: int) -> None:
        if more != int(trained):
            raise Lost(f"day {day}: {more} more versions, and trained is {trained}:\n{output}")
        if not trained and "skipped:" not in output:
            raise Lost(f"day {day}: neither trained nor skipped:\n{output}")
        self._check_rows(day, trained)
        running = query(self.home, "select count(*) from runs where status = 'RUNNING'")
        if running:
            raise Lost(f"day {day}: {running} MLflow runs are RUNNING")
        deadline = time.monotonic() + ENDING_SECONDS
        while left := self._left_behind():
            if time.monotonic() > deadline:
                raise Lost(f"day {day}: left behind: {left}")
            time.sleep(0.5)

    def _left_behind(self) -> list[str]:
        """Processes of a retraining that has ended, and locks that one of them holds."""
        left = [_command(process) for process in find_processes(self.home, lambda _: True)]
        for lock in (self.home / LOCK, *self.home.glob("training/*/lock")):
            with lock.open("r+") as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    left.append(str(lock))
        return left

    def _check_rows(self, day: int, trained: bool) -> None:
        newest = prepared_folders(self.home)[0]
        record = json.loads((newest / RECORD).read_text(encoding="utf-8"))
        kept = record["train_pairs"] + record["eval_pairs"]
        accounted = kept + sum(record["quarantined"].values()) + record["duplicates"]
        if not self.feed.rows() == record["rows_in"] == accounted:
            raise Lost(f"day {day}: {self.feed.rows()} rows were fed, {record}")
        if trained:
            last = read_watermark(self.home, MODEL)
            seen = {one.hex() for one in last.rows["row_id"]} if last else set()
            if missing := self.feed.row_ids() - seen:
                raise Lost(f"day {day}: {len(missing)} fed rows are not in the watermark")


def _children(process: psutil.Process) -> list[psutil.Process]:
    try:
        return list(process.children(recursive=True))
    except psutil.Error:
        return []


def _rss(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.Error:
        return 0


def _kill(victim: str, flow: psutil.Process, elapsed: float) -> str:
    """Kill the flow, or the process of its stage as soon as there is one; what was killed."""
    stages = [p for p in _children(flow) if "orpo_pipeline.worker" in _command(p)]
    targets = stages if victim == "stage" else [flow]
    try:
        for target in targets[:1]:
            kind = _kind(target)
            target.send_signal(signal.SIGKILL)
            return f"{kind} after {elapsed:.0f} s"
    except (psutil.Error, FileNotFoundError):  # it has just ended
        pass
    return ""


def _kind(process: psutil.Process) -> str:
    """flow; or train, prepare, evaluate: the job's file says it."""
    job = next((word for word in process.cmdline() if word.endswith("job.json")), None)
    return json.loads(Path(job).read_text())["kind"] if job else "flow"


def _command(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def main() -> None:
    given = _arguments()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends its server, too
    given.output.mkdir(parents=True, exist_ok=True)
    results = given.output / "cycles.jsonl"
    folder = given.output.resolve() / "work"
    landing, home, config = folder / "landing", folder / "home", folder / "config.yaml"
    done = len(results.read_text().splitlines()) if results.is_file() else 0
    if not done:
        shutil.rmtree(folder, ignore_errors=True)
        landing.mkdir(parents=True)
        write_model(folder / "model")
        config.write_text(yaml.safe_dump(configuration(landing, folder / "model")))
    feed = Feed(landing, random.Random(given.seed))
    for day in range(1, done + 1):
        feed.next_day(day)
    with prefect_server(home, given.port) as (server, environment):
        soak = Soak(folder, home, config, environment, feed, given.seed, given.kill_share, server)
        _run(soak, given, results, done)
    rows = [json.loads(line) for line in results.read_text().splitlines()]
    print(summarise(rows))
    draw(rows, given.figure)


def _run(soak: Soak, given: argparse.Namespace, results: Path, done: int) -> None:
    deadline = time.monotonic() + given.minutes * 60
    for day in range(done + 1, given.cycles + 1):
        if time.monotonic() > deadline:
            print(f"{given.minutes} minutes are over after {day - 1} cycles", flush=True)
            return
        result = soak.cycle(day)
        with results.open("a", encoding="utf-8") as file:
            file.write(json.dumps(result) + "\n")
        print(json.dumps(result), flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--cycles", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kill-share", type=float, default=0.3, help="Of attempts.")
    parser.add_argument(
        "--minutes",
        type=float,
        default=600,
        help="No cycle begins after that; call it again to go on.",
    )
    parser.add_argument("--port", type=int, default=4317, help="Of the Prefect server.")
    parser.add_argument("--output", type=Path, default=Path("build/soak"))
    parser.add_argument("--figure", type=Path, default=FIGURE)
    return parser.parse_args()


if __name__ == "__main__":
    main()
