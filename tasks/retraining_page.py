"""The decision of `orpo-retrain` as a page."""

from collections.abc import Sequence
from pathlib import Path

from schemas.retraining import RetrainingDecision, Trained
from schemas.retraining_config import RetrainingConfig
from tasks.servers_file import running_servers


def decision_markdown(
    decision: RetrainingDecision, config: RetrainingConfig, home: Path, tracking_uri: str
) -> str:
    """The sentence, every number behind it, and the way to the last training."""
    age = f"{decision.age_days:.1f} days" if decision.age_days is not None else "-"
    rows = [
        ("new accepted rows", f"{decision.new_rows:,}", f"{config.min_new_rows:,}", ""),
        ("age", age, f"{config.max_age_days:g} days", "any change of the data is enough then"),
        *(
            (
                f"drift: {figure.name}",
                f"{figure.value:.3f}",
                f"{figure.limit:g}",
                f"by chance in {figure.p_value:.2%} of cases; counts up to {figure.alpha:.0%}",
            )
            for figure in decision.drift
        ),
    ]
    parts = [f"## {decision.because[:1].upper()}{decision.because[1:]}"]
    parts.append(_table(("", "found", "trains from", ""), rows))
    sources = [
        (c.name, f"{c.rows:,}", f"{c.added:,}", f"{c.changed:,}", f"{c.removed:,}")
        for c in decision.changes
    ]
    parts.append(_table(("source", "rows", "added", "changed", "removed"), sources))
    parts.append(f"Last training: {_last(decision.last, home, tracking_uri)}")
    return "\n\n".join(parts) + "\n"


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _last(last: Trained | None, home: Path, tracking_uri: str) -> str:
    """Its version, and its run as a link where a server shows it."""
    if last is None:
        return "none yet"
    servers = running_servers(home)
    own = servers.mlflow_url if servers else None
    server = tracking_uri if tracking_uri.startswith("http") else own
    run = f"MLflow run `{last.run_id}`"
    if server:
        page = f"{server.rstrip('/')}/#/experiments/{last.experiment_id}/runs/{last.run_id}"
        run = f"[MLflow run {last.run_id}]({page})"
    return f"{last.model_name} version {last.version}, {last.when:%F %T} UTC, {run}"
