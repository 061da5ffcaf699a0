"""`orpo-pipeline chat`, `export` and `lineage`, as a person types them: real processes."""

import io
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest
from rich.console import Console
from versions import Versions

from flows.chat_session import ChatSession, parse_names
from schemas.errors import UserError
from schemas.serving import Sampling
from tasks.chat import ChatModels, require_different

TINY = ("--set", "registry.model_name=tiny", "--set", "registry.experiment=tests")


def run(versions: Versions, *arguments: str, typed: str = "") -> "subprocess.CompletedProcess[str]":
    ours = ("PREFECT", "MLFLOW")
    outside = {name: v for name, v in os.environ.items() if not name.startswith(ours)}
    return subprocess.run(
        [sys.executable, "-m", "flows", *arguments, *TINY],
        env={**outside, "ORPO_HOME": str(versions.home), "COLUMNS": "200"},
        input=typed,
        capture_output=True,
        text=True,
        timeout=250,
    )


def test_a_piped_chat_answers_and_ends(two_versions: Versions) -> None:
    typed = "Hello\n/system Be brief.\nHello\n/nonsense\n/model 9\n/quit\nnever asked\n"
    finished = run(two_versions, "chat", "champion", "--max-new-tokens", "4", typed=typed)
    assert finished.returncode == 0, finished.stderr
    lines = finished.stdout.splitlines()
    assert lines[0] == "champion (version 1) answers."
    assert "There is no command /nonsense. /help lists them." in lines
    assert any("no version or alias '9'" in line for line in lines)
    assert finished.stderr == ""  # no bars, no advice of libraries
    assert "never asked" not in finished.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("chat", "previous"), "no version or alias 'previous'"),
        (("export", "champion", "."), "is not an empty folder"),
        (("lineage", "1", "--rows", "rows.txt"), "cannot be written as 'rows.txt'"),
    ],
)
def test_errors_are_one_paragraph(
    two_versions: Versions, arguments: tuple[str, ...], words: str
) -> None:
    finished = run(two_versions, *arguments)
    assert finished.returncode == 2, finished.stderr
    assert words in finished.stderr and "fix:" in finished.stderr
    assert "Traceback" not in finished.stderr


def test_a_model_is_compared_once() -> None:
    names = parse_names("base, 2,base")
    with pytest.raises(UserError, match="Two of base, 2, base are the same model"):
        require_different(names, names)


def test_lineage_goes_both_ways_and_writes_rows(two_versions: Versions, tmp_path: Path) -> None:
    rows = tmp_path / "rows.parquet"
    finished = run(two_versions, "lineage", "champion", "--rows", str(rows))
    assert finished.returncode == 0, finished.stderr
    prepared = two_versions.prepared
    assert prepared.dataset_id in finished.stdout
    assert f"{prepared.train_pairs} to train, {prepared.eval_pairs} held out" in finished.stdout
    written = pl.read_parquet(rows)
    assert written.height == prepared.train_pairs + prepared.eval_pairs
    back = run(two_versions, "lineage", written.filter(split="eval")["row_id"][0][:12])
    assert "evaluated on it" in back.stdout and "version 1 (champion)" in back.stdout


def test_export_says_what_it_wrote(two_versions: Versions, tmp_path: Path) -> None:
    finished = run(two_versions, "export", "champion", str(tmp_path / "out"))
    assert finished.returncode == 0, finished.stderr
    assert two_versions.prepared.base_model.revision in finished.stdout
    assert (tmp_path / "out" / "adapter_model.safetensors").is_file()


@pytest.fixture
def session(two_versions: Versions, tmp_path: Path) -> Iterator[ChatSession]:
    models = ChatModels(two_versions.config, two_versions.home, tmp_path, lambda _: None)
    console = Console(file=io.StringIO(), width=120)
    yield ChatSession(models, Sampling(max_new_tokens=4), console, ["base", "champion", "2"])


def shown(session: ChatSession) -> str:
    assert isinstance(session.console.file, io.StringIO)
    return session.console.file.getvalue()


def talk(session: ChatSession, *lines: str) -> None:
    session.run(iter([*lines, None]).__next__)


def test_several_answer_side_by_side_on_one_base_model(session: ChatSession) -> None:
    talk(session, "Hello", "And then?")
    assert "base and champion (version 1) and 2 answer." in shown(session)
    answers = {who: talk.turns for who, talk in session.conversations.items()}
    assert [len(turns) for turns in answers.values()] == [4, 4, 4]
    questions = [[t["content"] for t in turns if t["role"] == "user"] for turns in answers.values()]
    assert questions == [["Hello", "And then?"]] * 3
    first = [turns[1]["content"] for turns in answers.values()]
    assert len(set(first)) == 3  # three models, not one model three times
    assert session.models.loaded is not None
    assert session.models.loaded.adapters == {"1", "2"}


def test_an_alias_and_its_number_are_not_compared(session: ChatSession) -> None:
    talk(session, "/model champion,1", "Hello")
    assert "Two of champion, 1 are the same model." in shown(session)
    assert [len(talk.turns) for talk in session.conversations.values()] == [2, 2, 2]  # as before


def test_alone_and_compared_a_model_says_the_same(session: ChatSession) -> None:
    talk(session, "Hello")
    compared = {who: talk.turns[1]["content"] for who, talk in session.conversations.items()}
    for who, answer in compared.items():
        talk(session, f"/model {who}", "Hello")
        assert session.conversations[who].turns[1]["content"] == answer


def test_a_new_system_message_and_reset_begin_anew(session: ChatSession) -> None:
    talk(session, "/model champion", "Hello", "/system Be brief.")
    (conversation,) = session.conversations.values()
    assert (conversation.system, conversation.turns) == ("Be brief.", [])
    talk(session, "Hello", "/reset")
    (conversation,) = session.conversations.values()
    assert (conversation.system, conversation.turns) == ("Be brief.", [])


def test_a_base_model_alone_makes_room_for_a_version(
    two_versions: Versions, tmp_path: Path
) -> None:
    models = ChatModels(two_versions.config, two_versions.home, tmp_path, lambda _: None)
    console = Console(file=io.StringIO(), width=120)
    session = ChatSession(models, Sampling(max_new_tokens=4), console, ["base"])
    assert models.loaded is not None and models.loaded.settings.dtype == "bfloat16"
    talk(session, "Hello", "/model champion", "Hello")
    assert models.loaded.settings.dtype == "float32"  # as the version was evaluated
    assert len(session.conversations["1"].turns) == 2


def test_a_failed_change_of_model_keeps_the_talk(session: ChatSession) -> None:
    talk(session, "/model champion", "Hello", "/model 77", "And then?")
    assert session.who == ["1"] and len(session.conversations["1"].turns) == 4
    assert "no version or alias '77'" in shown(session)


def test_control_sequences_of_an_answer_do_nothing(session: ChatSession) -> None:
    session._write("\x1b]0;owned\x07")
    session.say("[red]\x1b[31m")
    assert "\x1b" not in shown(session)
    assert "[U+001B]]0;owned[U+0007]" in shown(session)
    assert "[red]" in shown(session)
