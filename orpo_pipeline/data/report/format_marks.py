"""Marks of Markdown format in an answer, counted as a person would see them."""

import re

# Single backticks on one line; a stray one does not pair with the next paragraph's.
INLINE_CODE = re.compile(r"`[^`\n]+`")
BOLD = re.compile(r"\*\*(?=[^\s*])[^*\n]+(?<=\S)\*\*")
# A heading or a list item. The leading line end lets the search skip all other text quickly.
# Three digits at most: "2019. A year" is a sentence. A row of dashes is a rule, not a list.
LINE_MARK = re.compile(
    r"\n[ \t]*(?:(#{1,6}[ \t]+[^\s#])|[-*+\u2022][ \t]+(?:[^\s*-]|\*\*)|[0-9]{1,3}[.)][ \t]+\S)"
)
FENCES = ("```", "~~~")
MOST = 65_535  # what 16 bits hold; an answer beyond that is not one


def format_marks(text: str, words: int | None = None) -> tuple[int, int, int, int, int]:
    """Counts of (list items, headings, code, bold, words) in an answer, each at most 65,535.

    Code is fenced blocks and `inline` spans. What stands in code is code: a `# comment` there is no
    heading and `**kwargs` is not bold. An unclosed fence runs to the end, as in CommonMark. Words
    are separated by white space; who has counted them gives `words`. Linear in the length of the
    text, whatever it holds.
    """
    if words is None:
        words = len(text.split())
    code = 0
    if "```" in text or "~~~" in text:
        text, code = _without_fences(text)
    if "`" in text:
        text, spans = INLINE_CODE.subn("`", text)
        code += spans
    bold = len(BOLD.findall(text)) if "**" in text else 0
    lines = LINE_MARK.findall("\n" + text)
    headings = sum(map(bool, lines))
    lists = len(lines) - headings
    return (
        min(lists, MOST),
        min(headings, MOST),
        min(code, MOST),
        min(bold, MOST),
        min(words, MOST),
    )


def _without_fences(text: str) -> tuple[str, int]:
    """The lines outside of fenced blocks, and the number of blocks."""
    outside: list[str] = []
    blocks = 0
    fence = ""
    for line in text.split("\n"):
        start = line.strip()
        if fence:
            # Only a bare run of the same sign, at least as long, closes: a nested one does not.
            if start.startswith(fence) and not start.strip(fence[0]):
                fence = ""
        elif start.startswith(FENCES) and "`" not in start.lstrip("`"):
            fence = start[: len(start) - len(start.lstrip(start[0]))]
            blocks += 1
        else:
            outside.append(line)
    return "\n".join(outside), blocks
