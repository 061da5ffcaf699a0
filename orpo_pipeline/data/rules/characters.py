"""Characters that nobody sees or means: they are taken out, and the row is trained on without."""

import re
import unicodedata
from collections import Counter

# Which scripts join their letters or have no spaces between words: there a joiner or a zero-width
# space changes what is read. Emoji are joined to one picture. Everything below Armenian (Latin,
# Greek, Cyrillic) and the general punctuation needs neither.
_PLAIN = "\x00-\u052f\u2000-\u200a\u200e-\u205f\u3000-\u303f"
_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u1950-\u19ff\u1a20-\u1aaf\ua9e0-\uaa7f"
NEEDS_JOINERS = re.compile(f"[^{_PLAIN}]")
NEEDS_BREAKS = re.compile(f"[{_UNSPACED}]")  # Thai, Lao, Burmese, Khmer, Tai

INVISIBLE = re.compile("[\xad\u200b-\u200d\u2060\ufeff]+")
JOINERS = re.compile("[\u200c\u200d]")
BREAK = "\u200b"
NAMES = {
    "\xad": "soft hyphen",
    "\u200b": "zero-width space",
    "\u200c": "zero-width non-joiner",
    "\u200d": "zero-width joiner",
    "\u2060": "word joiner",
    "\ufeff": "byte order mark",
}
LINE_END = "carriage return"


def repair_characters(text: str) -> tuple[str, Counter[str]]:
    """The text with `\\n` line ends and without invisible characters, and what was changed.

    Joiners stay next to scripts and emoji that are written with them, a zero-width space stays
    between letters of a script without spaces. Unicode's normal form C is restored.
    """
    changed: Counter[str] = Counter()

    def kept(found: re.Match[str]) -> str:
        start, end = found.span()
        return _what_stays(found.group(), text[max(0, start - 1) : start], text[end : end + 1])

    repaired = INVISIBLE.sub(kept, text)
    if repaired != text:
        lost = {name: text.count(c) - repaired.count(c) for c, name in NAMES.items()}
        changed.update({name: count for name, count in lost.items() if count})
        repaired = unicodedata.normalize("NFC", repaired)
    if "\r" in repaired:
        changed[LINE_END] = repaired.count("\r")
        repaired = repaired.replace("\r\n", "\n").replace("\r", "\n")
    return repaired, changed


def _what_stays(run: str, before: str, after: str) -> str:
    if NEEDS_JOINERS.match(before) or NEEDS_JOINERS.match(after):
        joiners = "".join(JOINERS.findall(run))
        if joiners:
            return joiners
    between = NEEDS_BREAKS.match(before) and NEEDS_BREAKS.match(after)
    return BREAK if between and BREAK in run else ""
