"""What a pair's texts may hold, told from a few passes in C over all of them at once.

Most pairs hold nothing that a rule would change, and this is how they pass in microseconds. A
suspicion costs time; only the rules themselves decide.
"""

import re
from collections.abc import Iterable
from typing import NamedTuple

# What is removed or changed (see characters.py) or damage (see text.py), beyond ASCII.
ODD_BEYOND_ASCII = re.compile(
    "[\x80-\x9f\xad\u200b-\u200d\u202a-\u202e\u2060\u2066-\u2069\ue000-\uf8ff\ufdd0-\ufdef\ufeff"
    "\ufff9-\uffff\ud800-\udfff\U000e0000-\U000e007f\U000f0000-\U0010ffff]"
)
ASCII = bytes(range(128))
CONTROLS = bytes({*range(32), 127} - set(b"\t\n"))
SEPARATORS = b" .-()?"  # `?` stands for every character beyond ASCII, such as a no-break space
RUN_CHARACTERS = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-+"
SHORTEST_SECRET = 20
"""Every secret of secrets.py has a run of `RUN_CHARACTERS` that is this long."""


def _table(fill: bytes, *classes: tuple[bytes, bytes]) -> bytes:
    """A translation of each class's characters to its one mark, and of all others to `fill`."""
    table = bytearray(fill * 256)
    for characters, mark in classes:
        for character in characters:
            table[character] = mark[0]
    return bytes(table)


SHAPES = _table(b"a", (b"0123456789", b"0"), (SEPARATORS, b"-"), (CONTROLS, b"!"), (b"+", b"+"))
RUNS = _table(b" ", (RUN_CHARACTERS, b"a"))
LONG_RUN = b"a" * SHORTEST_SECRET
NUMBERS = (b"000-0000", b"00000000")
"""One of these, or `+0`, is in the shape of every phone, card and account number."""


class Glance(NamedTuple):
    """Suspicions about a pair: False is certain."""

    odd_characters: bool
    secrets: bool
    personal_data: bool


def glance(texts: Iterable[str]) -> Glance:
    """What may be in any of the texts."""
    text = "\n".join(texts)
    plain = text.encode("ascii", "replace")
    shape = plain.translate(SHAPES)
    if b"!" in shape or not (text.isascii() or _is_usual(text)):
        return Glance(True, True, True)  # an invisible character may cut any of the others in two
    return Glance(
        False,
        LONG_RUN in plain.translate(RUNS),
        "@" in text
        or any(number in shape for number in NUMBERS)
        or ("+" in text and b"+0" in shape),
    )


def _is_usual(text: str) -> bool:
    # Bytes are sifted several times faster than characters, and few characters are left to judge.
    beyond = text.encode("utf-8", "surrogatepass").translate(None, ASCII)
    return ODD_BEYOND_ASCII.search(beyond.decode("utf-8", "surrogatepass")) is None
