"""What all sections of the configuration have in common."""

from typing import Any

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """Frozen, and an unknown key is an error. Field docs become the Prefect UI's help texts."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


def on_or_off(value: Any) -> Any:
    """YAML reads an unquoted on or off as a truth value."""
    return ("off", "on")[value] if isinstance(value, bool) else value
