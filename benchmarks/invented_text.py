"""Text that looks like English to a tokenizer, by the million, from a seed.

Words are drawn by rank as in the real sample, where the ten most frequent are 23 % of all words,
the hundred 43 %, the thousand 70 %, the five thousand 90 %: 220 common English ones, compositions
of real stems and endings, and beyond rank 60,000 invented names, terms and numbers without end, so
that the number of different words grows with the text as it does in the sample (as n**0.63). What
remembers words therefore has here what it would have there. Every text has a subject, a few words
that return. Sentences, paragraphs, lists, headings, code and characters beyond ASCII are about as
frequent as in the sample; the sentences mean nothing.
"""

import random
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.int64]

COMMON = """
the and to a of in is for that you with can it as or I on are this your be by an their have from
not if we they will was more use which help at such time has these answer question how also here
using other provide about create any like all one what some but information its new into there my
based make given example each would used may no them he user system when while should do code his
first her me could who input up our through name so people between work than then only most many
over two way after where good know being much need out different number data world following
because process include important list both even those very well just see text does please it's
don't can't I'm now did get go day say man old year own too few let put end why try ask men run
far set off yes big got low top age ago job later same must still back down never life long again
without home under last right high every another part place small large next early young able
better best less until since against always often today however during before around though might
great she had been said came made went took told left felt
"""
STEMS = """
act add art bank bear blend board book brand bridge build business care cast cell center change
charge chart check civil claim class clean clear cloud coast common compete compose compute
concern condition connect consider contain context control converse cover credit cross culture
current cycle deal decide define deliver demand depend design detail develop differ digit direct
discover display distribute document domain draft dream dress drink economy edit educate effect
electric element employ energy engage engine enter environment equal estimate event examine
exercise exist expect experience explain express extend factor fair farm feed field figure film
final finish fit flow focus follow force form found frame free front fund future garden general
govern grant graph ground group grow guard guide hand harvest head health heat history hold host
house human imagine import impress improve indicate industry inform inspire instruct integrate
intent interest introduce invent invest iron issue journey judge just keep kind land language
large law lead learn legal level light limit line listen literal local locate logic machine main
manage mark market mass material measure mechanic medicine memory mention method mind mine model
modern moment motion mount music nation nature network norm note object observe offer operate
opinion order organ origin outline pack paint paper part pass path pattern pay perform permanent
person phrase physic picture plan plant play point policy popular port position power practice
prefer prepare present press prevent price principle problem produce profession program project
protect prove public purpose quality quest raise react reason record reduce refer reflect reform
region regulate relate release rely report represent require research resource respond result
return review risk river road role rule safe sample scale scene school science search season
secure select sense separate series serve set shape share shift simple situate skill social soft
solution sound source speak special spirit stand start state station store strategy stream
structure student style subject success suggest support surface sustain teach team technique
temper term test theory think thought tour trade tradition train transform transport travel treat
trend turn type understand universe value vary view visit voice watch water weight win wonder word
write
"""
BEFORE = ("", "", "", "re", "un", "in", "pre", "over", "inter", "sub", "trans", "dis", "multi")
BEHIND = (
    *("", "s", "ed", "ing", "er", "ion", "al", "ly", "ment", "ness", "able", "ity", "ive", "ist"),
    *("ation", "ful", "ism", "ance", "ers", "ings"),
)
FREQUENT = ("", "s", "ed", "ing", "er", "ly")
ACCENTED = ("café", "naïve", "München", "São", "Zoë", "façade", "piñata", "crème", "Ångström", "🙂")
SYLLABLES = (
    [chr(0x430 + number) for number in range(32)],  # Cyrillic
    [chr(0x4E00 + 29 * number) for number in range(300)],  # Han
    [
        a + b + c
        for a in ("", "c", "m", "r", "t")
        for b in "aei\u00edo\u00f3"
        for c in ("", "n", "s")
    ],
)
FOREIGN_WORDS = 1500  # of each of these scripts

SAMPLE_RANKS = (1, 10, 100, 1000, 5000, 20_000, 60_000)
SAMPLE_SHARES = (0.05, 0.195, 0.425, 0.695, 0.91, 0.97, 0.986)
HEAPS = 0.63  # n words have n**HEAPS different ones: the sample has, from 50,000 to 400,000 words
TABLE = 2**21  # ranks are drawn from a table of so many entries
SUBJECT_WORDS, SUBJECT_SHARE = 24, 0.08
FIRST_SUBJECT, SUBJECT_RANKS = 250, 2000  # subjects are about so many words from there on
SENTENCE_END, COMMA = 1 / 14, 0.06  # shares of words behind which they stand
SNIPPETS, SNIPPET_WORDS = 512, 45

PROSE, BULLETS, NUMBERED, HEADED, CODE = range(5)
SPACE, COMMA_SPACE, STOP, QUESTION, PARAGRAPH, BULLET, HEADING, DASH, APOSTROPHE, LAST = range(10)
BETWEEN = [" ", ", ", ". ", "? ", ".\n\n", ".\n- ", ".\n\n## ", " — ", "\u2019s ", "."]
FIRST_NUMBER, MOST_ITEMS = len(BETWEEN), 12
BETWEEN += [f".\n{number}. " for number in range(1, MOST_ITEMS + 1)]


@dataclass(frozen=True)
class Layout:
    """How long each of T texts is, what it is about, and what it looks like; each (T,)."""

    words: Numbers
    subject: Numbers
    """Texts of one subject have one number."""
    style: Numbers
    typographic: NDArray[np.bool_]
    """Has dashes, apostrophes and accents beyond ASCII."""
    foreign: Numbers
    """0: English; 1, 2, 3: another script."""


class TextMaker:
    """Writes texts. Building it makes the vocabulary, always the same."""

    def __init__(self) -> None:
        english, foreign = _english(), _foreign()
        self._english = len(english)
        both = english + foreign + [word[:1].upper() + word[1:] for word in english + foreign]
        self._words = np.array(both, dtype=object)
        self._capital = len(english) + len(foreign)
        ranks = np.log(np.arange(1, self._english + 1))
        shares = np.interp(ranks, np.log(SAMPLE_RANKS), SAMPLE_SHARES)
        drawn = (np.arange(TABLE) + 0.5) / TABLE * shares[-1]
        self._table = np.searchsorted(shares, drawn).astype(np.int32)
        self._between = np.array(BETWEEN, dtype=object)
        self._accented = np.array(ACCENTED, dtype=object)
        self._beginnings, self._endings = (np.array(part, dtype=object) for part in _rare_parts())
        self._snippets = _snippets()

    def write(self, layout: Layout, rng: np.random.Generator) -> list[str]:
        """The texts."""
        starts = np.concatenate([[0], np.cumsum(layout.words)])
        total = int(starts[-1])
        text = np.repeat(np.arange(len(layout.words)), layout.words)
        last = np.zeros(total, dtype=np.bool_)
        last[starts[1:] - 1] = True
        ends = (rng.random(total, dtype=np.float32) < SENTENCE_END) | last
        between = self._separators(layout, text, starts, ends, rng)
        between[last] = LAST
        parts = np.empty(2 * total, dtype=object)
        parts[0::2] = self._draw(layout, text, ends, rng)
        parts[1::2] = self._between[between]
        self._add_accents(parts, layout.typographic[text], rng)
        self._add_code(parts, layout, starts, rng)
        pieces, bounds = parts.tolist(), (2 * starts).tolist()
        return [
            "".join(pieces[bounds[number] : bounds[number + 1]])
            for number in range(len(bounds) - 1)
        ]

    def _draw(
        self, layout: Layout, text: Numbers, ends: NDArray[np.bool_], rng: np.random.Generator
    ) -> NDArray[np.object_]:
        total = len(text)
        drawn = self._table[rng.integers(0, TABLE, total, dtype=np.int32)]
        about = rng.random(total, dtype=np.float32) < SUBJECT_SHARE
        first = FIRST_SUBJECT + layout.subject[text[about]] % SUBJECT_RANKS
        drawn[about] = first + rng.integers(0, SUBJECT_WORDS, len(first))
        foreign = layout.foreign[text]
        abroad = foreign > 0
        if abroad.any():
            base = self._english + (foreign[abroad] - 1) * FOREIGN_WORDS
            drawn[abroad] = base + drawn[abroad] % FOREIGN_WORDS
        capital = np.concatenate([[True], ends[:-1]])
        found: NDArray[np.object_] = self._words[drawn + capital * self._capital]
        rare = np.flatnonzero(rng.random(total, dtype=np.float32) > SAMPLE_SHARES[-1])
        found[rare] = self._rare(rare, rng)
        return found

    def _rare(self, places: Numbers, rng: np.random.Generator) -> NDArray[np.object_]:
        """Words beyond the vocabulary: ranks without end, by Zipf's law of exponent 1 / HEAPS."""
        tail = (1 - rng.random(len(places))) ** (-HEAPS / (1 - HEAPS))
        rank = np.minimum(SAMPLE_RANKS[-1] * tail, 2.0**50).astype(np.int64)
        first, second = rank % len(self._beginnings), rank // len(self._beginnings)
        third = second // len(self._endings)
        words = self._beginnings[first] + self._endings[second % len(self._endings)]
        far = third > 0
        words[far] += self._endings[third[far] % len(self._endings)]
        return words

    def _separators(
        self,
        layout: Layout,
        text: Numbers,
        starts: Numbers,
        ends: NDArray[np.bool_],
        rng: np.random.Generator,
    ) -> Numbers:
        """Index into BETWEEN of what stands behind each word."""
        chance = rng.random(len(text), dtype=np.float32)
        between = np.where(chance < COMMA, COMMA_SPACE, SPACE)
        typographic = layout.typographic[text] & (chance > 0.98)
        between[typographic] = np.where(chance[typographic] > 0.99, DASH, APOSTROPHE)
        style = layout.style[text]
        between[ends] = np.select(
            [chance[ends] < 0.08, chance[ends] < 0.4], [QUESTION, PARAGRAPH], STOP
        )
        item = ends & (chance < 0.7)
        between[item & (style == BULLETS)] = BULLET
        between[item & (style == HEADED) & (chance < 0.25)] = HEADING
        numbered = item & (style == NUMBERED)
        count = np.cumsum(numbered)
        before = np.concatenate([[0], count])[starts[:-1]]
        number = np.minimum(count - before[text], MOST_ITEMS)
        between[numbered] = FIRST_NUMBER + number[numbered] - 1
        return between

    def _add_accents(
        self, parts: NDArray[np.object_], where: NDArray[np.bool_], rng: np.random.Generator
    ) -> None:
        chosen = np.flatnonzero(where)
        chosen = chosen[rng.random(len(chosen)) < 0.01]
        parts[2 * chosen] = self._accented[rng.integers(0, len(ACCENTED), len(chosen))]

    def _add_code(
        self,
        parts: NDArray[np.object_],
        layout: Layout,
        starts: Numbers,
        rng: np.random.Generator,
    ) -> None:
        for number in np.flatnonzero(layout.style == CODE).tolist():
            middle = int(starts[number] + layout.words[number] // 2)
            snippet = self._snippets[int(rng.integers(0, SNIPPETS))]
            parts[2 * middle - 1] = f":\n\n{snippet}\n\n"


def _english() -> list[str]:
    """The vocabulary by rank: common words, then the shorter compositions before the longer."""
    composed = {
        prefix + _joined(stem, suffix): (prefix != "", suffix not in FREQUENT, number * 7919 % 4093)
        for number, (suffix, prefix, stem) in enumerate(product(BEHIND, BEFORE, STEMS.split()))
    }
    common = COMMON.split()
    ordered = sorted(composed.keys() - set(common), key=lambda word: (composed[word], word))
    years = [str(number) for number in (*range(1, 100), *range(1990, 2025))]
    plain = [*ordered[:400], *years, *ordered[400:]]
    return (common + plain)[: SAMPLE_RANKS[-1]]


def _joined(stem: str, ending: str) -> str:
    """As English spells it, nearly: change, changing; policy, policies."""
    if not ending:
        return stem
    if stem.endswith("e") and ending[0] in "aei":
        return stem[:-1] + ending
    if stem.endswith("y") and ending[0] != "i":
        return stem[:-1] + ("ies" if ending == "s" else "i" + ending)
    return stem + ending


def _rare_parts() -> tuple[list[str], list[str]]:
    """Beginnings and endings of names, terms and numbers."""
    draw = random.Random(2)
    consonants, vowels = "bcdfghjklmnprstvwz", "aeiou"

    def syllable() -> str:
        return draw.choice(consonants) + draw.choice(vowels) + draw.choice(("", "", "n", "r", "s"))

    beginnings = [syllable() + draw.choice(consonants) for _ in range(2000)]
    beginnings = [word.capitalize() if draw.random() < 0.5 else word for word in beginnings]
    beginnings += [f"{draw.randint(1, 999)},{draw.randint(1, 9)}" for _ in range(400)]
    endings = [draw.choice(vowels) + draw.choice(("", syllable())) for _ in range(600)]
    endings += [f"{number:02}" for number in range(100)]
    draw.shuffle(beginnings)
    draw.shuffle(endings)
    return beginnings, endings


def _foreign() -> list[str]:
    draw = random.Random(0)
    return [
        "".join(draw.choices(syllables, k=draw.randint(1, 4)))
        for syllables in SYLLABLES
        for _ in range(FOREIGN_WORDS)
    ]


def _snippets() -> list[str]:
    draw = random.Random(1)
    found = []
    for _ in range(SNIPPETS):
        name, item, many, key = draw.sample(STEMS, 4)
        limit = draw.randint(2, 999)
        found.append(
            draw.choice(
                (
                    f"```python\ndef {name}_{item}({many}, limit={limit}):\n    result = []\n"
                    f"    for {item} in {many}:\n        if {item}.{key} > limit:\n"
                    f'            result.append({item}["{key}"])\n    return result\n```',
                    f"```javascript\nfunction {name}({many}) {{\n  const {item} = "
                    f"{many}.map((x) => x.{key} * {limit});\n  return {item}.filter("
                    "(x) => x !== null);\n}\n```",
                    f"```sql\nSELECT {item}.{key}, COUNT(*) AS total\nFROM {many}\n"
                    f"WHERE {key} >= {limit}\nGROUP BY {item}.{key}\nORDER BY total DESC;\n```",
                )
            )
        )
    return found
