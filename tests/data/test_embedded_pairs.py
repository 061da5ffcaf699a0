"""The packaged preference pairs keep what their README promises."""

import importlib.resources
import re
import unicodedata
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl
import pytest
from dialect_rows import parse_pair
from rows import read_rows

from orpo_pipeline.data.identity import folded, prompt_id, row_id
from orpo_pipeline.data.reading.files import EMBEDDED_PAIRS, SourceFile
from orpo_pipeline.data.relations.contradictions import contradiction_reasons
from orpo_pipeline.data.relations.words import text_hash
from orpo_pipeline.data.rules.checks import check_pair
from schemas.config import DataConfig
from schemas.pairs import Defect, DefectCode, Pair

FOLDER = Path(str(importlib.resources.files("orpo_pipeline.data") / "embedded"))

PLANTED = {
    DefectCode.BROKEN_ROW: 3,
    DefectCode.MISSING_FIELD: 3,
    DefectCode.WRONG_TYPE: 1,
    DefectCode.UNSUPPORTED_CONTENT: 1,
    DefectCode.PROMPTS_DIFFER: 2,
    DefectCode.WRONG_ROLES: 3,
    DefectCode.ANSWER_NOT_ASSISTANT: 2,
    DefectCode.EMPTY_TEXT: 3,
    DefectCode.IDENTICAL_ANSWERS: 4,
    DefectCode.DAMAGED_CHARACTERS: 3,
    DefectCode.LEAKED_ROLE_MARKER: 2,
    DefectCode.SCORE_INVERTED: 1,
    DefectCode.SCORE_TIE: 1,
    DefectCode.CONTRADICTION: 2,
}
# Only a tokenizer knows its control tokens, so these rows pass every check on text.
CONTROL_TOKEN_ROWS = 2
DUPLICATES = 4
FLAWS = ("evasive", "padded", "wrong")
SIGNS = frozenset("¿÷")  # beyond ASCII and letters, all that the clean rows use


@dataclass
class Sorted:
    """The file's lines by verdict; `clean` keeps each pair with its topic and flaw."""

    lines: int = 0
    found: dict[str, list[int]] = field(default_factory=dict)
    clean: list[tuple[Pair, str, str]] = field(default_factory=list)

    def report(self, code: str, line: int) -> None:
        self.found.setdefault(code, []).append(line)


@pytest.fixture(scope="module")
def pairs() -> Sorted:
    result = Sorted()
    passed: list[tuple[Pair, str, str]] = []
    seen: set[str] = set()
    for raw in read_rows(SourceFile(FOLDER / EMBEDDED_PAIRS, EMBEDDED_PAIRS)):
        result.lines += 1
        line = raw.origin.row
        if isinstance(raw.value, Defect):
            result.report(raw.value.code, line)
            continue
        pair = parse_pair(raw.value, raw.origin)
        defect = pair if isinstance(pair, Defect) else check_pair(pair, DataConfig()).defect
        if isinstance(pair, Defect) or defect is not None:
            assert defect is not None
            result.report(defect.code, line)
        elif row_id(pair) in seen:
            result.report("duplicate", line)
        else:
            seen.add(row_id(pair))
            passed.append((pair, raw.value["topic"], raw.value["flaw"]))
    contradicting = _contradicting([pair for pair, _, _ in passed])
    for index, (pair, topic, flaw) in enumerate(passed):
        if index in contradicting:
            result.report(DefectCode.CONTRADICTION, pair.origin.row)
        elif any("<|" in text for text in _texts(pair)):
            result.report(DefectCode.CONTROL_TOKEN_NEUTRALISED, pair.origin.row)
        else:
            result.clean.append((pair, topic, flaw))
    return result


def _contradicting(pairs: list[Pair]) -> set[int]:
    rows = {
        "prompt_id": [prompt_id(pair) for pair in pairs],
        "chosen_key": [text_hash(folded(pair.chosen[-1].content)) for pair in pairs],
        "rejected_key": [text_hash(folded(pair.rejected[-1].content)) for pair in pairs],
    }
    types = {"chosen_key": pl.UInt64, "rejected_key": pl.UInt64}
    reasons = contradiction_reasons(pl.DataFrame(rows, schema_overrides=types))
    return set(reasons.is_not_null().arg_true())


def test_each_planted_defect_is_found_and_nothing_else(pairs: Sorted) -> None:
    expected: dict[str, int] = {code.value: count for code, count in PLANTED.items()}
    expected["control_token_neutralised"] = CONTROL_TOKEN_ROWS
    expected["duplicate"] = DUPLICATES
    assert {code: len(lines) for code, lines in pairs.found.items()} == expected


def test_planted_share_is_about_five_percent(pairs: Sorted) -> None:
    assert 0.04 < 1 - len(pairs.clean) / pairs.lines < 0.06


def test_planted_defects_are_spread_over_the_file(pairs: Sorted) -> None:
    planted = [line for lines in pairs.found.values() for line in lines]
    tenths = Counter((line - 1) * 10 // pairs.lines for line in planted)
    assert all(2 <= tenths[tenth] <= 6 for tenth in range(10)), tenths


def test_readme_lists_the_lines_where_the_defects_are(pairs: Sorted) -> None:
    rows = re.findall(r"^\| `(\w+)` \| (\d+) \| ([\d, ]+) \|", _readme(), flags=re.MULTILINE)
    listed = {code: [int(line) for line in lines.split(",")] for code, _, lines in rows}
    assert listed == pairs.found
    assert {code: int(count) for code, count, _ in rows} == {
        code: len(lines) for code, lines in pairs.found.items()
    }


def test_readme_counts_the_clean_rows_by_topic_and_flaw(pairs: Sorted) -> None:
    rows = re.findall(r"^\| (\w+) \| (\d+) \| (\d+) \| (\d+) \|", _readme(), flags=re.MULTILINE)
    listed = Counter(
        {
            (topic, flaw): int(count)
            for topic, *counts in rows
            for flaw, count in zip(FLAWS, counts, strict=True)
        }
    )
    # Counter equality counts a missing key as zero.
    assert listed == Counter((topic, flaw) for _, topic, flaw in pairs.clean)


def test_at_least_600_prompts_and_none_twice(pairs: Sorted) -> None:
    prompts = {prompt_id(pair) for pair, _, _ in pairs.clean}
    assert len(prompts) == len(pairs.clean) >= 600


def test_length_does_not_give_the_label_away(pairs: Sorted) -> None:
    lengths = [
        (len(pair.chosen[0].content.split()), len(pair.rejected[0].content.split()))
        for pair, _, _ in pairs.clean
    ]
    longer = sum(rejected > chosen for chosen, rejected in lengths) / len(lengths)
    assert 0.45 <= longer <= 0.55
    assert all(12 <= words <= 70 for both in lengths for words in both)


def test_clean_rows_are_proper_text(pairs: Sorted) -> None:
    strange = {
        (pair.origin.row, character)
        for pair, _, _ in pairs.clean
        for text in _texts(pair)
        for character in text
        if not _is_proper(character)
    }
    assert strange == set()
    assert all(
        text == text.strip() == unicodedata.normalize("NFC", text)
        for pair, _, _ in pairs.clean
        for text in _texts(pair)
    )


def test_clean_rows_alternate_roles(pairs: Sorted) -> None:
    shapes = Counter(tuple(message.role for message in pair.prompt) for pair, _, _ in pairs.clean)
    assert set(shapes) == {("user",), ("system", "user"), ("user", "assistant", "user")}
    assert min(shapes.values()) >= 60
    for pair, _, _ in pairs.clean:
        assert [m.role for m in (*pair.chosen, *pair.rejected)] == ["assistant", "assistant"]


def _texts(pair: Pair) -> list[str]:
    return [message.content for message in (*pair.prompt, *pair.chosen, *pair.rejected)]


def _is_proper(character: str) -> bool:
    if character.isascii():
        return character.isprintable() or character == "\n"
    return unicodedata.category(character) in ("Lu", "Ll") or character in SIGNS


def _readme() -> str:
    return (FOLDER / "README.md").read_text(encoding="utf-8")
