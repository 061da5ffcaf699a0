"""Data that compares answers instead of naming the chosen one."""

from dataclasses import replace
from typing import Any

from orpo_pipeline.data.dialects.dialect import Refusal, Row, dialect
from orpo_pipeline.data.dialects.messages import text_of
from orpo_pipeline.data.dialects.pairing import assemble, number, prompt_of, scores_of, source_of
from orpo_pipeline.data.dialects.transcripts import read_extra_id_prompt
from schemas.pairs import DefectCode, Message, Origin, Pair


def _answer(text: str) -> tuple[Message]:
    return (Message("assistant", text),)


def _nectar(row: Row) -> bool:
    return "answers" in row and "prompt" in row and "chosen" not in row


def read_nectar(row: Row, origin: Origin) -> Pair:
    """`prompt` and ranked `answers`; rank 1 is the best. Source: berkeley-nest/Nectar.

    Rule: the answer of the best rank against the one of the worst, of equal ranks the first
    listed. One pair a row, the clearest one. (Axolotl's strategy of this name takes the two of
    the highest rank numbers, which in Nectar are the worst two.)
    """
    answers = row.get("answers")
    if answers is None:
        raise Refusal(DefectCode.MISSING_FIELD, "no answers")
    if not isinstance(answers, list):
        raise Refusal(DefectCode.WRONG_TYPE, f"answers is {type(answers).__name__}, not a list")
    if len(answers) < 2:
        raise Refusal(DefectCode.MISSING_FIELD, "answers holds fewer than two answers")
    ranks = [_rank(item) for item in answers]
    best, worst = min(ranks), max(ranks)
    if best == worst:
        raise Refusal(DefectCode.SCORE_TIE, "all answers have the same rank")
    chosen = text_of(answers[ranks.index(best)], "answer")
    rejected = text_of(answers[ranks.index(worst)], "answer")
    turns = prompt_of(row.get("prompt"))
    if not turns:
        raise Refusal(DefectCode.MISSING_FIELD, "no prompt")
    return assemble(row, turns, _answer(chosen), _answer(rejected), origin, (None, None))


def _rank(item: Any) -> float:
    if not isinstance(item, dict):
        raise Refusal(
            DefectCode.WRONG_TYPE,
            f"one of answers is {type(item).__name__}, not an answer and its rank",
        )
    if item.get("rank") is None:
        raise Refusal(DefectCode.MISSING_FIELD, "one of answers has no rank")
    return number(item["rank"], "a rank of answers")


def _shp(row: Row) -> bool:
    return "human_ref_A" in row and "human_ref_B" in row


def read_shp(row: Row, origin: Origin) -> Pair:
    """`history` and two comments; `labels` is 1 where A is preferred, 0 where B is.

    Source: stanfordnlp/SHP. The scores are the comments' votes; `domain` is the pair's source.
    """
    label = _decision(row, "labels")
    if label not in (0.0, 1.0):
        raise Refusal(DefectCode.WRONG_TYPE, "labels is neither 0 nor 1")
    chosen, rejected = ("A", "B") if label else ("B", "A")
    pair = assemble(
        row,
        (Message("user", text_of(row, "history")),),
        _answer(text_of(row, f"human_ref_{chosen}")),
        _answer(text_of(row, f"human_ref_{rejected}")),
        origin,
        scores_of(row, ((f"score_{chosen}", f"score_{rejected}"),)),
    )
    return replace(pair, source=source_of(row.get("domain")))


def _helpsteer2(row: Row) -> bool:
    return "response_1" in row and "response_2" in row and "preference_strength" in row


def read_helpsteer2(row: Row, origin: Origin) -> Pair:
    """`prompt` and two responses; `preference_strength` is negative where the first is better.

    Source: nvidia/HelpSteer2, preference. From -3 to 3; 0 says that none is preferred. It
    measures the pair and not its answers, so the scores stay None.
    """
    strength = _decision(row, "preference_strength")
    if strength == 0:
        raise Refusal(DefectCode.SCORE_TIE, "preference_strength is 0: neither is preferred")
    chosen, rejected = ("1", "2") if strength < 0 else ("2", "1")
    return assemble(
        row,
        read_extra_id_prompt(text_of(row, "prompt")),
        _answer(text_of(row, f"response_{chosen}")),
        _answer(text_of(row, f"response_{rejected}")),
        origin,
        (None, None),
    )


def _decision(row: Row, field: str) -> float:
    value = row.get(field)
    if value is None or (isinstance(value, str) and not value):
        raise Refusal(DefectCode.MISSING_FIELD, f"no {field}")
    return number(value, field)


ZEPHYR_NECTAR = dialect("zephyr.nectar", _nectar, read_nectar)
SHP = dialect("shp", _shp, read_shp)
HELPSTEER2_PREFERENCE = dialect("helpsteer2_preference", _helpsteer2, read_helpsteer2)
