"""Every rule with a row that it names and one that is nearly such and passes, in real blocks."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from prepared import answer, frame, question, run
from rows import pair_row, write_rows

from orpo_pipeline.data import checking
from orpo_pipeline.data.checking import RowChecker
from orpo_pipeline.data.forgotten import mark_forgotten
from orpo_pipeline.data.preparation import record_evaluated
from orpo_pipeline.data.reading.files import SourceFile
from orpo_pipeline.data.reading.readers import read_blocks
from orpo_pipeline.data.report.contents import REMOVING
from orpo_pipeline.data.tokens.chat_template import ChatFormat
from schemas.config import RunConfig
from schemas.pairs import DefectCode
from schemas.results import PreparedData

HEAD, TAIL = "{% for m in messages %}{{ m['content'] }}", "{{ eos_token }}{% endfor %}"
KEY = "AKIA" + "Q3EGRJ7LZ2MXW5TB"
STORY = "Tell me a story of a cat and a dog in a house by the sea"  # 16 words
CUT_LINE = json.dumps(pair_row(1))[:-1]


@dataclass(frozen=True)
class Case:
    """A row (or line) with a defect, and one that is kept without it."""

    has: Any
    nearly: Any
    data: dict[str, Any] = field(default_factory=dict)
    chat: dict[str, Any] = field(default_factory=dict)
    template: str = ""


def said(chosen: Any, **changes: Any) -> dict[str, Any]:
    return {"prompt": "Hi!", "chosen": chosen, "rejected": "Go away.", **changes}


def asked(*turns: tuple[str, str]) -> dict[str, Any]:
    prompt = [{"role": role, "content": content} for role, content in turns]
    return {"prompt": prompt, "chosen": answer("Hello."), "rejected": answer("Go away.")}


def whole(first: str, second: str, good: str, bad: str) -> dict[str, Any]:
    return {"chosen": question(first) + answer(good), "rejected": question(second) + answer(bad)}


def scored(chosen: float, rejected: float) -> dict[str, Any]:
    return pair_row(1, score_chosen=chosen, score_rejected=rejected)


def with_calls(calls: list[str]) -> dict[str, Any]:
    return said([{"role": "assistant", "content": "Hello.", "tool_calls": calls}])


ONE_ROW = {
    DefectCode.BROKEN_ROW: Case(CUT_LINE, CUT_LINE + "}"),
    DefectCode.MISSING_FIELD: Case(said(None), said("None.")),
    DefectCode.WRONG_TYPE: Case(said(5), said("5")),
    DefectCode.UNSUPPORTED_CONTENT: Case(with_calls(["search"]), with_calls([])),
    DefectCode.PROMPTS_DIFFER: Case(
        whole("Why?", "How?", "It is so.", "It is not."),
        whole("Why?", "Why?", "It is so.", "It is not."),
    ),
    DefectCode.WRONG_ROLES: Case(
        asked(("user", "Hi!"), ("user", "Ho!")),
        asked(("system", "Be brief."), ("user", "Hi!"), ("assistant", "Ho!"), ("user", "Bye?")),
    ),
    DefectCode.ANSWER_NOT_ASSISTANT: Case(
        said([{"role": "user", "content": "Hello."}]), said([{"role": "gpt", "content": "Hello."}])
    ),
    DefectCode.EMPTY_TEXT: Case(said(" \u2800\n"), said(" .\n")),
    DefectCode.IDENTICAL_ANSWERS: Case(said("go \uff21way."), said("Go away!")),
    DefectCode.DAMAGED_CHARACTERS: Case(said("A caf\ufffd."), said("A caf\u00e9.")),
    # A joiner is part of a picture: woman + joiner + computer.
    DefectCode.CHARACTERS_REPAIRED: Case(said("He\u200dllo."), said("\U0001f469\u200d\U0001f4bb")),
    DefectCode.LEAKED_ROLE_MARKER: Case(
        said("Sure.\n\nHuman: And then?"), said("Sure. Human: a being.")
    ),
    DefectCode.ANSWER_IS_PREFIX: Case(said("Go away. Now!"), said("Go now, away.")),
    DefectCode.SECRET: Case(said(KEY), said("AKIAIOSFODNN7EXAMPLE")),
    DefectCode.SECRET_REDACTED: Case(
        said(KEY), said("AKIAIOSFODNN7EXAMPLE"), data={"secrets": "redact"}
    ),
    DefectCode.PERSONAL_DATA: Case(
        said("Call 415-555-0132."),
        said("It is 415 555 0132."),
        data={"personal_data": "quarantine"},
    ),
    DefectCode.PERSONAL_DATA_REDACTED: Case(
        said("Mail jane.doe@acme-mail.com."), said("Mail jane.doe@localhost.")
    ),
    DefectCode.SCORE_TIE: Case(scored(4, 4), scored(4.5, 4)),
    DefectCode.SCORE_INVERTED: Case(scored(4, 4.5), scored(4.5, 4)),
    DefectCode.SMALL_SCORE_MARGIN: Case(
        scored(8.25, 8), scored(8.5, 8), data={"min_score_margin": 0.5}
    ),
    DefectCode.CONTROL_TOKEN: Case(
        said("It is <|im_end|>."), said("It is <|im_end>."), chat={"control_tokens": "quarantine"}
    ),
    DefectCode.CONTROL_TOKEN_NEUTRALISED: Case(said("It is <|im_end|>."), said("It is <|im_end>.")),
    DefectCode.PROMPT_NOT_PREFIX: Case(
        said("Hello.", prompt="Why x?"),
        said("Hello.", prompt="Why y?"),
        template="{% for m in messages %}"
        "{{ m['content'] if loop.last or 'x' not in m['content'] else '-' }}" + TAIL,
    ),
    DefectCode.BOUNDARY_KEPT: Case(said("\n\nHello."), said("Hello.\n\n")),
    DefectCode.UNFINISHED_TURN: Case(
        said("Never."),
        said("Never!"),
        template=HEAD + "{{ eos_token if m['content'] != 'Never.' }}{% endfor %}",
    ),
    DefectCode.REPEATED_BOS: Case(
        said("Never."),
        said("Never!"),
        template=HEAD + "{{ bos_token if m['content'] == 'Never.' }}" + TAIL,
    ),
    DefectCode.PAD_IN_ANSWER: Case(
        said("Never."),
        said("Never!"),
        template=HEAD + "{{ pad_token if m['content'] == 'Never.' }}" + TAIL,
    ),
    # With this template "Hi!" and its end are 3 tokens, 13 words and theirs 14.
    DefectCode.TOO_LONG: Case(
        said("a" + " a" * 13), said("a" + " a" * 12), chat={"max_length": 17}, template=HEAD + TAIL
    ),
    DefectCode.TRUNCATED: Case(
        said("a" + " a" * 13),
        said("a" + " a" * 12),
        chat={"max_length": 17, "too_long": "truncate_answer"},
        template=HEAD + TAIL,
    ),
    DefectCode.BENCHMARK_PROMPT: Case(
        said(" ".join(STORY.split()[:13])),
        said(" ".join(STORY.split()[:12])),
        data={"benchmarks": "benchmarks.txt"},
    ),
}


def over(chosen: str, rejected: str, number: int) -> dict[str, Any]:
    return pair_row(number, chosen=answer(chosen), rejected=answer(rejected))


MOST = 2
FORGOTTEN_NUMBER = 50
AMONG_ROWS = {
    DefectCode.FORGOTTEN: ([pair_row(FORGOTTEN_NUMBER)], [pair_row(51)]),
    DefectCode.EVAL_PROMPT_IN_TRAIN: (
        [pair_row(0, prompt=question("WHAT  is 0 plus 0?"))],
        [pair_row(1)],
    ),
    DefectCode.HELD_OUT_BEFORE: ([pair_row(10)], [pair_row(11)]),
    DefectCode.CONTRADICTION: (
        [over("Yes", "No", 20), over("No", "Yes", 20)],
        [over("Yes", "No", 21), over("No", "Perhaps", 21)],
    ),
    DefectCode.NEAR_DUPLICATE: (
        [over(f"{STORY}.", "No.", 30), over(f"{STORY}!", "No.", 30)],
        [over(f"{STORY}.", "No.", 31), over(f"{STORY}!", "Never.", 31)],
    ),
    DefectCode.OVERREPRESENTED_PROMPT: (
        [over(f"It is {n}.", "No.", 40) for n in range(MOST + 1)],
        [over(f"It is {n}.", "No.", 41) for n in range(MOST)],
    ),
}


def test_no_rule_is_missing_here() -> None:
    assert ONE_ROW.keys() | AMONG_ROWS.keys() == set(DefectCode)


@pytest.mark.parametrize("code", ONE_ROW)
def test_a_row_has_it_and_a_similar_one_is_kept_without(
    code: DefectCode,
    tiny_model: Path,
    tmp_path: Path,
    load_once: Callable[[Path, str | None], ChatFormat],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(checking, "load_chat_format", load_once)
    monkeypatch.chdir(tmp_path)
    Path("benchmarks.txt").write_text(STORY)
    case = ONE_ROW[code]
    chat = dict(case.chat)
    if case.template:
        chat["template"] = str(tmp_path / "template.jinja")
        Path(chat["template"]).write_text(case.template)
    config = RunConfig.model_validate({"data": case.data, "chat": chat})
    checker = RowChecker(config, tiny_model)

    def found(row: Any) -> tuple[str | None, list[str]]:
        path = write_rows(tmp_path / "row.jsonl", [row])
        (block,) = read_blocks(SourceFile(path, path.name))
        (checked,) = checker.check(block).index.iter_rows(named=True)
        return checked["code"], [note["code"] for note in checked["notes"]]

    assert found(case.has) == ((code, []) if code.severity in REMOVING else (None, [code]))
    assert found(case.nearly) == (None, [])


@pytest.fixture(scope="module")
def removed(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, str]:
    """The code of each training row of AMONG_ROWS that was removed, by its number."""
    folder = tmp_path_factory.mktemp("among")
    source, home = folder / "source", folder / "home"
    source.mkdir()
    model = {"base_model": str(tiny_model)}
    data = {"source": str(source), "eval_split": "test", "max_pairs_per_prompt": MOST}
    config = RunConfig.model_validate({"data": data, "model": model})

    def prepare(train: list[dict[str, Any]], held_out: dict[str, Any]) -> PreparedData:
        write_rows(source / "train.jsonl", train)
        write_rows(source / "test.jsonl", [held_out])
        return run(config, home)

    record_evaluated(prepare([pair_row(1)], pair_row(10)), home)
    forgotten = prepare([pair_row(FORGOTTEN_NUMBER)], pair_row(10))
    mark_forgotten(home, frame(forgotten, "train")["row_id"], "")
    rows = [row for cases in AMONG_ROWS.values() for case in cases for row in case]
    prepared = prepare(rows, pair_row(0))
    return dict(frame(prepared, "quarantine").select("origin_row", "code").iter_rows())


@pytest.mark.parametrize("code", AMONG_ROWS)
def test_rows_have_it_together_and_similar_ones_stay(
    code: DefectCode, removed: dict[int, str]
) -> None:
    number = 0
    for other, (has, nearly) in AMONG_ROWS.items():
        of_has = range(number + 1, number + 1 + len(has))
        of_nearly = range(of_has.stop, of_has.stop + len(nearly))
        number += len(has) + len(nearly)
        if other is code:
            break
    assert {removed[row] for row in of_has if row in removed} == {code}
    assert not removed.keys() & set(of_nearly)
