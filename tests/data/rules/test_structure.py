"""Who speaks when."""

import pytest
from rule_pairs import make, turns

from orpo_pipeline.data.rules.structure import answer_not_assistant, wrong_roles
from schemas.pairs import Defect, DefectCode


@pytest.mark.parametrize("roles", ["u", "su", "uau", "suau", "uauau"])
def test_alternating_roles_pass(roles: str) -> None:
    assert wrong_roles(make(turns(roles))) is None


@pytest.mark.parametrize("roles", ["", "s", "a", "ua", "sua", "uu", "us", "usu", "ssu", "au", "ut"])
def test_wrong_roles(roles: str) -> None:
    defect = wrong_roles(make(turns(roles)))
    assert defect and defect.code == DefectCode.WRONG_ROLES


@pytest.mark.parametrize(("roles", "shown"), [("usu", "user, system, user"), ("", "none")])
def test_wrong_roles_names_the_turns(roles: str, shown: str) -> None:
    assert wrong_roles(make(turns(roles))) == Defect(
        DefectCode.WRONG_ROLES,
        f"the prompt's turns are {shown}; it must alternate and end with the user",
    )


@pytest.mark.parametrize(
    ("roles", "shown"),
    [
        ("", "nothing"),
        ("u", "user"),
        ("s", "system"),
        ("t", "tool"),
        ("aa", "assistant, assistant"),
        ("au", "assistant, user"),
        ("ua", "user, assistant"),
    ],
)
def test_answer_not_assistant(roles: str, shown: str) -> None:
    for side, pair in (
        ("chosen", make(chosen=turns(roles))),
        ("rejected", make(rejected=turns(roles))),
    ):
        assert answer_not_assistant(pair) == Defect(
            DefectCode.ANSWER_NOT_ASSISTANT, f"{side} is {shown}, not one assistant message"
        )


def test_one_assistant_message_is_an_answer() -> None:
    assert answer_not_assistant(make()) is None
