"""Benchmark prompts in training data: thirteen words in a row, or the whole short prompt."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orpo_pipeline.data.relations import decontamination
from orpo_pipeline.data.relations.decontamination import (
    RUN,
    Benchmarks,
    index_benchmarks,
    read_benchmarks,
)
from orpo_pipeline.data.relations.words import words_of
from schemas.errors import UserError

LONG = "Natalia sold clips to 48 of her friends in April, and then she sold half as many in May."
SHORT = "What is the capital of France?"
WORDS = LONG.rstrip(".").split()

BENCHMARKS = index_benchmarks([SHORT, LONG])


def overlap(benchmarks: Benchmarks, text: str) -> str | None:
    (found,) = benchmarks.overlaps([text])
    return found


def test_thirteen_words_in_a_row_are_found() -> None:
    run = " ".join(WORDS[2:15])
    assert overlap(BENCHMARKS, f"Well: {run.upper()} -- how many?") == f"{LONG[:57]}..."
    assert overlap(BENCHMARKS, LONG) == f"{LONG[:57]}..."


def test_twelve_words_are_not() -> None:
    assert overlap(BENCHMARKS, " ".join(WORDS[2:14]) + " instead") is None
    broken = [*WORDS[:12], "not", *WORDS[12:]]
    assert overlap(BENCHMARKS, " ".join(broken[:13] + broken[14:20])) is None


def test_a_short_prompt_is_found_only_as_the_whole_text() -> None:
    assert overlap(BENCHMARKS, "  what is the CAPITAL of\nFrance?") == SHORT
    assert overlap(BENCHMARKS, f"{SHORT} Answer briefly.") is None
    assert overlap(BENCHMARKS, "What is the capital of France") is None


def test_a_run_may_not_span_two_texts() -> None:
    halves = [" ".join(WORDS[:9]), " ".join(WORDS[9:])]
    assert BENCHMARKS.overlaps(halves) == [None, None]


def test_a_prompt_of_exactly_thirteen_words_is_a_run() -> None:
    prompt = " ".join(WORDS[:13])
    assert overlap(index_benchmarks([prompt]), f"x {prompt} y") is not None
    shorter = " ".join(WORDS[:12])
    assert overlap(index_benchmarks([shorter]), f"x {shorter} y") is None


def test_the_first_of_two_prompts_with_a_run_is_named() -> None:
    prompts = [f"{name} asks: {' '.join(WORDS[:14])}" for name in ("Ann", "Ben")]
    assert str(overlap(index_benchmarks(prompts), " ".join(WORDS[:14]))).startswith("Ann asks")


def test_equal_hashes_of_other_words_are_no_overlap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decontamination, "mixed", lambda hashes: hashes * 0)
    benchmarks = index_benchmarks([LONG])
    other = " ".join(f"word{number}" for number in range(20))
    assert overlap(benchmarks, other) is None
    assert overlap(benchmarks, LONG) is not None


def plain(prompts: list[str], text: str) -> bool:
    def runs(of: str) -> set[tuple[str, ...]]:
        words = words_of(of)
        return {tuple(words[at : at + RUN]) for at in range(len(words) - RUN + 1)}

    short = {" ".join(p.split()) for p in prompts if len(words_of(p)) < RUN}
    return " ".join(text.split()) in short or any(runs(p) & runs(text) for p in prompts)


TEXTS = st.lists(st.sampled_from(["a", "b", "?"]), max_size=30).map(" ".join)


@settings(max_examples=200, deadline=None)
@given(st.lists(TEXTS, max_size=4), st.lists(TEXTS, max_size=4))
def test_agrees_with_sets_of_runs(prompts: list[str], texts: list[str]) -> None:
    found = index_benchmarks(prompts).overlaps(texts)
    assert [hit is not None for hit in found] == [plain(prompts, text) for text in texts]


def test_files_of_both_kinds(tmp_path: Path) -> None:
    lines = tmp_path / "prompts.txt"
    lines.write_text(f"\ufeff{SHORT}\r\n\r\n{LONG}\r\n", encoding="utf-8")
    rows = tmp_path / "prompts.jsonl"
    rows.write_text('{"prompt": "What is the capital of France?", "id": 1}\n\n', encoding="utf-8")
    assert read_benchmarks(lines).prompts == (SHORT, LONG)
    assert read_benchmarks(rows).prompts == (SHORT,)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"prompt": "x"}\n{"prompt": 1}\n', "line 2 has no text"),
        ("a.jsonl", b'{"prompt": "x"}\n{"question": "y"}\n', "line 2 has no text"),
        ("a.jsonl", b'["x"]\n', "line 1 has no text"),
        ("a.jsonl", b'{"prompt": "x"}\n\n{"prompt\n', "line 3 is not JSON"),
        ("a.jsonl", b"[" * 100_000, "line 1 is not JSON"),
        ("a.txt", b"\n \n", "it holds no prompt"),
        ("a.txt", b"caf\xe9\n", "utf-8"),
        ("a.csv", b"x\n", "neither in .txt nor in .jsonl"),
    ],
)
def test_unusable_files_are_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        read_benchmarks(path)
    assert str(path) in str(caught.value)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="No such file"):
        read_benchmarks(tmp_path / "none.txt")
