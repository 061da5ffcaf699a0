"""What all sections of the configuration have in common."""

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """Frozen, and an unknown key is an error. Field docs become the Prefect UI's help texts."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)
