"""The configuration's section `gate`."""

from pydantic import Field

from schemas.section import Section


class GateConfig(Section):
    """When a candidate may become the first champion."""

    min_accuracy_gain: float = Field(default=0.0, ge=0, le=1)
    """The candidate's pair accuracy must exceed the base model's by more than this."""
