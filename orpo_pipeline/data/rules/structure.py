"""Rules about who speaks when."""

from schemas.pairs import Defect, DefectCode, Pair


def wrong_roles(pair: Pair) -> Defect | None:
    """At most one system turn, first; then user and assistant alternate; the user has the word."""
    roles = [message.role for message in pair.prompt]
    turns = roles[1:] if roles[:1] == ["system"] else roles
    users, assistants = turns[::2], turns[1::2]
    if (
        len(turns) % 2 == 1
        and users.count("user") == len(users)
        and assistants.count("assistant") == len(assistants)
    ):
        return None
    return Defect(
        DefectCode.WRONG_ROLES,
        f"the prompt's turns are {', '.join(roles) or 'none'}; "
        "it must alternate and end with the user",
    )


def answer_not_assistant(pair: Pair) -> Defect | None:
    """Each answer is exactly one assistant message."""
    for side, answer in (("chosen", pair.chosen), ("rejected", pair.rejected)):
        if len(answer) != 1 or answer[0].role != "assistant":
            roles = ", ".join(message.role for message in answer) or "nothing"
            return Defect(
                DefectCode.ANSWER_NOT_ASSISTANT, f"{side} is {roles}, not one assistant message"
            )
    return None
