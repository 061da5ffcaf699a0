"""Errors that a person can act on: what was found, what was expected, what to do."""


class PipelineError(Exception):
    """Base of every error that the project raises on purpose.

    The three sentences are the exception's positional arguments, so that it survives pickling
    (Prefect pickles the exception of a failed task).
    """

    exit_code = 1

    def __init__(self, found: str, expected: str, fix: str) -> None:
        super().__init__(found, expected, fix)
        self.found = found
        self.expected = expected
        self.fix = fix

    def __str__(self) -> str:
        return f"{self.found} Expected: {self.expected} Fix: {self.fix}"


class UserError(PipelineError):
    """The configuration or the data must change; trying again as it stands cannot help."""

    exit_code = 2


class EnvironmentFault(PipelineError):
    """The machine or a service must change; the same call may succeed later."""

    exit_code = 3


class OutOfMemory(EnvironmentFault):
    """A stage's process had no memory left, on the device or on the host."""

    exit_code = 4


ERRORS_BY_EXIT_CODE: dict[int, type[PipelineError]] = {
    kind.exit_code: kind for kind in (PipelineError, UserError, EnvironmentFault, OutOfMemory)
}
