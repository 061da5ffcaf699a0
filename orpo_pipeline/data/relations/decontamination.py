"""Benchmark prompts in training data: found by shared runs of words, by content alone."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orpo_pipeline.data.identity import folded
from orpo_pipeline.data.relations.words import Hashes, TextHashes, mixed, word_hashes, words_of
from schemas.errors import UserError

RUN = 13  # words in a row; GPT-3's authors settled on this length too
SHOWN = 60  # characters of a benchmark prompt in a reason
BLOCK = 256  # texts whose arrays are in memory at once
FACTOR = np.uint64(0xD6E8FEB86659FD93)  # odd, so that the rolling hash loses no bit


@dataclass(frozen=True)
class Benchmarks:
    """Prompts that must not be trained on, and an index of their runs of 13 words."""

    prompts: tuple[str, ...]
    short: dict[str, int]
    """Folded prompts of fewer than 13 words: found only where they are the whole text."""
    runs: Hashes
    """Sorted hashes (R,) of all runs of 13 words."""
    prompt_of: NDArray[np.int64]
    """For each run the prompt that holds it."""
    first_bits: NDArray[np.bool_]
    """Whether any run begins with these bits: spares most searches."""

    def overlaps(self, texts: Sequence[str]) -> list[str | None]:
        """For each text the beginning of a benchmark prompt that shares 13 words in a row with
        it, or is the whole text; else None. Many at once are ten times as fast as one by one.
        """
        found: list[str | None] = []
        for at in range(0, len(texts), BLOCK):
            found += self._overlaps(texts[at : at + BLOCK])
        return found

    def _overlaps(self, texts: Sequence[str]) -> list[str | None]:
        words = word_hashes(texts)
        found: list[str | None] = [None] * len(texts)
        if self.short:
            for index in np.flatnonzero(np.diff(words.starts) < RUN).tolist():
                number = self.short.get(folded(texts[index]))
                found[index] = None if number is None else self._shown(number)
        for index, place, run in self._hits(words):
            if found[index] is None:
                number = int(self.prompt_of[run])
                shared = words_of(texts[index])[place : place + RUN]
                if _holds(words_of(self.prompts[number]), shared):
                    found[index] = self._shown(number)
        return found

    def _hits(self, words: TextHashes) -> Iterator[tuple[int, int, int]]:
        """(text, place of the run's first word in it, index of the run) for each run found."""
        hashes, text, place = _runs(words)
        if not len(self.runs):
            return
        likely = np.flatnonzero(self.first_bits[hashes >> _shift(self.first_bits)])
        at = np.minimum(np.searchsorted(self.runs, hashes[likely]), len(self.runs) - 1)
        for hit, run in zip(likely, at, strict=True):
            if self.runs[run] == hashes[hit]:
                yield int(text[hit]), int(place[hit]), int(run)

    def _shown(self, number: int) -> str:
        text = " ".join(self.prompts[number].split())
        return text if len(text) <= SHOWN else f"{text[: SHOWN - 3]}..."


def read_benchmarks(path: Path) -> Benchmarks:
    """The prompts of a .txt file, one a line, or of a .jsonl file, in the field `prompt`.

    Empty lines are skipped. Raises UserError, with the line, for a file that cannot be read or
    holds no prompt.
    """
    if path.suffix not in (".txt", ".jsonl"):
        raise _unusable(path, "its name ends neither in .txt nor in .jsonl")
    prompts = []
    try:
        with path.open(encoding="utf-8-sig") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    is_json = path.suffix == ".jsonl"
                    prompts.append(_json_prompt(path, number, line) if is_json else line.strip())
    except (OSError, UnicodeDecodeError) as error:
        raise _unusable(path, str(error)) from error
    if not prompts:
        raise _unusable(path, "it holds no prompt")
    return index_benchmarks(prompts)


def index_benchmarks(prompts: Sequence[str]) -> Benchmarks:
    """Benchmarks over the given prompts; the first of equal ones is the one that is named."""
    words = word_hashes(prompts)
    hashes, prompt, _ = _runs(words)
    runs, first = np.unique(hashes, return_index=True)
    short: dict[str, int] = {}
    for index in np.flatnonzero(np.diff(words.starts) < RUN).tolist():
        short.setdefault(folded(prompts[index]), index)
    # Sixteen places a run: a hash of no run hits a taken one in one of sixteen cases.
    bits = max(16 * len(runs), 2).bit_length()
    first_bits = np.zeros(1 << bits, dtype=np.bool_)
    first_bits[runs >> _shift(first_bits)] = True
    return Benchmarks(tuple(prompts), short, runs, prompt[first], first_bits)


def _runs(words: TextHashes) -> tuple[Hashes, NDArray[np.int64], NDArray[np.int64]]:
    """Hash of each run of 13 words within one text, its text, and its first word's place there."""
    counts = np.maximum(np.diff(words.starts) - RUN + 1, 0)
    text = np.repeat(np.arange(len(words)), counts)
    place = np.arange(len(text)) - np.repeat(np.cumsum(counts) - counts, counts)
    total = max(len(words.hashes) - RUN + 1, 0)
    sums = np.zeros(total, dtype=np.uint64)
    for k in range(RUN if total else 0):
        sums *= FACTOR
        sums += words.hashes[k : k + total]
    return mixed(sums[words.starts[:-1][text] + place]), text, place


def _shift(first_bits: NDArray[np.bool_]) -> np.uint64:
    return np.uint64(65 - len(first_bits).bit_length())


def _holds(words: list[str], run: list[str]) -> bool:
    return any(words[at : at + len(run)] == run for at in range(len(words) - len(run) + 1))


def _json_prompt(path: Path, number: int, line: str) -> str:
    try:
        row: Any = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise _unusable(path, f"line {number} is not JSON: {error}") from error
    prompt = row.get("prompt") if isinstance(row, dict) else None
    if not isinstance(prompt, str) or not prompt.strip():
        raise _unusable(path, f"line {number} has no text in the field `prompt`")
    return prompt


def _unusable(path: Path, why: str) -> UserError:
    return UserError(
        f"The benchmark file {path} cannot be used: {why}.",
        "UTF-8: one prompt a line (.txt), or one JSON object with `prompt` a line (.jsonl).",
        "Correct the file, or data.benchmarks.",
    )
