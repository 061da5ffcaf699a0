"""The prepare stage: every row is accounted for, and the result is there whole or not at all."""

import json
import random
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rows import pair_row, write_rows

from orpo_pipeline.data.preparation import find_prepared, load_prepared, prepare
from orpo_pipeline.data.prepared_files import dataset_id
from orpo_pipeline.stages import MANIFEST, file_sha256
from schemas.config import RunConfig
from schemas.errors import UserError
from schemas.results import PreparedData

MakeConfig = Callable[..., RunConfig]
FILES = ["train.parquet", "eval.parquet", "quarantine.parquet", "report.json"]
GOOD = [pair_row(number) for number in range(40)]
EMPTY = pair_row(100, chosen=[{"role": "assistant", "content": " "}])
BROKEN = '{"prompt": "cut off'


def run(config: RunConfig, home: Path) -> PreparedData:
    return prepare(config, home, lambda *_: None)


def stage_of(config: RunConfig, home: Path) -> Path:
    return find_prepared(config, home, lambda _: None)[0]


def frame(prepared: PreparedData, name: str) -> pl.DataFrame:
    return pl.read_parquet(prepared.path / f"{name}.parquet")


def prompts(prepared: PreparedData, name: str) -> set[str]:
    return {row["prompt"][0]["content"] for row in frame(prepared, name).to_dicts()}


def check_account(prepared: PreparedData) -> None:
    """rows in = kept + quarantined + duplicates, in the record and in the files."""
    kept = frame(prepared, "train").height, frame(prepared, "eval").height
    quarantine = frame(prepared, "quarantine")
    assert kept == (prepared.train_pairs, prepared.eval_pairs)
    assert dict(Counter(quarantine["code"])) == prepared.quarantined
    assert prepared.rows_in == sum(kept) + quarantine.height + prepared.duplicates
    origins = pl.concat(
        [
            frame(prepared, name)["origin_file", "origin_row"]
            for name in ("train", "eval", "quarantine")
        ]
    )
    assert origins.is_unique().all()


@pytest.fixture
def prepare_rows(tiny_config: MakeConfig, tmp_path: Path) -> Callable[..., PreparedData]:
    """Prepare these rows as one file; a row given as text is a line."""

    def make(rows: Sequence[Any], name: str = "rows.jsonl", **data: Any) -> PreparedData:
        source = write_rows(tmp_path / name, rows)
        return run(tiny_config(data={"source": str(source), **data}), tmp_path / "home")

    return make


def test_what_becomes_of_each_row(prepare_rows: Callable[..., PreparedData]) -> None:
    flipped = pair_row(0, chosen=GOOD[0]["rejected"], rejected=GOOD[0]["chosen"])
    too_long = pair_row(101, chosen=[{"role": "assistant", "content": "word " * 200}])
    rows = [*GOOD, BROKEN, EMPTY, GOOD[3], GOOD[3], flipped, too_long]
    prepared = prepare_rows(rows)
    assert prepared.rows_in == 46
    assert prepared.duplicates == 2
    assert prepared.quarantined == {
        "contradiction": 2,  # row 1 and its flipped copy
        "broken_row": 1,
        "empty_text": 1,
        "too_long": 1,
    }
    assert prepared.train_pairs + prepared.eval_pairs == 39
    assert prepared.rows_quarantined == 5
    check_account(prepared)


def test_the_quarantine_says_what_where_and_why(
    prepare_rows: Callable[..., PreparedData],
) -> None:
    quarantine = frame(prepare_rows([*GOOD, BROKEN, EMPTY]), "quarantine").sort("origin_row")
    broken, empty = quarantine.to_dicts()
    assert (broken["origin_file"], broken["origin_row"]) == ("rows.jsonl", 41)
    assert (broken["code"], broken["row"]) == ("broken_row", BROKEN)
    assert broken["reason"].startswith("not JSON: Unterminated string")
    assert json.loads(empty.pop("row")) == EMPTY
    assert empty == {
        "origin_file": "rows.jsonl",
        "origin_row": 42,
        "split": "train",
        "code": "empty_text",
        "reason": "chosen has a message without text",
    }


def test_prepared_rows_hold_text_and_tokens(prepare_rows: Callable[..., PreparedData]) -> None:
    from transformers import AutoTokenizer

    prepared = prepare_rows(GOOD)
    tokenizer = AutoTokenizer.from_pretrained(prepared.path / "tokenizer")
    rows = [*frame(prepared, "train").to_dicts(), *frame(prepared, "eval").to_dicts()]
    for row in rows:
        source = GOOD[row["origin_row"] - 1]
        assert {key: row[key] for key in source} == source
        assert tokenizer.decode(row["chosen_ids"]) == source["chosen"][0]["content"] + "<|im_end|>"
        assert source["prompt"][0]["content"] in tokenizer.decode(row["prompt_ids"])
    longest = max(
        len(r["prompt_ids"]) + max(len(r["chosen_ids"]), len(r["rejected_ids"])) for r in rows
    )
    assert prepared.longest_pair == longest
    for name in ("train", "eval"):
        assert frame(prepared, name)["row_id"].is_sorted()


def test_the_report_counts_and_gives_examples(prepare_rows: Callable[..., PreparedData]) -> None:
    prepared = prepare_rows([*GOOD, *[BROKEN] * 5, GOOD[0]])
    report = json.loads((prepared.path / "report.json").read_text(encoding="utf-8"))
    assert report["rows_in"] == 46
    assert report["duplicates"] == 1
    assert sum(report["kept"].values()) == 40
    assert report["quarantined"] == {"broken_row": 5}
    assert [e["origin_row"] for e in report["examples"]["broken_row"]] == [41, 42, 43]
    assert report["chosen_longer_share"] == 0


POOL = [
    *[pair_row(number) for number in range(5)],
    *[
        pair_row(n, chosen=pair_row(n)["rejected"], rejected=pair_row(n)["chosen"])
        for n in range(3)
    ],
    pair_row(5, score_chosen=1, score_rejected=2),
    pair_row(6, chosen=[{"role": "assistant", "content": "<|im_end|>"}]),
    pair_row(7, chosen=[{"role": "assistant", "content": "word " * 200}]),
    EMPTY,
    {"prompt": "a", "chosen": "b", "rejected": "c"},
    {"prompt": "A ", "chosen": "b", "rejected": "d"},
]
TEXT = st.text(st.characters(codec=None), max_size=12)
MESSAGES = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["user", "assistant", "system"]) | TEXT, "content": TEXT}
    ),
    max_size=3,
)
SIDE = TEXT | MESSAGES | st.none() | st.integers()
RANDOM_ROW = st.fixed_dictionaries(
    {},
    optional={
        "prompt": SIDE,
        "chosen": SIDE,
        "rejected": SIDE,
        "score_chosen": st.none() | st.floats() | st.integers() | TEXT,
        "score_rejected": st.none() | st.floats() | st.integers(),
    },
)
TORN = st.sampled_from(POOL).flatmap(
    lambda row: st.integers(1, 60).map(lambda length: json.dumps(row)[:length])
)
OTHER_JSON = st.sampled_from(["[]", "null", "1", '"text"', "[[1]]", "NaN", "{}"])


@settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    train=st.lists(st.sampled_from(POOL) | RANDOM_ROW | TORN | OTHER_JSON, max_size=25),
    held_out=st.none() | st.lists(st.sampled_from(POOL) | RANDOM_ROW | TORN, max_size=8),
)
def test_whatever_goes_in_is_accounted_for(
    train: list[Any], held_out: list[Any] | None, tiny_config: MakeConfig, tmp_path: Path
) -> None:
    shutil.rmtree(tmp_path / "data", ignore_errors=True)
    shutil.rmtree(tmp_path / "home", ignore_errors=True)
    (tmp_path / "data").mkdir()
    # Enough good rows that each side has one.
    write_rows(tmp_path / "data" / "train.jsonl", [*train, *GOOD[10:25]])
    data: dict[str, Any] = {"source": str(tmp_path / "data"), "max_quarantined_share": 1.0}
    if held_out is not None:
        write_rows(tmp_path / "data" / "test.jsonl", [*held_out, *GOOD[25:30]])
        data["eval_split"] = "test"
    prepared = run(tiny_config(data=data), tmp_path / "home")
    assert prepared.rows_in == len(train) + 15 + (0 if held_out is None else len(held_out) + 5)
    check_account(prepared)
    assert prepared.train_pairs and prepared.eval_pairs
    trained, evaluated = frame(prepared, "train"), frame(prepared, "eval")
    assert not set(trained["prompt_id"]) & set(evaluated["prompt_id"])


def test_hostile_rows_are_quarantined_like_others(
    prepare_rows: Callable[..., PreparedData],
) -> None:
    lone = "\ud83d"
    hostile: list[Any] = [
        pair_row(1, prompt=[{"role": f"user{lone}", "content": "Hi"}]),
        pair_row(2, chosen=[{"role": "assistant", "content": "x", f"key{lone}": 1}]),
        pair_row(3, chosen=[{"role": "assistant", "content": f"half {lone}"}]),
        pair_row(4, score_chosen=10**400, score_rejected=1),
        pair_row(5, chosen=[{"role": "assistant", "content": "a" + "\n" * 300_000}]),
        '{"prompt": "\x00", "chosen": "a", "rejected": "b"}',
        '{"chosen": 1' + "0" * 5000 + "}",
    ]
    # Just shallow enough to be read is not shallow enough to be written again.
    nested = ['{"x": ' + "[" * d + "]" * d + "}" for d in range(900, 1000, 4)]
    prepared = prepare_rows([*GOOD[10:], *hostile, *nested, "[" * 10**5], max_quarantined_share=1.0)
    assert prepared.rows_quarantined == len(hostile) + len(nested) + 1
    check_account(prepared)
    reasons = frame(prepared, "quarantine")["reason"].to_list()
    assert reasons[0].startswith("the prompt's turns are user\\ud83d;")


def test_dataset_id_by_hand() -> None:
    # printf 'rules 1\na\nb' | sha256sum
    expected = "57794dcf0adb47b6a49638d02832b4d34da58fca5df79e3d132fb940e3b0e1b9"
    assert dataset_id(["b", "a"]) == dataset_id(["a", "b"]) == expected


def test_dataset_id_is_of_the_rows_alone(
    prepare_rows: Callable[..., PreparedData], tmp_path: Path
) -> None:
    first = prepare_rows(GOOD)
    shuffled = random.Random(0).sample(GOOD, len(GOOD))
    other = prepare_rows([BROKEN, *shuffled, GOOD[7]], name="other-name.jsonl")
    assert other.prepared_id != first.prepared_id
    assert other.dataset_id == first.dataset_id
    (tmp_path / "parts").mkdir()
    write_rows(tmp_path / "parts" / "b.jsonl", GOOD[:10])
    write_rows(tmp_path / "parts" / "a.jsonl", GOOD[10:])
    parts = prepare_rows([], source=str(tmp_path / "parts"))
    assert parts.dataset_id == first.dataset_id
    for name in ("train", "eval"):
        contents = [frame(p, name).drop("origin_file", "origin_row") for p in (first, other, parts)]
        assert contents[0].equals(contents[1])
        assert contents[0].equals(contents[2])


def test_dataset_id_changes_with_a_label_and_with_a_character(
    prepare_rows: Callable[..., PreparedData],
) -> None:
    first = prepare_rows(GOOD)
    flipped = pair_row(39, chosen=GOOD[39]["rejected"], rejected=GOOD[39]["chosen"])
    dotless = pair_row(39, chosen=[{"role": "assistant", "content": "It is 78"}])
    changed = [prepare_rows([*GOOD[:39], row]) for row in (flipped, dotless)]
    assert len({p.dataset_id for p in [first, *changed]}) == 3
    assert len({p.prepared_id for p in [first, *changed]}) == 3


def test_prepared_id_follows_what_decides_and_nothing_else(
    tiny_config: MakeConfig, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    first = stage_of(tiny_config(), home)
    source = tmp_path / "copy" / "pairs.jsonl"
    source.parent.mkdir()
    shutil.copy(tmp_path / "pairs.jsonl", source)
    assert stage_of(tiny_config(data={"source": str(source)}), home) == first
    assert stage_of(tiny_config(training={"max_steps": 99}), home) == first
    others = [
        stage_of(tiny_config(data={"eval_fraction": 0.4}), home),
        stage_of(tiny_config(data={"max_quarantined_share": 0.5}), home),
        stage_of(tiny_config(chat={"max_length": 127}), home),
        stage_of(tiny_config(chat={"template": "chatml"}), home),
    ]
    assert len({first, *others}) == 5


def test_held_out_prompts_stay_when_the_data_grows(
    prepare_rows: Callable[..., PreparedData],
) -> None:
    small = prepare_rows(GOOD)
    large = prepare_rows([pair_row(number) for number in range(100, -1, -1)])
    assert prompts(small, "eval") <= prompts(large, "eval")
    assert prompts(small, "train") <= prompts(large, "train")


def test_an_evaluation_prompt_is_barred_from_training(
    tiny_config: MakeConfig, tmp_path: Path
) -> None:
    shouted = [{"role": "user", "content": "WHAT  is 3 plus 3?"}]
    folder = tmp_path / "data"
    folder.mkdir()
    write_rows(folder / "train.jsonl", [*GOOD[10:30], pair_row(3, prompt=shouted), GOOD[4]])
    write_rows(folder / "test.jsonl", [*GOOD[:6], GOOD[5]])
    config = tiny_config(data={"source": str(folder), "eval_split": "test"})
    prepared = run(config, tmp_path / "home")
    check_account(prepared)
    assert (prepared.train_pairs, prepared.eval_pairs, prepared.duplicates) == (20, 6, 1)
    barred = frame(prepared, "quarantine").sort("origin_row").to_dicts()
    assert [(b["origin_file"], b["origin_row"], b["split"], b["code"]) for b in barred] == [
        ("train.jsonl", 21, "train", "eval_prompt_in_train"),
        ("train.jsonl", 22, "train", "eval_prompt_in_train"),
    ]
    assert prompts(prepared, "eval") == {row["prompt"][0]["content"] for row in GOOD[:6]}


def test_too_many_quarantined_rows_fail_with_figures_and_examples(
    prepare_rows: Callable[..., PreparedData], tmp_path: Path
) -> None:
    rows = [*GOOD, *[EMPTY] * 8, *["[]"] * 3]
    with pytest.raises(UserError) as raised:
        prepare_rows(rows)
    error = raised.value
    assert error.found == ("11 of 51 rows are quarantined (21.6%): empty_text 8, broken_row 3.")
    assert error.expected == "at most 20.0% (data.max_quarantined_share)."
    assert error.fix == (
        "Correct the rows, or raise the limit if this share is meant. For example: "
        "rows.jsonl:41 empty_text (chosen has a message without text); "
        "rows.jsonl:42 empty_text (chosen has a message without text); "
        "rows.jsonl:43 empty_text (chosen has a message without text)"
    )
    assert not (tmp_path / "home").exists()
    assert prepare_rows(rows, max_quarantined_share=11 / 51).rows_quarantined == 11


@pytest.mark.parametrize("rows", [[], ["", "  "], [BROKEN, EMPTY], GOOD[:1]])
def test_nothing_usable_on_a_side(
    rows: list[Any], prepare_rows: Callable[..., PreparedData], tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"Of \d rows [01] are usable for training") as raised:
        prepare_rows(rows, max_quarantined_share=1.0)
    assert raised.value.expected == "at least one usable pair on each side."
    assert not (tmp_path / "home").exists()


def test_the_second_call_reuses_the_first(tiny_config: MakeConfig, tmp_path: Path) -> None:
    said: list[str] = []
    config, home = tiny_config(), tmp_path / "home"
    first = prepare(config, home, lambda what, *_: said.append(what))
    assert "pairs tokenised" in said
    said.clear()
    before = {p: p.stat().st_mtime_ns for p in first.path.rglob("*")}
    second = prepare(config, home, lambda what, *_: said.append(what))
    assert said == []
    assert second == first.model_copy(update={"reused": True})
    assert {p: p.stat().st_mtime_ns for p in first.path.rglob("*")} == before


def test_a_moved_state_folder_and_a_moved_model_are_found(
    tiny_config: MakeConfig, tiny_model: Path, tmp_path: Path
) -> None:
    first = run(tiny_config(), tmp_path / "home")
    home = (tmp_path / "home").rename(tmp_path / "moved")
    model = shutil.copytree(tiny_model, tmp_path / "model")
    second = run(tiny_config(model={"base_model": str(model)}), home)
    assert second.reused
    assert second.path == home / "prepared" / first.prepared_id
    assert second.base_model.path == model
    assert load_prepared(second.path) == second.model_copy(update={"base_model": first.base_model})


def test_a_damaged_result_is_made_again(tiny_config: MakeConfig, tmp_path: Path) -> None:
    first = run(tiny_config(), tmp_path / "home")
    before = file_sha256(first.path / "train.parquet")
    with (first.path / "train.parquet").open("r+b") as file:
        file.seek(100)
        file.write(b"\0\0\0\0")
    second = run(tiny_config(), tmp_path / "home")
    assert not second.reused
    assert file_sha256(second.path / "train.parquet") == before


# Each case runs in a fork, so that the imports are paid for once. The hook sees Python's own file
# operations and kills at the one that is named: nothing is cleaned up, as in a power cut.
KILLED = """
import os, resource, signal, sys
from pathlib import Path
from transformers import AutoTokenizer
from transformers.models.auto import modeling_auto
from orpo_pipeline.data.preparation import prepare
from schemas.config import RunConfig
from schemas.errors import EnvironmentFault

config = RunConfig.model_validate_json(Path(sys.argv[1]).read_text())
home = Path(sys.argv[2])

def kill():
    os.kill(os.getpid(), signal.SIGKILL)

def disturbed(case):
    def progress(what, done, total):
        if case == what:
            kill()
    def hook(event, arguments):
        opened = event == "open" and case in str(arguments[0])
        published = event == case == "os.rename" and "manifest" not in str(arguments[1])
        if opened or published:
            kill()
    sys.addaudithook(hook)
    prepare(config, home, progress)

for case in sys.argv[3:]:
    child = os.fork()
    if child == 0:
        disturbed(case)
        os._exit(0)
    print(case, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)

for size in (300, 6000):  # bytes that a file may have: stands for a full disk
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
    try:
        prepare(config, home, lambda *_: None)
    except EnvironmentFault as error:
        print(error.found)
"""


def test_a_killed_process_leaves_nothing_that_counts(
    tiny_config: MakeConfig, tmp_path: Path
) -> None:
    config, home = tiny_config(), tmp_path / "home"
    (tmp_path / "config.json").write_text(config.model_dump_json())
    cases = ["pairs tokenised", "report.json", f".{MANIFEST}", "os.rename"]
    command = [sys.executable, "-c", KILLED, str(tmp_path / "config.json"), str(home), *cases]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert finished.returncode == 0, finished.stderr
    *killed, no_pages, no_footer = finished.stdout.splitlines()
    assert killed == [f"{case} {-signal.SIGKILL}" for case in cases]
    assert no_pages.startswith("Writing the stage")
    assert no_footer.startswith("Writing the stage")

    stage = stage_of(config, home)
    assert load_prepared(stage) is None
    left = [path for path in stage.parent.iterdir() if path != stage]
    assert [path.name.startswith(f".{stage.name}.") for path in left] == [True] * 3
    # The last one was killed between its manifest and its name: whole, and yet not there.
    assert sum((path / MANIFEST).exists() for path in left) == 1
    assert not stage.exists()

    after, undisturbed = run(config, home), run(config, tmp_path / "other-home")
    assert not after.reused
    assert after == undisturbed.model_copy(update={"path": after.path})
    for name in FILES:
        assert file_sha256(after.path / name) == file_sha256(undisturbed.path / name)
