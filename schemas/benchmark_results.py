"""Results of public benchmarks."""

import re

from pydantic import Field

from schemas.figures import Difference, Estimate
from schemas.record import Record


class BenchmarkFigure(Record):
    """One metric of one benchmark task. Intervals: value +- 1.96 standard errors."""

    task: str
    metric: str
    """As lm-evaluation-harness names it; with `.FILTER` where the task has several."""
    higher_is_better: bool | None = None
    models: dict[str, Estimate]
    """By base, candidate, champion; n is the number of documents."""
    differences: dict[str, Difference] = Field(default_factory=dict)
    """Candidate minus base, and minus champion where there is one."""

    @property
    def name(self) -> str:
        """Its name in MLflow, which knows fewer characters than task names have."""
        return re.sub(r"[^\w./ -]", "_", f"benchmarks/{self.task}/{self.metric}")
