"""Which failures are tried again."""

import pytest
from prefect import task
from prefect.states import Failed

from schemas.errors import EnvironmentFault, PipelineError, UserError
from tasks.policies import is_worth_retrying


@task
def some_task() -> None:
    """Only its type matters here."""


@pytest.mark.parametrize(
    ("error", "again"),
    [
        (UserError("a", "b", "c"), False),
        (EnvironmentFault("a", "b", "c"), True),
        (PipelineError("a", "b", "c"), True),
        (RuntimeError("a"), True),
    ],
)
def test_what_the_user_must_change_is_not_retried(error: Exception, again: bool) -> None:
    assert is_worth_retrying(some_task, None, Failed(data=error)) is again  # type: ignore[arg-type]
