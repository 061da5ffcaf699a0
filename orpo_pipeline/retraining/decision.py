"""Is a training worth it now? Everything that is asked, and the sentence that says it."""

from datetime import timedelta

import polars as pl

from orpo_pipeline.retraining.drift import drift_figures
from orpo_pipeline.retraining.rows import changes, count_new, new_rows
from orpo_pipeline.retraining.watermark import Watermark, nothing_seen
from schemas.retraining import DriftFigure, RetrainingDecision, RetrainingVerdict
from schemas.retraining_config import RetrainingConfig

DAY = timedelta(days=1)


def decide_retraining(
    rows: pl.DataFrame,
    dataset_id: str,
    last: Watermark | None,
    config: RetrainingConfig,
    age: timedelta | None,
    forced: bool = False,
) -> RetrainingDecision:
    """The first of these that holds: forced, no training yet, enough new rows, drift, age.

    `rows` (columns: SEEN) and `dataset_id` are those of the prepared data of now; `age` is the time
    since the champion or the last training came to be, whichever is younger. A data set that is
    the last training's is never trained on again, unless that is forced.
    """
    before = last.rows if last else nothing_seen()
    new = count_new(rows, before)
    drift = drift_figures(new_rows(rows, before), before, config) if last else ()
    days = max(age / DAY, 0.0) if age is not None else None  # a clock may have been put back
    verdict = RetrainingVerdict.FIRST if last is None else _verdict(new, drift, days, config)
    if forced:
        verdict = RetrainingVerdict.FORCED
    because = _sentence(verdict, new, drift, days, config)
    if last is not None and dataset_id == last.trained.dataset_id and not forced:
        verdict = RetrainingVerdict.SKIPPED
        because = f"skipped: the data is that of version {last.trained.version}"
    return RetrainingDecision(
        verdict=verdict,
        because=because,
        new_rows=new,
        changes=changes(rows, before),
        drift=drift,
        age_days=days,
        last=last.trained if last else None,
    )


def _verdict(
    new: int, drift: tuple[DriftFigure, ...], days: float | None, config: RetrainingConfig
) -> RetrainingVerdict:
    if new >= config.min_new_rows:
        return RetrainingVerdict.NEW_ROWS
    if any(figure.exceeded for figure in drift):
        return RetrainingVerdict.DRIFT
    if days is not None and days >= config.max_age_days:
        return RetrainingVerdict.AGE
    return RetrainingVerdict.SKIPPED


def _sentence(
    verdict: RetrainingVerdict,
    new: int,
    drift: tuple[DriftFigure, ...],
    days: float | None,
    config: RetrainingConfig,
) -> str:
    """Such as `skipped: 37 new rows < 200, 3.0 days old < 30, no drift (prompt length 0.04)`."""
    counted = f"{new:,} new rows"
    rows = f"{counted} {_against(new, config.min_new_rows)} {config.min_new_rows:,}"
    if verdict is RetrainingVerdict.FORCED:
        return f"trains: forced, with {counted}"
    if verdict is RetrainingVerdict.FIRST:
        return f"trains: the first time, on {new:,} accepted rows"
    if verdict is RetrainingVerdict.NEW_ROWS:
        return f"trains: {rows}"
    if verdict is RetrainingVerdict.DRIFT:
        found = ", ".join(_figure(figure) for figure in drift if figure.exceeded)
        return f"trains: drift, {found} ({rows})"
    age = "" if days is None else f"{days:.1f} days old {_against(days, config.max_age_days)} "
    age += "" if days is None else f"{config.max_age_days:g}"
    if verdict is RetrainingVerdict.AGE:
        return f"trains: {age}, and the data has changed ({rows})"
    listed = ", ".join(_figure(figure) for figure in drift)
    return f"skipped: {', '.join(filter(None, (rows, age, listed)))}"


def _figure(figure: DriftFigure) -> str:
    if figure.value >= figure.limit and not figure.exceeded:
        chance = f"but by chance in {figure.p_value:.0%} of cases"
        return f"{figure.name} {figure.value:.2f} >= {figure.limit:g} {chance}"
    sign = _against(figure.value, figure.limit)
    return f"{figure.name} {figure.value:.2f} {sign} {figure.limit:g}"


def _against(value: float, limit: float) -> str:
    return "<" if value < limit else ">="
