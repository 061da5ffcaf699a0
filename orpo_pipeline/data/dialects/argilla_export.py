"""Argilla's exports: a record with its fields, and people's answers to a ranking or label question.

Layouts, from Argilla's own export code and data cards:
- record, 2.x (`records.to_json`): `fields`, `responses: {question: [{value, user_id}]}`
- record, 1.x (`FeedbackRecord`): `fields`, `responses: [{values: {question: {value}}, status}]`
- columns, 2.x (`records.to_datasets`): a column a field, `question.responses`, `.responses.status`
- columns, 1.x (hub): a column a field, and a column a question of answers {value, status}

Rule: only submitted answers count. Each votes for a best and a worst response: the ends of a
ranking, or the labelled response against its only sibling (`response_1` and `response_2`, say).
Most votes decide; as many votes for another pair, or a label such as `tie`, is a tie.
"""

import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

from orpo_pipeline.data.dialects.dialect import Refusal, Row, dialect
from orpo_pipeline.data.dialects.messages import UNSUPPORTED_COLUMNS, is_empty
from orpo_pipeline.data.dialects.pairing import make_pair, number
from schemas.pairs import DefectCode, Origin, Pair

PROMPT_FIELDS = ("prompt", "instruction", "input", "question", "query", "conversation", "messages")
CARRIED = frozenset(("system", "source")) | UNSUPPORTED_COLUMNS
SUBMITTED = "submitted"
RESPONSES = ".responses"
SUGGESTION = "-suggestion"  # 1.x writes one beside each question
TIE = frozenset(("tie", "tied", "equal", "same", "both", "neither", "none", "draw"))
Vote = tuple[str, str] | None
"""Names of the best and the worst field; None for a tie."""

_NOT_WORD = re.compile(r"[\W_]+")
_LAST = re.compile(r"(?:\d+|(?<=[^\W\d_]{3})[ab])$")


def _fits(row: Row) -> bool:
    if "fields" in row and "responses" in row:
        return True
    for key, value in row.items():
        if isinstance(key, str) and key.endswith((RESPONSES, SUGGESTION)):
            return True
        if isinstance(value, list | dict) and _is_answers(value):
            return True
    return False


def _is_answers(value: list[Any] | dict[Any, Any]) -> bool:
    """Whether the value is a column of a question in the 1.x hub layout."""
    if isinstance(value, list):
        if not value or not isinstance(value[0], dict):
            return False
        value = value[0]
    return "value" in value and "status" in value and "user_id" in value


def read_argilla_export(row: Row, origin: Origin) -> Pair:
    """The prompt with the response that people put first and the one they put last."""
    fields = row.get("fields") if "fields" in row else _flat_fields(row)
    if fields is None:
        raise Refusal(DefectCode.MISSING_FIELD, "no fields")
    if not isinstance(fields, dict):
        raise Refusal(
            DefectCode.WRONG_TYPE, f"fields is {type(fields).__name__}, not an object of fields"
        )
    best, worst = _decide(list(_submitted(row)), fields)
    names = {_plain(name): name for name in fields if isinstance(name, str)}
    prompt = next((fields[names[name]] for name in PROMPT_FIELDS if name in names), None)
    carried = {name: fields[name] for name in fields if name in CARRIED}
    return make_pair(carried, prompt, fields[best], fields[worst], origin)


def _flat_fields(row: Row) -> dict[str, Any]:
    return {
        key: value
        for key, value in row.items()
        if isinstance(key, str) and RESPONSES not in key and SUGGESTION not in key
    }


def _plain(name: str) -> str:
    return _NOT_WORD.sub("", name).casefold()


def _submitted(row: Row) -> Iterator[Any]:
    """The values of all submitted answers to all questions."""
    for answer in _answers(row):
        if isinstance(answer, dict):
            status = answer.get("status")
            # 2.x writes no status with an answer of a record, but that of the record.
            if status == SUBMITTED or (status is None and row.get("status") != "pending"):
                yield answer.get("value")


def _answers(row: Row) -> Iterator[Any]:
    if "fields" in row:
        yield from _record_answers(row.get("responses"))
        return
    for key, value in row.items():
        if isinstance(key, str) and key.endswith(RESPONSES):
            yield from _zipped(value, row.get(f"{key}.status"))
        elif isinstance(value, list) and _is_answers(value):
            yield from value
        elif isinstance(value, dict) and _is_answers(value):
            yield from _zipped(value["value"], value["status"])


def _record_answers(responses: Any) -> Iterator[Any]:
    if isinstance(responses, dict):
        for answers in responses.values():
            if isinstance(answers, list):
                yield from answers
    elif isinstance(responses, list):
        for response in responses:
            values = response.get("values") if isinstance(response, dict) else None
            for answer in values.values() if isinstance(values, dict) else ():
                if isinstance(answer, dict):
                    yield {"value": answer.get("value"), "status": response.get("status")}


def _zipped(values: Any, statuses: Any) -> Iterator[dict[str, Any]]:
    if isinstance(values, list):
        known = statuses if isinstance(statuses, list) else []
        padded = [*known, *[None] * (len(values) - len(known))]
        for value, status in zip(values, padded, strict=False):
            yield {"value": value, "status": status}


def _decide(values: list[Any], fields: dict[Any, Any]) -> tuple[str, str]:
    names = {_plain(name): name for name in fields if isinstance(name, str)}
    votes = [vote for value in values for vote in _ranking_vote(value, names)]
    votes = votes or [vote for value in values for vote in _label_vote(value, names, fields)]
    if not votes:
        raise Refusal(
            DefectCode.MISSING_FIELD,
            "no submitted answer to a ranking or label question that names the responses' fields",
        )
    counted = Counter(votes).most_common(2)
    decided = counted[0][0]
    if len(counted) == 2 and counted[0][1] == counted[1][1]:
        raise Refusal(DefectCode.SCORE_TIE, "as many people prefer another response")
    if decided is None:
        raise Refusal(DefectCode.SCORE_TIE, "neither response is preferred")
    return decided


def _ranking_vote(value: Any, names: dict[str, str]) -> Iterator[Vote]:
    """A ranking: names from the best to the worst, or names with ranks, 1 the best."""
    ranked = _ranked(value)
    if len(ranked) < 2 or any(_plain(name) not in names for name, _ in ranked):
        return
    ranks = [rank for _, rank in ranked]
    if min(ranks) == max(ranks):
        yield None
        return
    best, worst = ranked[ranks.index(min(ranks))], ranked[ranks.index(max(ranks))]
    yield names[_plain(best[0])], names[_plain(worst[0])]


def _ranked(value: Any) -> list[tuple[str, float]]:
    if isinstance(value, dict):  # columns of a sequence, as `datasets` stores it
        items, ranks = value.get("value"), value.get("rank")
        if not (isinstance(items, list) and isinstance(ranks, list) and len(items) == len(ranks)):
            return []
        value = [{"value": i, "rank": r} for i, r in zip(items, ranks, strict=True)]
    if not isinstance(value, list):
        return []
    ranked = []
    for place, item in enumerate(value, start=1):
        name, rank = (
            (item.get("value"), item.get("rank")) if isinstance(item, dict) else (item, None)
        )
        if not isinstance(name, str):
            return []
        ranked.append((name, float(place) if rank is None else number(rank, "a rank")))
    return ranked


def _label_vote(value: Any, names: dict[str, str], fields: dict[Any, Any]) -> Iterator[Vote]:
    """A label that names one of two responses, whole (`response_1`) or by its end (`1`, `A`)."""
    if not isinstance(value, str) or not _plain(value):
        return
    label = _plain(value)
    if label in TIE:
        yield None
        return
    pairs = _siblings(names)
    named = [pair for pair in pairs if label in (pair[0], _end(pair[0]))]
    if len(named) == 1 and not any(is_empty(fields[names[name]]) for name in named[0]):
        yield names[named[0][0]], names[named[0][1]]


def _siblings(names: dict[str, str]) -> list[tuple[str, str]]:
    """Each response field with the only other one of its kind."""
    kinds: dict[str, list[str]] = {}
    for name in names:
        if name in ("chosen", "rejected"):
            kinds.setdefault("", []).append(name)
        elif _LAST.search(name):
            kinds.setdefault(_LAST.sub("", name), []).append(name)
    twos = [kind for kind in kinds.values() if len(kind) == 2]
    return [pair for a, b in twos for pair in ((a, b), (b, a))]


def _end(name: str) -> str:
    found = _LAST.search(name)
    return found.group() if found else name


ARGILLA_EXPORT = dialect("argilla_export", _fits, read_argilla_export)
