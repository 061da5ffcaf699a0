"""The configuration's section `evaluation`."""

from pydantic import Field

from schemas.section import Section


class EvaluationConfig(Section):
    """What is measured on the held-out pairs, for base model, candidate and champion alike."""

    max_pairs: int | None = Field(default=None, ge=1)
    """Evaluate on the first so many held-out pairs (by row id). Unset: all."""

    batch_size: int | None = Field(default=None, ge=1)
    """Most pairs of a forward pass and most answers generated at once. Unset: as many pairs as the
    plan gives a forward pass of training, and 8 answers."""

    drift_pairs: int = Field(default=64, ge=0)
    """Held-out pairs on whose chosen answers the KL from the base model is measured. 0: no KL, and
    a gate that looks at it fails."""

    generations: int = Field(default=16, ge=0)
    """Held-out prompts that every model answers, side by side. 0: none, and a gate that looks at
    answers fails."""

    samples: int = Field(default=1, ge=0)
    """Sampled answers (temperature 0.7, top-p 0.9, seeded) a prompt, beside the greedy one."""

    max_new_tokens: int = Field(default=96, ge=1)
    """Tokens per generated answer."""
