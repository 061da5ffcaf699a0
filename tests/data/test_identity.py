"""Ids and folding: what counts as the same, and that the quick way is the exact one."""

import hashlib
import json
import unicodedata
from dataclasses import replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from orpo_pipeline.data.identity import canonical, folded, nfc, prompt_id, prompt_ids, row_id
from schemas.pairs import Conversation, Message, Origin, Pair

PROMPT = (Message("user", "Why is the sky blue?"),)
CHOSEN = (Message("assistant", "Air scatters blue light most."),)
REJECTED = (Message("assistant", "It mirrors the sea."),)
PAIR = Pair(PROMPT, CHOSEN, REJECTED, Origin("pairs.jsonl", 7))


def asking(*texts: str) -> Pair:
    return replace(PAIR, prompt=tuple(Message("user", text) for text in texts))


def test_row_id_changes_with_a_character_and_with_a_flipped_label() -> None:
    ids = {
        row_id(PAIR),
        row_id(replace(PAIR, chosen=REJECTED, rejected=CHOSEN)),
        row_id(replace(PAIR, rejected=(Message("assistant", "It mirrors the sea!"),))),
        row_id(asking("why is the sky blue?")),
        row_id(replace(PAIR, prompt=(Message("system", PROMPT[0].content),))),
        row_id(asking("Why is", " the sky blue?")),
    }
    assert len(ids) == 6


def test_row_id_is_of_the_content_alone() -> None:
    elsewhere = replace(PAIR, origin=Origin("b", 1), score_chosen=9.0, score_rejected=1.0)
    assert row_id(replace(elsewhere, source="web")) == row_id(PAIR)


def test_canonically_equal_texts_have_one_row_id() -> None:
    assert row_id(asking("caf\u00e9")) == row_id(asking("cafe\u0301"))


def test_prompt_id_ignores_case_white_space_and_compatibility_forms_only() -> None:
    same = ["Why is the sky blue?", " why  is\nthe SKY blue? ", "\uff37hy is the sky blue?"]
    assert len({prompt_id(asking(text)) for text in same}) == 1
    assert prompt_id(asking("Why is the sky blue")) != prompt_id(asking(same[0]))
    with_system = replace(PAIR, prompt=(Message("system", "Be kind."), *PROMPT))
    assert prompt_id(with_system) != prompt_id(PAIR)


def test_answered_beginnings_have_the_ids_that_they_have_as_prompts() -> None:
    said = (
        ("system", "Be kind."),
        ("user", "Hi"),
        ("assistant", "Yes?"),
        ("user", "A"),
        ("user", "B"),
    )
    turns = tuple(Message(role, text) for role, text in said)
    expected = [prompt_id(replace(PAIR, prompt=turns[:end])) for end in (2, 5)]
    assert prompt_ids(replace(PAIR, prompt=turns)) == expected
    assert prompt_ids(PAIR) == [prompt_id(PAIR)]
    assert prompt_ids(replace(PAIR, prompt=())) == [prompt_id(replace(PAIR, prompt=()))]


def test_ids_are_sha256_even_of_what_cannot_be_encoded() -> None:
    lone = asking("half \ud83d")
    assert len(row_id(lone)) == len(prompt_id(lone)) == 64


# Characters that normal forms, white space and case treat in their own ways, and surrogates.
TEXT = st.text(
    st.one_of(
        st.characters(),
        st.sampled_from(
            "aB \t\n\r\x0b\x1c\x1f\x85\u00a0\u00df\u0130\ufb01\uff37\u0301\u2126\ud800"
        ),
    ),
    max_size=30,
)


def slow_folded(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).split()).casefold()


def slow_id(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8", errors="surrogatepass")).hexdigest()


@settings(max_examples=300, deadline=None)
@given(TEXT)
def test_the_quick_forms_equal_the_slow_ones(text: str) -> None:
    assert nfc(text) == unicodedata.normalize("NFC", text)
    assert folded(text) == slow_folded(text)


@settings(max_examples=100, deadline=None)
@given(st.lists(TEXT, min_size=3, max_size=5))
def test_the_ids_equal_the_slow_ones(texts: list[str]) -> None:
    def listed(turns: Conversation) -> list[list[str]]:
        return [[m.role, unicodedata.normalize("NFC", m.content)] for m in turns]

    pair = replace(
        asking(*texts[2:]),
        chosen=(Message("assistant", texts[0]),),
        rejected=(Message("assistant", texts[1]),),
    )
    sides = (pair.prompt, pair.chosen, pair.rejected)
    assert [canonical(side) for side in sides] == [listed(side) for side in sides]
    assert row_id(pair) == slow_id([listed(side) for side in sides])
    assert prompt_id(pair) == slow_id([[m.role, slow_folded(m.content)] for m in pair.prompt])


@settings(max_examples=50, deadline=None)
@given(st.text())
def test_folding_is_stable_under_normal_forms_and_spacing(text: str) -> None:
    for form in ("NFC", "NFD", "NFKC", "NFKD"):
        assert folded(unicodedata.normalize(form, text)) == folded(text)
    assert folded(f" \n{text}\t") == folded(text)
