"""Secrets and personal data in rows that are written down although they are no pairs."""

from typing import Any

from orpo_pipeline.data.reading.streams import LONGEST_BROKEN
from orpo_pipeline.data.rules.personal import redact_personal_data
from orpo_pipeline.data.rules.secrets import redact_secrets
from schemas.config import DataConfig

CUT_EDGE = 1000
"""Characters at a cut that go as well: half a key is not known as one. A PEM key is, when cut."""


class Redaction:
    """Replaces what the configuration does not keep, as the rules do it in pairs."""

    def __init__(self, data: DataConfig) -> None:
        kinds = ((data.secrets, redact_secrets), (data.personal_data, redact_personal_data))
        self._redact = [redact for setting, redact in kinds if setting != "keep"]

    def text(self, text: str) -> str:
        """The text with placeholders."""
        for redact in self._redact:
            text, _ = redact(text)
        return text

    def beginning(self, text: str) -> str:
        """The same of an unreadable row, of which only the beginning may have been read."""
        # A few bytes less than the limit: a line's end or half a character may have gone.
        cut = len(text.encode("utf-8", "replace")) > LONGEST_BROKEN - 8
        found = self.text(text)
        return found[:-CUT_EDGE] if cut and self._redact else found

    def value(self, value: Any) -> Any:
        """A row with placeholders in every key and text: escapes in JSON would hide what is there.

        Raises RecursionError for a row that is nested too deeply.
        """
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, dict):
            return {self.value(key): self.value(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.value(item) for item in value]
        return value
