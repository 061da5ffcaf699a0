"""The data behind Axolotl's preference strategies `chatml.argilla`, `.icr` and `.intel`.

The columns are those that its strategies of these names read. `chatml.ultra` is in `trl`, as it
differs from UltraFeedback binarized by the scores alone, and `zephyr.nectar` in `comparisons`.
"""

from orpo_pipeline.data.dialects.dialect import Refusal, Row, dialect
from orpo_pipeline.data.dialects.messages import is_messages
from orpo_pipeline.data.dialects.pairing import make_pair
from orpo_pipeline.data.dialects.trl import has_answers, without_lists
from schemas.pairs import DefectCode, Origin, Pair

PROMPT_COLUMNS = ("prompt", "input", "question", "instruction")
"""The strategy `chatml.argilla` takes the first that is there."""


def _argilla(row: Row) -> bool:
    if "chosen_response" in row and "rejected_response" in row:
        return True
    return (
        "system" in row
        and "prompt" in row
        and has_answers(row)
        and without_lists(row)
        and not is_messages(row["prompt"])
    )


def read_argilla(row: Row, origin: Origin) -> Pair:
    """Text prompt under one of four names, answers under one of two, and a system column."""
    column = next((name for name in PROMPT_COLUMNS if name in row), "prompt")
    chosen = row["chosen"] if "chosen" in row else row.get("chosen_response")
    rejected = row["rejected"] if "rejected" in row else row.get("rejected_response")
    return make_pair(row, row.get(column), chosen, rejected, origin)


def _icr(row: Row) -> bool:
    return (
        "input" in row
        and "prompt" not in row
        and "instruction" not in row
        and has_answers(row)
        and without_lists(row)
    )


def read_icr(row: Row, origin: Origin) -> Pair:
    """`system`, `input`, `chosen`, `rejected`.

    Source: argilla/distilabel-intel-orca-dpo-pairs, whose `status` says `tie` of a row that its
    second judge found undecided.
    """
    status = row.get("status")
    if isinstance(status, str) and status == "tie":
        raise Refusal(DefectCode.SCORE_TIE, "status is tie: neither answer is preferred")
    return make_pair(row, row.get("input"), row.get("chosen"), row.get("rejected"), origin)


def _intel(row: Row) -> bool:
    return (
        "question" in row
        and "prompt" not in row
        and "input" not in row
        and "instruction" not in row
        and has_answers(row)
        and without_lists(row)
    )


def read_intel(row: Row, origin: Origin) -> Pair:
    """`system`, `question`, `chosen`, `rejected`. Source: Intel/orca_dpo_pairs."""
    return make_pair(row, row.get("question"), row.get("chosen"), row.get("rejected"), origin)


CHATML_ARGILLA = dialect("chatml.argilla", _argilla, read_argilla)
CHATML_ICR = dialect("chatml.icr", _icr, read_icr)
CHATML_INTEL = dialect("chatml.intel", _intel, read_intel)
