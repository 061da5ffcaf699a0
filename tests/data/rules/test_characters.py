"""Characters that are taken out, and the same ones where they are needed."""

from collections import Counter

import pytest

from orpo_pipeline.data.rules.characters import repair_characters

FAMILY = "\U0001f468\u200d\U0001f469\u200d\U0001f467"
RAINBOW_FLAG = "\U0001f3f3\ufe0f\u200d\U0001f308"
PERSIAN = "\u0645\u06cc\u200c\u06a9\u0646\u062f"
HINDI = "\u0915\u094d\u200d\u0937"
KHMER = "\u1798\u17b6\u179f\u200b\u1793\u17c3"


@pytest.mark.parametrize(
    ("text", "repaired", "changes"),
    [
        ("a\r\nb\r\n", "a\nb\n", {"carriage return": 2}),
        ("a\rb", "a\nb", {"carriage return": 1}),
        ("a\r\r\nb", "a\n\nb", {"carriage return": 2}),
        ("\ufeffHello", "Hello", {"byte order mark": 1}),
        ("He\ufeffllo", "Hello", {"byte order mark": 1}),
        ("zero\u200b\u200bwidth", "zerowidth", {"zero-width space": 2}),
        ("no\u2060break", "nobreak", {"word joiner": 1}),
        ("hy\xadphen", "hyphen", {"soft hyphen": 1}),
        ("a\u200cb\u200d c", "ab c", {"zero-width non-joiner": 1, "zero-width joiner": 1}),
        ("\u043f\u200c\u0440", "\u043f\u0440", {"zero-width non-joiner": 1}),
        # One run hides the letters of another text: all of it goes, also beside an emoji.
        ("ok\u200b\u2060\u200b", "ok", {"zero-width space": 2, "word joiner": 1}),
        ("\U0001f44d\u200b\u200b", "\U0001f44d", {"zero-width space": 2}),
        (f"{PERSIAN}\u200b", PERSIAN, {"zero-width space": 1}),
        # What has become neighbours is composed, as all text here is (NFC).
        ("e\u200b\u0301", "\u00e9", {"zero-width space": 1}),
        ("\r\u200b\n", "\n", {"zero-width space": 1, "carriage return": 1}),
    ],
)
def test_characters_repaired(text: str, repaired: str, changes: dict[str, int]) -> None:
    assert repair_characters(text) == (repaired, Counter(changes))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "plain\ttext\n",
        "na\u00a0ja \u2014 \u201cquoted\u201d",
        FAMILY,
        RAINBOW_FLAG,
        PERSIAN,
        HINDI,
        KHMER,
        "\u0647\u200d",  # Arabic heh in the form that joins the next letter
        "\u200d\u0647",
        "\u200e\u05d0\u200f",
        "\ufffd\x00\u202e",  # damage is not repaired
    ],
)
def test_nothing_to_repair(text: str) -> None:
    assert repair_characters(text) == (text, Counter())


def test_a_run_keeps_what_the_script_needs() -> None:
    assert repair_characters("\u1798\u200b\u200b\u1793")[0] == "\u1798\u200b\u1793"
    assert repair_characters("\u0645\u200b\u200c\u06a9")[0] == "\u0645\u200c\u06a9"
    assert repair_characters("x\u200b\u1793")[0] == "x\u1793"
