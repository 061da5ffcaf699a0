"""What `orpo-pipeline doctor` finds: one line a thing that it looked at."""

from enum import StrEnum

from schemas.errors import EnvironmentFault, PipelineError, UserError
from schemas.record import Record


class Level(StrEnum):
    """How good it is."""

    OK = "ok"
    WARNING = "warning"
    """A run starts, but something is missing, unproven or soon too small."""
    ERROR = "error"
    """A run with this configuration fails."""


class Finding(Record):
    """What was looked at, what was found there, and what to do where that is not good."""

    level: Level
    what: str
    found: str
    fix: str = ""
    exit_code: int = 0
    """Of an error: what the run would end with (docs/errors.md)."""

    @classmethod
    def ok(cls, what: str, found: str) -> "Finding":
        return cls(level=Level.OK, what=what, found=found)

    @classmethod
    def warning(cls, what: str, found: str, fix: str) -> "Finding":
        return cls(level=Level.WARNING, what=what, found=found, fix=fix)

    @classmethod
    def error(cls, what: str, found: str, fix: str) -> "Finding":
        """Of the machine or a service; `of` is for those of the configuration, too."""
        code = EnvironmentFault.exit_code
        return cls(level=Level.ERROR, what=what, found=found, fix=fix, exit_code=code)

    @classmethod
    def of(cls, what: str, error: PipelineError) -> "Finding":
        """The error that a run would end with."""
        return cls(
            level=Level.ERROR,
            what=what,
            found=error.found,
            fix=error.fix,
            exit_code=error.exit_code,
        )


def exit_code(findings: list[Finding]) -> int:
    """0 without errors; else 2 where the configuration must change, whatever else is wrong."""
    codes = {finding.exit_code for finding in findings if finding.level is Level.ERROR}
    return UserError.exit_code if UserError.exit_code in codes else max(codes, default=0)
