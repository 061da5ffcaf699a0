"""Pairs and their token ids for tests."""

from collections.abc import Sequence

from orpo_pipeline.data.tokens.chat_template import ChatFormat
from orpo_pipeline.data.tokens.tokenization import PairTokenizer, Tokenized
from schemas.config import ChatConfig
from schemas.pairs import Conversation, Message, Origin, Pair
from schemas.tokens import TokenizedPair


def turns(*messages: dict[str, str]) -> Conversation:
    return tuple(Message(m["role"], m["content"]) for m in messages)


def user(*contents: str) -> Conversation:
    """Contents of user, assistant, user, ... turns."""
    return tuple(
        Message("assistant" if number % 2 else "user", text) for number, text in enumerate(contents)
    )


def make_pair(
    prompt: str | Conversation = "Hi!", chosen: str = "Hello.", rejected: str = "Go away."
) -> Pair:
    return Pair(
        user(prompt) if isinstance(prompt, str) else prompt,
        (Message("assistant", chosen),),
        (Message("assistant", rejected),),
        Origin("f", 1),
    )


def tokenize_all(
    pairs: Sequence[Pair], chat: ChatFormat, max_length: int = 1000, **settings: str
) -> list[Tokenized]:
    config = ChatConfig.model_validate({"max_length": max_length, **settings})
    return PairTokenizer(chat, config).tokenize(pairs)


def tokenize(pair: Pair, chat: ChatFormat, max_length: int = 1000, **settings: str) -> Tokenized:
    (result,) = tokenize_all([pair], chat, max_length, **settings)
    return result


def tokens_of(
    pair: Pair, chat: ChatFormat, max_length: int = 1000, **settings: str
) -> TokenizedPair:
    result = tokenize(pair, chat, max_length, **settings)
    assert result.tokens is not None, result
    return result.tokens
