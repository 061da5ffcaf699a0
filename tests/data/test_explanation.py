"""The whole way of a row, asked for by its id or its place."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from prepared import BROKEN, EMPTY, GOOD, answer, check_account, frame, kept, question, run
from rows import pair_row, write_rows

from orpo_pipeline.data.explanation import Explanation, explain_row
from orpo_pipeline.data.preparation import record_evaluated
from schemas.config import RunConfig
from schemas.errors import UserError
from schemas.results import PreparedData

NEAR = "Tell me a story of a cat and a dog in a house by the sea"
ROWS = [
    *GOOD,
    pair_row(50, score_chosen=8.5, score_rejected=3),  # 41
    pair_row(51, chosen=answer("Mail ann.lee@mail.example.com.")),  # 42
    pair_row(60, prompt=question(NEAR), chosen=answer("Yes.")),  # 43
    pair_row(61, prompt=question(f"{NEAR}!"), chosen=answer("A cat sat here.")),  # 44
    GOOD[0],  # 45
    EMPTY,  # 46
    BROKEN,  # 47
    pair_row(70, chosen=answer("word " * 200)),  # 48
]


@pytest.fixture(scope="module")
def prepared(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> PreparedData:
    folder = tmp_path_factory.mktemp("explained")
    source = str(write_rows(folder / "rows.jsonl", ROWS))
    config = RunConfig.model_validate(
        {
            "data": {"source": source, "eval_fraction": 0.3},
            "chat": {"max_length": 128},
            "model": {"base_model": str(tiny_model)},
        }
    )
    return run(config, folder / "home")


@pytest.fixture
def explain(prepared: PreparedData) -> Callable[[str], dict[str, str]]:
    """The steps of the one explanation of a row."""

    def ask(wanted: str) -> dict[str, str]:
        (explanation,) = explain_row(prepared.path.parent.parent, wanted)
        assert explanation.prepared == prepared.path
        assert explanation.steps[0][0] == "row"
        assert explanation.steps[-1] == ("prepared in", str(prepared.path))
        assert explanation.steps[-2] == ("data set", prepared.dataset_id)
        return dict(explanation.steps)

    return ask


def test_a_kept_row_by_its_place_and_by_its_id(
    prepared: PreparedData, explain: Callable[[str], dict[str, str]]
) -> None:
    steps = explain("rows.jsonl:41")
    (row,) = [row for row in kept(prepared) if row["origin_row"] == 41]
    assert steps["row"] == row["row_id"]
    assert steps["read from"] == "rows.jsonl:41"
    assert steps["prompt"] == "user: What is 50 plus 50?"
    assert steps["chosen"] == "assistant: It is 100."
    assert steps["scores"] == "8.5 over 3"
    assert steps["tokens"] == (
        f"prompt {row['prompt_tokens']}, chosen {row['chosen_tokens']}, "
        f"rejected {row['rejected_tokens']}"
    )
    assert steps["prompt group"].endswith(", alone in it")
    sides = {"train": "kept, to train", "eval": "kept, to evaluate"}
    assert steps["verdict"] == sides[row["split"]]
    for wanted in (row["row_id"], row["row_id"][:8], row["row_id"][:6].upper()):
        assert explain(wanted) == steps


def test_a_repair_and_a_neighbour_are_told(explain: Callable[[str], dict[str, str]]) -> None:
    repaired = explain("rows.jsonl:42")
    assert repaired["personal_data_redacted"] == "replaced: e-mail address in chosen"
    assert repaired["chosen"] == "assistant: Mail [EMAIL]."
    first, second = explain("rows.jsonl:43"), explain("rows.jsonl:44")
    if first["verdict"] == second["verdict"]:
        assert first["prompt group"].endswith(f", with 1 more: {second['row'][:12]}")
    else:
        assert "eval_prompt_in_train" in first["verdict"] + second["verdict"]


def test_rows_that_were_set_aside(explain: Callable[[str], dict[str, str]]) -> None:
    empty = explain("rows.jsonl:46")
    assert empty["verdict"] == "empty_text (quarantine): chosen has a message without text"
    assert explain(empty["row"][:10]) == empty
    broken = explain("rows.jsonl:47")
    assert broken["row"] == "(not readable as a pair, so without an id)"
    assert broken["text"] == BROKEN
    assert broken["verdict"].startswith("broken_row (quarantine): not JSON")
    long = explain("rows.jsonl:48")
    assert long["verdict"].startswith("too_long (drop): ")
    assert len(long["text"]) < 450
    assert long["text"].endswith(" characters)")


def test_a_copy_and_the_row_that_stays_have_one_id(prepared: PreparedData) -> None:
    home = prepared.path.parent.parent
    (copy,) = explain_row(home, "rows.jsonl:45")
    (first,) = explain_row(home, "rows.jsonl:1")
    verdict = f"a copy of rows.jsonl:1, which is {dict(first.steps)['verdict']}"
    assert dict(copy.steps)["verdict"] == verdict
    row_id = dict(copy.steps)["row"]
    assert [dict(e.steps)["read from"] for e in explain_row(home, row_id)] == [
        "rows.jsonl:1",
        "rows.jsonl:45",
    ]


def test_a_copy_s_account_tells_what_became_of_the_first(
    prepare_rows: Callable[..., PreparedData], tmp_path: Path
) -> None:
    home, folder = tmp_path / "home", tmp_path / "data"
    folder.mkdir()
    train, test = folder / "train.jsonl", folder / "test.jsonl"
    write_rows(train, GOOD[1:])
    write_rows(test, [pair_row(60)])
    record_evaluated(prepare_rows(None, source=str(folder), eval_split="test"), home)
    flipped = pair_row(62, chosen=pair_row(62)["rejected"], rejected=pair_row(62)["chosen"])
    near = [pair_row(63, chosen=answer(f"{NEAR}{end}")) for end in (".", "!")]
    many = [pair_row(64, chosen=answer(f"Answer {n} of {n * n}.")) for n in range(3)]
    rows = {
        "held_out_before": [pair_row(60)],
        "eval_prompt_in_train": [GOOD[0]],
        "contradiction": [pair_row(62), flipped],
        "near_duplicate": near,
        "overrepresented_prompt": many,
        "score_tie": [pair_row(65, score_chosen=4, score_rejected=4), pair_row(65)],
    }
    lines = [*GOOD[1:], *(row for some in rows.values() for row in some)]
    write_rows(train, [*lines, *lines])
    write_rows(test, [GOOD[0], GOOD[0]])
    prepared = prepare_rows(None, source=str(folder), eval_split="test", max_pairs_per_prompt=2)
    check_account(prepared)

    def verdict(place: str) -> str:
        explained = explain_row(home, place)
        (found,) = [one for one in explained if one.prepared == prepared.path]
        return dict(found.steps)["verdict"]

    told = {}
    for number in range(1, len(lines) + 1):
        first, copy = (
            verdict(f"train.jsonl:{number}"),
            verdict(f"train.jsonl:{number + len(lines)}"),
        )
        if first.startswith("kept"):
            assert copy == f"a copy of train.jsonl:{number}, which is {first}"
        elif not first.startswith("score_tie"):
            assert copy == f"a copy of train.jsonl:{number}, which is set aside as well: {first}"
        told[first.split(" (")[0]] = copy
    assert told.keys() == {"kept, to train", *rows}
    assert told["score_tie"].startswith("score_tie (drop): ")  # no copy: each was judged alone
    assert verdict("test.jsonl:2") == "a copy of test.jsonl:1, which is kept, to evaluate"


@pytest.mark.parametrize(
    "wanted",
    [
        *("0" * 64, "%%%%%%", ".*....", "other.jsonl:1", "rows.jsonl:49", "rows.jsonl:0"),
        *("rows.jsonl:-1", "rows.jsonl:\u00b2", "rows.jsonl:" + "9" * 99),
    ],
)
def test_an_unknown_row_is_an_error_that_says_how_much_was_looked_at(
    wanted: str, prepared: PreparedData
) -> None:
    with pytest.raises(UserError, match=r"No prepared data in .* \(1 looked through\)") as raised:
        explain_row(prepared.path.parent.parent, wanted)
    assert repr(wanted) in raised.value.found


@pytest.mark.parametrize("wanted", ["", "a", "abcde"])
def test_too_few_digits_are_an_error(wanted: str, prepared: PreparedData) -> None:
    with pytest.raises(UserError, match="too short for a row id"):
        explain_row(prepared.path.parent.parent, wanted)


def test_nothing_prepared_yet(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"\(0 looked through\)") as raised:
        explain_row(tmp_path, "abcdef")
    assert "orpo-pipeline data report SOURCE" in raised.value.fix


def test_what_a_crash_left_behind_is_not_asked(prepared: PreparedData, tmp_path: Path) -> None:
    stage = prepared.path
    shutil.copytree(stage, tmp_path / "prepared" / stage.name)
    for name in (f".{stage.name}.4711.abcd1234", f"{stage.name}.damaged"):
        shutil.copytree(stage, tmp_path / "prepared" / name)
    (found,) = explain_row(tmp_path, "rows.jsonl:41")
    assert found.prepared == tmp_path / "prepared" / stage.name


def test_several_prepared_stages_answer_the_newest_first(
    prepared: PreparedData, tmp_path: Path
) -> None:
    names = ["aaaa", "bbbb", "cccc"]
    for age, name in enumerate(names):
        shutil.copytree(prepared.path, tmp_path / "prepared" / name)
        os.utime(tmp_path / "prepared" / name / "manifest.json", (1e9 - age, 1e9 - age))
    found: list[Explanation] = explain_row(tmp_path, frame(prepared, "train")["row_id"][0])
    assert [explanation.prepared.name for explanation in found] == names
