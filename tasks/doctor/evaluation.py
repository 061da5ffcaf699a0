"""What evaluation and gate ask for: packages, and figures that the configuration measures."""

from collections.abc import Iterator

from orpo_pipeline.evaluation.benchmarks import require_benchmarks
from orpo_pipeline.evaluation.gate import never_measured
from schemas.config import RunConfig
from schemas.errors import PipelineError
from schemas.findings import Finding


def check_evaluation(config: RunConfig) -> Iterator[Finding]:
    """Benchmarks that can be run, and a gate that can be passed."""
    if config.evaluation.benchmarks:
        try:
            require_benchmarks(config.evaluation)
            named = ", ".join(config.evaluation.benchmarks)
            yield Finding.ok("benchmarks", f"{named}: the package is installed")
        except PipelineError as error:
            yield Finding.of("benchmarks", error)
    missing = ", ".join(figure.value for figure in never_measured(config))
    if missing:
        yield Finding.warning(
            "gate",
            f"it will promote nothing: it asks for {missing}, which is not measured",
            "See evaluation.drift_pairs, evaluation.generations and evaluation.judge, or "
            "gate.primary and gate.guardrails.",
        )
    else:
        yield Finding.ok("gate", "all figures that it asks for are measured")
