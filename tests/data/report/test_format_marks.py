"""Marks of format: what counts, and what only looks like it."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orpo_pipeline.data.identity import folded
from orpo_pipeline.data.report.format_marks import format_marks

LISTS, HEADINGS, CODE, BOLD, WORDS = range(5)

ANSWER = """# Bread

A **good** loaf needs `flour` and *time*.

1. Mix
2. Wait
   - an hour
   - or **two days**

## Code
```python
# not a heading
- 1
print(**{})
```
Done."""


def test_an_answer_counted_by_hand() -> None:
    # lists: 1. 2. - -; headings: # Bread, ## Code; code: `flour` and the block; bold: good, two
    # days. Words a line: 2, 7, 2, 2, 3, 4, 2, 1, 4, 2, 1, 1, 1 = 32.
    assert format_marks(ANSWER) == (4, 2, 2, 2, 32)


def test_nothing_has_no_marks() -> None:
    assert format_marks("") == (0, 0, 0, 0, 0)
    assert format_marks(" \n\t ") == (0, 0, 0, 0, 0)


@pytest.mark.parametrize(
    "line",
    ["- a", "* a", "+ a", "\u2022 a", "1. a", "12) a", "  - a", "\t- a", "- **a**", "* **a**"],
)
def test_list_items(line: str) -> None:
    assert format_marks(f"So:\n{line}\nEnd")[LISTS] == 1
    assert format_marks(line)[LISTS] == 1
    assert format_marks(line.replace("a", "a\r"))[LISTS] == 1


@pytest.mark.parametrize(
    "line",
    [
        *("-5 degrees", "--- ", "---", "***", "* * *", "- - -", "- ", "-", "1."),
        *("1.5 litres", "2019. A year", "**Bold** line", "a - b", "1 . a", "\u0663. a"),
    ],
)
def test_lines_that_only_look_like_list_items(line: str) -> None:
    assert format_marks(f"So:\n{line}\nEnd")[LISTS] == 0


@pytest.mark.parametrize("line", ["# A", "###### A", "  ## A"])
def test_headings(line: str) -> None:
    assert format_marks(f"So:\n{line}\nEnd")[HEADINGS] == 1


@pytest.mark.parametrize("line", ["#hashtag", "####### A", "# ", "#", "C # sharp", "#1 choice"])
def test_lines_that_only_look_like_headings(line: str) -> None:
    assert format_marks(f"So:\n{line}\nEnd")[HEADINGS] == 0


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("`a` and `b`", 2),
        ("a ` b\nc ` d", 0),
        ("one ` alone", 0),
        ("```\na\n```", 1),
        ("```python\na\n```\n`b`\n~~~\nc\n~~~", 3),
        ("```\nnever closed\n# a\n- b", 1),
        ("````\n```\n````\nend", 1),
        ("   ```\n   a\n   ```", 1),
        ("```inline``` is no block", 1),
    ],
)
def test_code(text: str, code: int) -> None:
    marks = format_marks(text)
    assert marks[CODE] == code
    assert marks[LISTS] == marks[HEADINGS] == marks[BOLD] == 0


def test_lines_after_a_closed_block_count_again() -> None:
    assert format_marks("```\n- a\n```\n- b\n# C")[:3] == (1, 1, 1)


@pytest.mark.parametrize(
    ("text", "bold"),
    [
        ("**a** b **c d**", 2),
        ("**a\nb**", 0),
        ("2 ** 3 ** 4", 0),
        ("`**a` and `**b`", 0),
        ("**use `a`**", 1),
        ("****", 0),
        ("***a***", 1),
        ("** a**", 0),
    ],
)
def test_bold(text: str, bold: int) -> None:
    assert format_marks(text)[BOLD] == bold


def test_counts_fit_sixteen_bits() -> None:
    assert format_marks("- a `b` **c**\n# d\n" * 70_000) == (65_535,) * 5


@settings(deadline=None)
@given(st.text(alphabet="a1 -*+#`~.\n\u2022\r\t", max_size=200))
def test_any_text_is_counted_and_marks_never_outnumber_words(text: str) -> None:
    lists, headings, code, _, words = format_marks(text)
    assert min(lists, headings, code) >= 0
    assert lists + headings <= words == len(text.split())


@settings(deadline=None)
@given(st.text(max_size=100), st.text(max_size=100))
def test_paragraphs_without_code_add_up(first: str, second: str) -> None:
    first, second = (t.replace("`", "").replace("~", "") for t in (first, second))
    both = format_marks(f"{first}\n\n{second}")
    apart = zip(format_marks(first), format_marks(second), strict=True)
    assert both == tuple(a + b for a, b in apart)


@pytest.mark.parametrize(
    "unit", ["`", "``a", "**a", "*", "#", "1", "- ", "```\n", "~~~`\n", "# \t"]
)
def test_a_megabyte_of_one_sign_is_counted(unit: str) -> None:
    text = unit * (2**20 // len(unit))
    assert all(0 <= count <= 65_535 for count in format_marks(text))


@given(st.text(alphabet=st.characters(max_codepoint=127), max_size=40))
def test_words_of_an_ascii_text_can_be_counted_in_its_folded_form(text: str) -> None:
    same = folded(text)
    assert format_marks(text, same.count(" ") + bool(same)) == format_marks(text)
