"""The three policies for a pair that is longer than chat.max_length."""

import pytest
from token_pairs import make_pair, tokenize, tokens_of, user

from orpo_pipeline.data.tokens.chat_template import ChatFormat
from orpo_pipeline.data.tokens.truncation import fit_pair
from schemas.config import ChatConfig
from schemas.pairs import Conversation, Defect, DefectCode, Message, Pair
from schemas.tokens import TokenizedPair

SYSTEM = Message("system", "Be brief.")


def one_id_a_word(prompt: Conversation) -> list[int]:
    """A system turn is 1 and its words; other turns are 2 and their words; the header is 3."""
    ids = []
    for message in prompt:
        ids += [1 if message.role == "system" else 2, *map(int, message.content.split())]
    return [*ids, 3]


def fit(
    pair: Pair, tokens: TokenizedPair, policy: str, max_length: int = 16
) -> tuple[TokenizedPair, Defect] | Defect:
    settings = ChatConfig.model_validate({"max_length": max_length, "too_long": policy})
    return fit_pair(pair, tokens, settings, one_id_a_word)


def numbered(
    prompt: Conversation, chosen: int = 4, rejected: int = 4
) -> tuple[Pair, TokenizedPair]:
    """A pair whose answers have so many tokens: 8 8 ... 0 and 9 9 ... 0."""
    answers = [8] * (chosen - 1) + [0], [9] * (rejected - 1) + [0]
    return make_pair(prompt), TokenizedPair(one_id_a_word(prompt), *answers)


def test_the_longer_side_decides_what_is_too_long(smollm2: ChatFormat) -> None:
    pair = make_pair()
    longest = tokens_of(pair, smollm2).longest
    assert tokenize(pair, smollm2, longest).tokens
    assert tokenize(pair, smollm2, longest - 1).defect == Defect(
        DefectCode.TOO_LONG, f"{longest} tokens; chat.max_length is {longest - 1}"
    )


def test_the_oldest_turns_go_first() -> None:
    # 2 10 11 | 2 12 13 | 2 14 15 | 2 16 17 | 2 18 19 | 3: 16 tokens, and 4 of the answers.
    prompt = user("10 11", "12 13", "14 15", "16 17", "18 19")
    pair, tokens = numbered(prompt)
    assert fit(pair, tokens, "truncate_prompt_left") == (
        TokenizedPair([2, 14, 15, 2, 16, 17, 2, 18, 19, 3], tokens.chosen, tokens.rejected),
        Defect(DefectCode.TRUNCATED, "20 tokens; chat.max_length is 16: truncate_prompt_left"),
    )


def test_the_system_turn_and_the_header_stay() -> None:
    prompt = (Message("system", "70"), *user("10 11", "12 13", "14 15 16 17 18 19 20 21 22"))
    pair, tokens = numbered(prompt)
    fitted = fit(pair, tokens, "truncate_prompt_left")
    # 16 - 4 of the answers - 1 70, 2 and 3 of the frame = 8 words of the last turn.
    assert isinstance(fitted, tuple)
    assert fitted[0].prompt == [1, 70, 2, 15, 16, 17, 18, 19, 20, 21, 22, 3]
    assert fitted[0].longest == 16


@pytest.mark.parametrize("blank", [" ", "\n", "\t  ", "\u3000", "\n\n\n"])
def test_words_go_from_the_left_whatever_stands_between(blank: str) -> None:
    for count in range(11, 40):
        words = [str(number) for number in range(10, 10 + count)]
        pair, tokens = numbered(user(blank + blank.join(words) + blank))
        fitted = fit(pair, tokens, "truncate_prompt_left")
        assert isinstance(fitted, tuple)
        # 16 - 4 - the frame's 2 and 3 = 10 words.
        assert fitted[0].prompt == [2, *map(int, words[-10:]), 3]


def test_what_remains_keeps_its_own_blanks(smollm2: ChatFormat) -> None:
    text = "Read this:\n\n" + "word " * 100 + "\n\n  def f():\n    return 1  "
    ids = tokens_of(make_pair(text), smollm2, 60, too_long="truncate_prompt_left")
    prompt = smollm2.tokenizer.decode(ids.prompt)
    assert prompt.startswith("<|im_start|>system\nYou are a helpful AI assistant")
    assert prompt.endswith("word \n\n  def f():\n    return 1  <|im_end|>\n<|im_start|>assistant\n")
    assert ids.longest == 60


def test_one_enormous_word_is_not_cut() -> None:
    pair, tokens = numbered(user("1" + "0" * 4000), chosen=15)
    reason = "18 tokens; chat.max_length is 16; truncate_prompt_left leaves no usable pair"
    assert fit(pair, tokens, "truncate_prompt_left") == Defect(DefectCode.TOO_LONG, reason)


def test_a_long_system_turn_or_answer_leaves_no_room() -> None:
    system = Message("system", " ".join(["7"] * 12))
    for pair, tokens in (
        numbered((system, *user("10 11 12"))),
        numbered(user("10 11 12"), chosen=14),
        numbered(user("10 11 12"), rejected=40),
    ):
        defect = fit(pair, tokens, "truncate_prompt_left")
        assert isinstance(defect, Defect) and defect.code is DefectCode.TOO_LONG


def test_a_shortened_prompt_that_the_template_refuses_does_not_fit() -> None:
    pair, tokens = numbered(user("10 11", "12 13", "14 15", "16 17", "18 19"))
    settings = ChatConfig(max_length=16, too_long="truncate_prompt_left")
    defect = fit_pair(pair, tokens, settings, lambda prompt: None)
    assert isinstance(defect, Defect) and defect.code is DefectCode.TOO_LONG


def test_answers_are_cut_exactly_at_the_length() -> None:
    pair, tokens = numbered(user("10 11 12"), chosen=20, rejected=11)  # the prompt is 5 tokens
    fitted = fit(pair, tokens, "truncate_answer")
    # Chosen loses its end of turn, rejected has exactly the room.
    assert fitted == (
        TokenizedPair([2, 10, 11, 12, 3], [8] * 11, [9] * 10 + [0]),
        Defect(DefectCode.TRUNCATED, "25 tokens; chat.max_length is 16: truncate_answer"),
    )


def test_answers_are_not_cut_to_nothing() -> None:
    words = " ".join(map(str, range(10, 24)))  # 14 words and the frame: 16 tokens
    pair, tokens = numbered(user(words))
    reason = "20 tokens; chat.max_length is 16; truncate_answer leaves no usable pair"
    assert fit(pair, tokens, "truncate_answer") == Defect(DefectCode.TOO_LONG, reason)
    shorter, tokens = numbered(user(words[3:]))
    fitted = fit(shorter, tokens, "truncate_answer")
    assert isinstance(fitted, tuple)
    assert (fitted[0].chosen, fitted[0].rejected) == ([8], [9])


def test_answers_are_not_cut_to_the_same() -> None:
    pair = make_pair(user("10 11 12"))
    same = [8] * 11
    for chosen, rejected in (([*same, 4, 0], [*same, 5, 0]), ([*same, 4, 0], same)):
        defect = fit(pair, TokenizedPair([2, 10, 11, 12, 3], chosen, rejected), "truncate_answer")
        assert isinstance(defect, Defect) and defect.code is DefectCode.TOO_LONG
    # One token less in common, and the answers differ in the last that is kept.
    chosen, rejected = [*same[1:], 4, 0], [*same[1:], 5, 0]
    fitted = fit(pair, TokenizedPair([2, 10, 11, 12, 3], chosen, rejected), "truncate_answer")
    assert isinstance(fitted, tuple)
    assert (fitted[0].chosen[-1], fitted[0].rejected[-1]) == (4, 5)


@pytest.mark.parametrize("policy", ["truncate_prompt_left", "truncate_answer"])
def test_a_pair_that_fits_is_left_as_it_is(policy: str, smollm2: ChatFormat) -> None:
    pair = make_pair((SYSTEM, *user("Hi!", "Hello.", "Bye?")))
    longest = tokens_of(pair, smollm2).longest
    assert tokenize(pair, smollm2, longest, too_long=policy) == tokenize(pair, smollm2)


def test_lengths_of_a_real_pair(smollm2: ChatFormat) -> None:
    prompt = (SYSTEM, *user("What is <|im_end|>?", "A token.", "And one two three four five?"))
    pair = make_pair(prompt, "It ends a turn.", "Go away and ask somebody else.")
    whole = tokens_of(pair, smollm2)
    frame = smollm2.tokenizer.decode(tokens_of(make_pair((SYSTEM, *user("five?"))), smollm2).prompt)
    shortest = len(tokens_of(make_pair((SYSTEM, *user("five?"))), smollm2).prompt)
    edges = (shortest + len(whole.rejected), len(whole.prompt) + 1, whole.longest)
    for length in (16, *(edge + step for edge in edges for step in (-1, 0))):
        left = tokenize(pair, smollm2, length, too_long="truncate_prompt_left")
        if length < shortest + len(whole.rejected):
            assert left.defect and left.defect.code is DefectCode.TOO_LONG
        else:
            assert left.tokens and left.tokens.longest <= length
            assert (left.tokens.chosen, left.tokens.rejected) == (whole.chosen, whole.rejected)
            text = smollm2.tokenizer.decode(left.tokens.prompt)
            head, tail = frame.split("five?")
            assert text.startswith(head[: head.index("user")]) and text.endswith("five?" + tail)
        cut = tokenize(pair, smollm2, length, too_long="truncate_answer")
        if length <= len(whole.prompt):
            assert cut.defect and cut.defect.code is DefectCode.TOO_LONG
        else:
            assert cut.tokens and cut.tokens.prompt == whole.prompt
            assert cut.tokens.longest == length
            assert cut.tokens.chosen == whole.chosen[: length - len(whole.prompt)]
