"""Errors survive pickling (Prefect pickles the exception of a failed task)."""

import pickle

import pytest

from schemas.errors import (
    ERRORS_BY_EXIT_CODE,
    EnvironmentFault,
    OutOfMemory,
    PipelineError,
    UserError,
)


@pytest.mark.parametrize("kind", [PipelineError, UserError, EnvironmentFault, OutOfMemory])
def test_an_error_is_the_same_after_pickling(kind: type[PipelineError]) -> None:
    error = pickle.loads(pickle.dumps(kind("Found a.", "b.", "Do c.")))
    assert type(error) is kind
    assert (error.found, error.expected, error.fix) == ("Found a.", "b.", "Do c.")
    assert str(error) == "Found a. Expected: b. Fix: Do c."


def test_every_exit_code_names_its_error() -> None:
    kinds = {1: PipelineError, 2: UserError, 3: EnvironmentFault, 4: OutOfMemory}
    assert kinds == ERRORS_BY_EXIT_CODE
