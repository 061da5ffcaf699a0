"""Where a soak takes place: a tiny model, its configuration, a Prefect server; and measures."""

import sqlite3
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import psutil

from orpo_pipeline.base_model import embedded_gguf
from tasks.access.listening import Listening
from tasks.prefect_api import answers
from tasks.process_group import MARKER
from tasks.service_commands import prefect_server_command, server_environment

MODEL = "soak"

Result = dict[str, Any]


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
    """Eight new rows are worth a training; what is not kept goes as soon as it may."""
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
            "min_new_rows": 8,
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
    listening = Listening(prefect_port=port, mlflow_port=port + 1)
    environment = server_environment(home, listening)
    (home / "prefect").mkdir(parents=True, exist_ok=True)
    with (home.parent / "prefect.log").open("w") as log:
        # Without the mark of a run: the cycles' own processes are what is counted.
        environment.pop(MARKER, None)
        server = psutil.Popen(
            prefect_server_command(listening),
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
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


def versions(home: Path) -> int:
    """That are registered."""
    return int(query(home, f"select count(*) from model_versions where name = '{MODEL}'"))


def query(home: Path, statement: str) -> int:
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
