"""What the code never does, and names that cannot lead out of the state folder."""

import ast
import importlib.util
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from schemas.config import RegistryConfig, RunConfig
from tasks.tracking import Tracker

ROOT = Path(__file__).parents[1]
CODE = [
    path
    for folder in ("flows", "tasks", "orpo_pipeline", "schemas", "benchmarks")
    for path in sorted((ROOT / folder).rglob("*.py"))
]

RUNS_CODE_WHEN_READ = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
READ_AS_PATTERNS = {"pl.read_parquet", "pl.scan_parquet"}
NEVER_CALLED = {"eval", "exec", "yaml.load", "yaml.unsafe_load", "os.system", "os.popen"}


def dotted(node: ast.AST) -> str:
    """`a.b.c` of an expression that is one; else an empty text."""
    if isinstance(node, ast.Attribute):
        base = dotted(node.value)
        return f"{base}.{node.attr}" if base else ""
    return node.id if isinstance(node, ast.Name) else ""


def constant(call: ast.Call, name: str) -> Any:
    """The value of a keyword that is written out; None when it is missing or computed."""
    values = [word.value for word in call.keywords if word.arg == name]
    return values[0].value if values and isinstance(values[0], ast.Constant) else None


def faults(tree: ast.AST) -> Iterator[str]:
    """Why code that was read from outside could be run by this module, or a path misread."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names]
            roots = {name.split(".")[0] for name in [*names, getattr(node, "module", None) or ""]}
            yield from (f"imports {name}" for name in roots & RUNS_CODE_WHEN_READ)
        if not isinstance(node, ast.Call):
            continue
        name = dotted(node.func)
        words = {word.arg for word in node.keywords}
        if name in NEVER_CALLED:
            yield f"calls {name}"
        if name == "torch.load" and constant(node, "weights_only") is not True:
            yield "torch.load without weights_only=True"
        if "trust_remote_code" in words and constant(node, "trust_remote_code") is not False:
            yield "trust_remote_code is not False"
        if "shell" in words and constant(node, "shell") is not False:
            yield "a command through a shell"
        if "allow_pickle" in words and constant(node, "allow_pickle") is not False:
            yield "allow_pickle is not False"
        if name in READ_AS_PATTERNS and constant(node, "glob") is not False:
            yield f"{name} takes a [ in the folder's name for a pattern"


def test_nothing_that_is_read_can_run() -> None:
    assert len(CODE) > 200
    found = [
        f"{path.relative_to(ROOT)}: {fault}"
        for path in CODE
        for fault in faults(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert found == []


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "from joblib import load",
        "torch.load(path)",
        "torch.load(path, weights_only=trusted)",
        "AutoModel.from_pretrained(name, trust_remote_code=True)",
        "AutoModel.from_pretrained(name, trust_remote_code=config.trust)",
        "numpy.load(path, allow_pickle=True)",
        "yaml.load(text)",
        "subprocess.run(line, shell=True)",
        "eval(text)",
        "pl.read_parquet(path)",
    ],
)
def test_the_look_finds_each(line: str) -> None:
    assert list(faults(ast.parse(line)))


def test_it_leaves_the_safe_ones_alone() -> None:
    safe = "torch.load(path, weights_only=True); model.eval(); yaml.safe_load(text)"
    assert list(faults(ast.parse(safe))) == []


PATHS = ["../up", "..", ".", "/etc/x", "a/b", "a/../../b", "a\\b", "a\n", "a\0b", "~root", ""]


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize(
    "sections",
    [
        lambda name: {"registry": {"model_name": name}},
        lambda name: {"data": {"train_split": name}},
        lambda name: {"data": {"eval_split": name}},
        lambda name: {
            "retraining": {"sources": [{"kind": "files", "name": name, "path": "landing"}]}
        },
    ],
    ids=["model", "train-split", "eval-split", "source"],
)
def test_a_name_that_becomes_part_of_a_path_is_none(
    sections: Callable[[str], dict[str, Any]], name: str
) -> None:
    with pytest.raises(ValidationError):
        RunConfig.model_validate(sections(name))


def test_an_experiment_s_name_is_no_path(tmp_path: Path) -> None:
    home = tmp_path / "deep" / "home"
    for number, name in enumerate(("../../escaped", "/escaped", "..")):
        store = f"sqlite:///{home}/mlflow/mlflow.db"
        tracker = Tracker(RegistryConfig(experiment=name, tracking_uri=store), home)
        run_id = tracker.open_run(f"adapter-{number}")
        tracker.client.log_text(run_id, "four", "answer.txt")
    written = [path for path in tmp_path.rglob("answer.txt")]
    assert len(written) == 3
    assert all(path.is_relative_to(home / "mlflow" / "artifacts") for path in written)


def audit() -> Any:
    spec = importlib.util.spec_from_file_location("audit", ROOT / ".ci" / "audit.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


FLAW = {"id": "PYSEC-1", "fix_versions": ["2.0"], "aliases": [], "description": "Bad."}


@pytest.mark.parametrize(
    ("packages", "said", "code"),
    [
        (None, "not run, its data cannot be reached", 0),
        # So pip-audit ends on an index without such data, beside "No known vulnerabilities found".
        ([{"name": "a", "skip_reason": "not found on PyPI"}], "not run, the package index", 0),
        ([{"name": "a", "version": "1", "vulns": []}], "0 known vulnerabilities in 1 packages", 0),
        (
            [{"name": "a", "version": "1", "vulns": [FLAW]}, {"name": "b", "skip_reason": "local"}],
            "a 1: PYSEC-1, mended in 2.0\npip-audit: 1 known vulnerabilities in 1 packages, 1 ",
            1,
        ),
    ],
)
def test_an_audit_that_saw_nothing_is_no_clean_one(
    packages: list[dict[str, Any]] | None, said: str, code: int
) -> None:
    output = "" if packages is None else json.dumps({"dependencies": packages, "fixes": []})
    lines, given = audit().verdict(output)
    assert said in "\n".join(lines) and given == code
