"""Many retrainings one after another, with kill -9 at random moments: is anything lost?

python benchmarks/soak.py --cycles 200 --seed 1 --output build/soak

Each cycle is a day: data arrives (benchmarks/feed.py), and `orpo-pipeline retrain` is called until
it succeeds, as a scheduler would call it. In some cycles the flow's process, or the process of the
stage that it runs, is killed at a moment that the seed decides. Model and training are tiny.
After each cycle: one more version, or a skip with its reason; no row is lost; no MLflow run is
RUNNING; no process and no lock is left. Disk, memory and seconds go to OUTPUT/cycles.jsonl and to
the figure. One Prefect server serves all cycles, as `make up` would.
"""

import argparse
import fcntl
import json
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import yaml
from feed import Feed
from soak_figure import draw, summarise

from orpo_pipeline.base_model import embedded_gguf
from orpo_pipeline.data.explanation import prepared_folders
from orpo_pipeline.data.publication import RECORD
from orpo_pipeline.retention.use import LOCK
from orpo_pipeline.retraining.watermark import read_watermark
from tasks.prefect_api import answers
from tasks.process_group import MARKER, find_processes
from tasks.service_commands import prefect_server_command, server_environment

MODEL = "soak"
ATTEMPTS = 8  # a cycle; more means that it cannot recover
CYCLE_SECONDS = 1500.0
ENDING_SECONDS = 15.0  # for processes of a killed run to notice
FIGURE = Path(__file__).parents[1] / "docs" / "images" / "soak.png"
VICTIMS = ("flow", "stage")

Result = dict[str, Any]


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
    random: random.Random
    kill_share: float
    server: psutil.Process
    usual_seconds: float = 40.0

    def cycle(self, day: int) -> Result:
        """One day. Raises Lost when something is not as it must be."""
        arrived = self.feed.next_day(day)
        before = versions(self.home)
        started, kills, peak, output = time.monotonic(), [], 0, ""
        for attempt in range(ATTEMPTS):
            plan = self._next_kill() if attempt < 3 else None
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

    def _next_kill(self) -> tuple[str, float] | None:
        """Whom to kill, and how many seconds after the start."""
        chance, victim = self.random.random(), self.random.choice(VICTIMS)
        after = self.random.random() * self.usual_seconds
        return (victim, after) if chance < self.kill_share else None

    def _retrain(self, kill: tuple[str, float] | None) -> tuple[int, str, str, int]:
        """Exit code, output, what was killed, and the most memory of its processes together."""
        command = [sys.executable, "-m", "flows", "retrain", "--config", str(self.config)]
        log = self.folder / "output.txt"
        with log.open("w") as output:
            process = psutil.Popen(
                command, env=self.environment, stdout=output, stderr=subprocess.STDOUT
            )
        started, killed, peak = time.monotonic(), "", 0
        while process.poll() is None:
            time.sleep(0.25)
            family = [process, *_children(process)]
            peak = max(peak, sum(map(_rss, family)))
            elapsed = time.monotonic() - started
            if kill and not killed and elapsed >= kill[1]:
                killed = _kill(kill[0], process, elapsed)
            if elapsed > CYCLE_SECONDS:
                process.kill()
                raise Lost(f"a retraining did not end in {CYCLE_SECONDS:.0f} s")
        return process.returncode, log.read_text(errors="replace"), killed, peak

    def _check(self, day: int, trained: bool, output: str, more: int) -> None:
        if more != int(trained):
            raise Lost(f"day {day}: {more} more versions, and trained is {trained}:\n{output}")
        if not trained and "skipped:" not in output:
            raise Lost(f"day {day}: neither trained nor skipped:\n{output}")
        self._check_rows(day, trained)
        running = _query(self.home, "select count(*) from runs where status = 'RUNNING'")
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


def versions(home: Path) -> int:
    """That are registered."""
    return int(_query(home, f"select count(*) from model_versions where name = '{MODEL}'"))


def _query(home: Path, statement: str) -> int:
    database = home / "mlflow" / "mlflow.db"
    if not database.exists():
        return 0
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=60)) as connection:
        try:
            return int(connection.execute(statement).fetchone()[0])
        except sqlite3.OperationalError:  # its tables are not there yet
            return 0


def sizes(home: Path) -> dict[str, int]:
    """Bytes on the disk by what they are for; a file with several links counts once."""
    groups = {"mlflow/artifacts": "artifacts", "mlflow": "mlflow_db", "prefect": "prefect"}
    found = dict.fromkeys(("stages", "lineage", "logs", *groups.values()), 0)
    seen: set[int] = set()
    for path in home.rglob("*"):
        name = path.relative_to(home).as_posix()
        try:
            status = path.lstat()
        except FileNotFoundError:  # a database's journal
            continue
        if not path.is_file() or status.st_ino in seen:
            continue
        seen.add(status.st_ino)
        first = name.partition("/")[0]
        group = next((g for p, g in groups.items() if name.startswith(f"{p}/")), first)
        found[group if group in found else "stages"] += status.st_size
    return found


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
    """Kill the flow, or the process of its stage where there is one now; what was killed."""
    stages = [p for p in _children(flow) if "orpo_pipeline.worker" in _command(p)]
    target = stages[0] if victim == "stage" and stages else flow
    kind = "stage" if target is not flow else "flow"
    try:
        target.send_signal(signal.SIGKILL)
    except psutil.Error:
        return ""
    return f"{kind} after {elapsed:.0f} s"


def _command(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def write_model(folder: Path) -> None:
    """A 2-layer Llama of random weights with the embedded model's tokenizer."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    gguf = embedded_gguf()
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    tokenizer.pad_token = "<|endoftext|>"
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": True}
    special = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id")}
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=len(tokenizer), **sizes, **heads, **special)
    config.pad_token_id = tokenizer.pad_token_id
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def configuration(landing: Path, model: Path) -> Result:
    """Four new rows are worth a training; what is not kept goes as soon as it may."""
    return {
        "data": {"eval_fraction": 0.3},
        "chat": {"max_length": 128},
        "model": {"base_model": str(model), "quantization": "none"},
        "lora": {"r": 4},
        "training": {"max_steps": 6, "batch_size": 4, "save_steps": 2, "learning_rate": 0.01},
        "evaluation": {"generations": 1, "max_new_tokens": 4, "samples": 0, "drift_pairs": 4},
        "gate": {"min_groups": 10},
        "registry": {"model_name": MODEL, "experiment": MODEL},
        "retraining": {
            "sources": [{"kind": "files", "name": "landing", "path": str(landing)}],
            "min_new_rows": 4,
        },
        "retention": {
            "keep_versions": 3,
            "keep_looks": 2,
            "unfinished_days": 0.02,
            "registered_adapters": "delete",
            "log_megabytes": 0.25,
        },
    }


@contextmanager
def prefect_server(home: Path, port: int) -> Iterator[tuple[psutil.Process, dict[str, str]]]:
    """A Prefect server on the state folder, and the environment of runs that use it."""
    environment = server_environment(home, port)
    (home / "prefect").mkdir(parents=True)
    with (home.parent / "prefect.log").open("w") as log:
        # Without the mark of a run: the cycles' own processes are what is counted.
        environment.pop(MARKER, None)
        server = psutil.Popen(
            prefect_server_command(port), env=environment, stdout=log, stderr=subprocess.STDOUT
        )
    try:
        deadline = time.monotonic() + 240
        while not answers(f"{environment['PREFECT_API_URL']}/health"):
            if time.monotonic() > deadline or server.poll() is not None:
                raise SystemExit("The Prefect server did not start: see prefect.log")
            time.sleep(0.5)
        yield server, {**environment, "ORPO_HOME": str(home), "OMP_NUM_THREADS": "1"}
    finally:
        server.terminate()
        server.wait(30)


def main() -> None:
    given = _arguments()
    given.output.mkdir(parents=True, exist_ok=True)
    results = given.output / "cycles.jsonl"
    results.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory(prefix="soak-") as name:
        folder = Path(name)
        landing = folder / "landing"
        landing.mkdir()
        write_model(folder / "model")
        config = folder / "config.yaml"
        config.write_text(yaml.safe_dump(configuration(landing, folder / "model")))
        home = folder / "home"
        home.mkdir()
        with prefect_server(home, given.port) as (server, environment):
            chance = random.Random(given.seed)
            feed = Feed(landing, random.Random(given.seed + 1))
            soak = Soak(folder, home, config, environment, feed, chance, given.kill_share, server)
            _run(soak, given, results)
    rows = [json.loads(line) for line in results.read_text().splitlines()]
    print(summarise(rows))
    draw(rows, given.figure)


def _run(soak: Soak, given: argparse.Namespace, results: Path) -> None:
    deadline = time.monotonic() + given.minutes * 60
    for day in range(1, given.cycles + 1):
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
    parser.add_argument("--minutes", type=float, default=600, help="No cycle begins after that.")
    parser.add_argument("--port", type=int, default=4317, help="Of the Prefect server.")
    parser.add_argument("--output", type=Path, default=Path("build/soak"))
    parser.add_argument("--figure", type=Path, default=FIGURE)
    return parser.parse_args()


if __name__ == "__main__":
    main()
