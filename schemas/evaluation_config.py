"""The configuration's section `evaluation`."""

from pydantic import Field, model_validator

from schemas.judge_config import JudgeConfig
from schemas.section import Section


class EvaluationConfig(Section):
    """What is measured on the held-out pairs, for the base model and the candidate alike."""

    max_pairs: int | None = Field(default=None, ge=1)
    """Evaluate on the first so many held-out pairs (by row id). Unset: all."""

    batch_size: int = Field(default=8, ge=1)
    """Pairs per forward pass when the plan's engine is trl; with packed its token budget counts."""

    generations: int = Field(default=4, ge=0)
    """Held-out prompts that both models answer, side by side."""

    max_new_tokens: int = Field(default=96, ge=1)
    """Tokens per generated answer."""

    benchmarks: tuple[str, ...] = ()
    """Tasks of lm-evaluation-harness, such as `[arc_easy]`. Needs the extra `benchmarks`."""

    benchmark_folder: str | None = None
    """Folder with task files of your own. Their code is run."""

    benchmark_limit: int | None = Field(default=None, ge=2)
    """Take the first so many documents of each task. Unset: all."""

    judge: JudgeConfig | None = None
    """Compare the answers to the `generations` prompts by another model. Unset: no judge."""

    @model_validator(mode="after")
    def _require_answers_to_judge(self) -> "EvaluationConfig":
        if self.judge is not None and not self.generations:
            raise ValueError("judge is set and generations is 0, so there is nothing to judge")
        return self
