"""Ids by table are the tokenizer's own, whatever the text."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)

from orpo_pipeline.data.tokens import word_table
from orpo_pipeline.data.tokens.word_cuts import GPT2, PatternCuts
from orpo_pipeline.data.tokens.word_table import LETTERS, WordTable

LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SENTENCES = ["It's the 2nd day, isn't it?\n\nYes: 1,234.5 km!", "Çà et là   œuvre “x” — 12 €"] * 3
BYTE_LEVEL = pre_tokenizers.ByteLevel(add_prefix_space=False)
WORDS_GIVEN = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
CUT_BY = {
    "gpt2": BYTE_LEVEL,
    "smollm2": pre_tokenizers.Sequence([pre_tokenizers.Digits(True), BYTE_LEVEL]),
    "llama3": pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(LLAMA3), "isolated"), WORDS_GIVEN]
    ),
}


def make_backend(pre_tokenizer: Any) -> Tokenizer:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizer
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=["<|end|>", "<|start|>", "<|start|>user"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(SENTENCES, trainer)
    return backend


def whole(backend: Tokenizer, texts: list[str]) -> list[list[int]]:
    return [e.ids for e in backend.encode_batch(texts, add_special_tokens=False)]


def make_table(backend: Tokenizer) -> WordTable:
    return WordTable(backend, lambda texts: whole(backend, texts))


TABLES = {name: (backend := make_backend(cut), make_table(backend)) for name, cut in CUT_BY.items()}
SIGNS = "’ \u00bd \u00e9 e\u0301 \u00df \u0416 — … € 漢字 \U0001f44d\U0001f3fd ا ٣"  # noqa: RUF001
SPACES = (" ", "  ", "\n", "\t", "\r\n", "\u00a0", "\u2028", "\x1c", "\u0085")
WORDS = "<|end|> <|start|> <|start|>user <|en 's 'S don't 12 3456 word Word _ -> ... @"
PIECES = st.sampled_from([*SIGNS.split(" "), *SPACES, *WORDS.split(" "), "x" * 50])
TEXTS = st.lists(st.one_of(PIECES, st.characters(exclude_categories=["Cs"])), max_size=20).map(
    "".join
)


@pytest.mark.parametrize("name", CUT_BY)
def test_the_known_patterns_are_encoded_by_table(name: str) -> None:
    backend, table = TABLES[name]
    assert table.in_use
    assert table.encode(SENTENCES) == whole(backend, SENTENCES)


@given(st.text())
def test_bytes_are_written_as_tokenizers_writes_them(text: str) -> None:
    ((letters, _),) = WORDS_GIVEN.pre_tokenize_str(f"a{text}")
    assert f"a{text}".encode().decode("latin-1").translate(LETTERS) == letters


@pytest.mark.parametrize("name", CUT_BY)
@settings(deadline=None, max_examples=300)
@given(texts=st.lists(TEXTS, max_size=5))
def test_any_text_has_the_tokenizers_own_ids(name: str, texts: list[str]) -> None:
    backend, table = TABLES[name]
    assert table.encode(texts) == whole(backend, texts)


def test_usual_characters_are_taken_by_table() -> None:
    letters = "".join(map(chr, (*range(0x20, 0x7F), *range(0xC0, 0x250), *range(0x400, 0x460))))
    usual = f"\n\t{letters} — “…” € かな 漢字 한글 العربية \U0001f44d →"
    for backend, table in TABLES.values():
        assert table.encode([usual]) == whole(backend, [usual])
        assert table._eligible.fullmatch(usual)


def test_marks_that_join_other_characters_are_left_to_the_tokenizer() -> None:
    # With NFC, e and an accent are one character, and so are two jamo.
    backend = make_backend(BYTE_LEVEL)
    backend.normalizer = normalizers.NFC()
    table = make_table(backend)
    texts = ["e\u0301", "x\u0301", "\u1112\u1161\u11ab", "\u00e9", "\u09c7\u09be"]
    assert table.encode(texts) == whole(backend, texts)
    assert [bool(table._eligible.fullmatch(text)) for text in texts] == [False] * 3 + [True, False]


def test_a_character_that_is_cut_otherwise_is_left_to_the_tokenizer() -> None:
    # Cut by another pattern: as if letters with accents were no letters.
    backend = make_backend(BYTE_LEVEL)
    table = make_table(backend)
    table._cuts = PatternCuts(GPT2.replace(r"\p{L}+", "[a-zA-Z]+"), [])
    texts = ["café au lait", "cafe au lait"]
    assert table.encode(texts) == whole(backend, texts)
    assert not table._eligible.fullmatch("é") and table._eligible.fullmatch("e")


@pytest.mark.parametrize(
    "pre_tokenizer",
    [
        pre_tokenizers.Metaspace(),
        pre_tokenizers.Whitespace(),
        pre_tokenizers.ByteLevel(add_prefix_space=True),
        WORDS_GIVEN,
        pre_tokenizers.Sequence([pre_tokenizers.Punctuation(), BYTE_LEVEL]),
    ],
)
def test_other_tokenizers_are_asked_for_the_whole(pre_tokenizer: Any) -> None:
    backend = make_backend(pre_tokenizer)
    table = make_table(backend)
    assert not table.in_use
    assert table.encode(SENTENCES) == whole(backend, SENTENCES)


def test_a_full_table_and_long_words_change_no_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = make_backend(BYTE_LEVEL)
    monkeypatch.setattr(word_table, "LARGEST", 5)
    table = make_table(backend)
    texts = [*SENTENCES, "an entirely new sentence", "y" * 500]
    assert table.encode(texts) == whole(backend, texts)
    assert table.encode([]) == []


def test_a_known_word_is_not_encoded_again() -> None:
    backend = make_backend(BYTE_LEVEL)
    table = make_table(backend)
    texts = ["zebra and quagga"]
    ids = table.encode(texts)
    table._model = None  # whoever asks it fails
    assert table.encode(texts * 2) == ids * 2
    with pytest.raises(AttributeError):
        table.encode(["okapi"])


def test_classes_that_only_regex_knows_do_not_stop_it() -> None:
    tekken = (
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}]*[\p{Ll}\p{M}]+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
    )
    cut = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(tekken), "isolated"), WORDS_GIVEN])
    backend = make_backend(cut)
    table = make_table(backend)
    assert table.in_use
    texts = [*SENTENCES, "CamelCase e\u0301tude"]
    assert table.encode(texts) == whole(backend, texts)


@pytest.mark.parametrize("greed", [{"lstrip": True}, {"rstrip": True}, {"single_word": True}])
def test_control_tokens_that_swallow_spaces_are_left_to_the_tokenizer(
    greed: dict[str, bool],
) -> None:
    backend = make_backend(BYTE_LEVEL)
    backend.add_special_tokens([AddedToken("<sep>", **greed)])
    table = make_table(backend)
    assert not table.in_use
    texts = ["user <sep> hello", "user<sep>hello"]
    assert table.encode(texts) == whole(backend, texts)
