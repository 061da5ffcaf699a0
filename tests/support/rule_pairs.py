"""Pairs for tests of the rules."""

from schemas.pairs import Conversation, Message, Origin, Pair

ROLES = {"s": "system", "u": "user", "a": "assistant", "t": "tool"}


def turns(roles: str, *texts: str) -> Conversation:
    """`turns("su", "Be brief.", "Hi")`: system, then user. Without texts, each has its own."""
    contents = texts or [f"turn {number}" for number in range(len(roles))]
    return tuple(Message(ROLES[role], text) for role, text in zip(roles, contents, strict=True))


def make(
    prompt: Conversation | str = "Hi",
    chosen: Conversation | str = "Hello, friend.",
    rejected: Conversation | str = "Go away.",
    scores: tuple[float | None, float | None] = (None, None),
) -> Pair:
    """A good pair, but for what is given; a text stands for one message."""
    prompt = turns("u", prompt) if isinstance(prompt, str) else prompt
    chosen = turns("a", chosen) if isinstance(chosen, str) else chosen
    rejected = turns("a", rejected) if isinstance(rejected, str) else rejected
    return Pair(prompt, chosen, rejected, Origin("f", 1), *scores)
