"""The registry in a real PostgreSQL: who is first, what a kill leaves, whose it is."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from postgresql import PASSWORD, VARIABLE, make_databases, postgresql, programs
from registries import MODEL, Registry, make_registry
from servers import REPOSITORY

from schemas.config import RegistryConfig, RunConfig
from schemas.errors import EnvironmentFault
from schemas.findings import Level
from schemas.promotion import PromotionState
from tasks.doctor.examination import check_recorded
from tasks.promotion import repair
from tasks.promotion_history import read_history
from tasks.stores.database import configured_database
from tasks.stores.postgresql import require_databases
from tasks.tracking import Tracker
from tasks.tracking_models import registry
from tasks.versions import read_aliases

INSTALLED = programs()

pytestmark = pytest.mark.skipif(
    INSTALLED is None, reason="PostgreSQL is not installed (apt-get install postgresql)"
)

CONFIG = RegistryConfig(model_name=MODEL)

WRITES = 7
"""Of a promotion, as in test_promotion_history.py."""


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    assert INSTALLED is not None
    with postgresql(INSTALLED) as url:
        yield url


@pytest.fixture(scope="module")
def template(server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """Made once: MLflow's tables take seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(VARIABLE, make_databases(server, "template"))
        patch.delenv("PGPASSWORD", raising=False)
        yield make_registry(tmp_path_factory.mktemp("home"))


@pytest.fixture
def store(
    template: Registry,
    server: str,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> Registry:
    """A copy of the template's registry."""
    name = f"copy{abs(hash(request.node.nodeid)) % 10**9}"
    monkeypatch.setenv(VARIABLE, make_databases(server, name, template="template"))
    monkeypatch.delenv("PGPASSWORD", raising=False)
    return Registry(tmp_path / "home", template.run_id)


@pytest.mark.slow
def test_of_three_that_race_one_wins_and_two_explain(store: Registry) -> None:
    assert store.uri.startswith("postgresql+psycopg://bob@127.0.0.1:")
    winner = store.race({version: store.start("1", version) for version in ("2", "3", "4")})
    assert read_aliases(store.tracker())["champion"] == winner
    counted = [e for e in read_history(store.tracker()) if e.state is PromotionState.COMPLETED]
    assert [entry.promotion.to_version for entry in counted] == [winner]


@pytest.mark.slow
@pytest.mark.parametrize("step", range(1, WRITES + 1))
def test_a_kill_before_any_write_leaves_the_old_or_the_new_champion(
    store: Registry, step: int
) -> None:
    process = store.start("1", "2", stop_before=step)
    process.communicate("\n", timeout=60)
    assert process.returncode == -signal.SIGKILL
    tracker = store.tracker()
    assert read_aliases(tracker)["champion"] == ("1" if step <= 3 else "2")
    entries = repair(tracker)
    written = step > 2  # the entry is there: whoever comes next finishes it
    assert [entry.state for entry in entries] == [PromotionState.COMPLETED] * written
    assert read_aliases(tracker)["champion"] == ("2" if written else "1")


CREATE = """
import sys
from pathlib import Path
from schemas.config import RegistryConfig
from tasks.tracking import Tracker
tracker = Tracker(RegistryConfig(model_name="raced"), Path(sys.argv[1]))
print("ready", flush=True)
sys.stdin.readline()
tracker.ensure_model("raced")
for _ in range(5):
    print(tracker.client.create_model_version("raced", "file:///nowhere").version, flush=True)
"""


@pytest.mark.slow
def test_versions_that_are_registered_at_once_have_numbers_of_their_own(store: Registry) -> None:
    """On which the compare-and-set of promotions rests."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", CREATE, str(store.home)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        )
        for _ in range(3)
    ]
    for process in processes:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    numbers = [int(n) for process in processes for n in process.communicate(timeout=120)[0].split()]
    # A process may give up when the others are faster three times in a row; nobody gets another's.
    assert len(numbers) == len(set(numbers)) and sorted(numbers) == list(range(1, max(numbers) + 1))


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (PASSWORD, f"{PASSWORD}-wrong", "password authentication failed"),
        ("/copy", "/other", 'database "other'),
        ("127.0.0.1:", "127.0.0.1:1", "cannot be opened"),
    ],
)
def test_what_the_server_says_is_told_without_the_password(
    old: str, new: str, said: str, store: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = os.environ[VARIABLE].replace(old, new)
    if new == "127.0.0.1:1":  # a port that nobody has
        given = f"postgresql://bob:{PASSWORD}@127.0.0.1:9/copy"
    monkeypatch.setenv(VARIABLE, given)
    database = configured_database()
    assert database is not None
    with pytest.raises(EnvironmentFault, match=said) as caught:
        require_databases(database)
    assert PASSWORD not in str(caught.value) and "createdb" in caught.value.fix

    # MLflow itself would try for most of an hour.
    with pytest.raises(EnvironmentFault, match=said), registry(CONFIG, store.home):
        pass


def test_records_name_the_store_and_no_password(store: Registry) -> None:
    tracker = Tracker(CONFIG, store.home)
    assert tracker.uri == store.uri and PASSWORD not in tracker.uri
    assert tracker.client.get_run(store.run_id).info.artifact_uri.startswith("file:///")


def test_doctor_looks_at_these_databases_and_makes_nothing(
    store: Registry, server: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    config = RunConfig(registry=CONFIG)
    with_tables = {finding.what: finding for finding in check_recorded(config, store.home)}
    assert with_tables["databases"].level is Level.OK
    assert PASSWORD not in str(with_tables)
    assert "not registered yet" not in with_tables["champion"].found

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)  # where MLflow keeps the last store
    monkeypatch.setenv(VARIABLE, make_databases(server, "untouched"))
    for _ in range(2):
        empty = {finding.what: finding for finding in check_recorded(config, tmp_path)}
        assert empty["champion"].found == f"{MODEL} is not registered yet"
    assert list(tmp_path.iterdir()) == []
