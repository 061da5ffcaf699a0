"""OpenAI's preference fine-tuning data. Source: its guide to direct preference optimization."""

from orpo_pipeline.data.dialects.dialect import Refusal, Row, dialect
from orpo_pipeline.data.dialects.messages import conversation, refuse_other_media
from orpo_pipeline.data.dialects.pairing import assemble
from schemas.pairs import DefectCode, Origin, Pair


def _fits(row: Row) -> bool:
    return "preferred_output" in row and "non_preferred_output" in row


def read_openai_preference(row: Row, origin: Origin) -> Pair:
    """`input.messages` and the two outputs, lists of one message each.

    Tools are refused. `parallel_tool_calls` says how tools are used: without tools, as in the
    guide's own example, it says nothing.
    """
    given = row.get("input")
    if given is None:
        raise Refusal(DefectCode.MISSING_FIELD, "no input")
    if not isinstance(given, dict):
        raise Refusal(
            DefectCode.WRONG_TYPE, f"input is {type(given).__name__}, not an object with messages"
        )
    refuse_other_media(given)
    prompt = conversation(given.get("messages"), "user", "input.messages")
    if not prompt:
        raise Refusal(DefectCode.MISSING_FIELD, "no turn in input.messages")
    chosen, rejected = (
        conversation(row.get(name), "assistant", name)
        for name in ("preferred_output", "non_preferred_output")
    )
    return assemble(row, prompt, chosen, rejected, origin)


OPENAI_PREFERENCE = dialect("openai_preference", _fits, read_openai_preference)
