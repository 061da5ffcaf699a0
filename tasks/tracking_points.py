"""Metrics of a run in MLflow: live as they come, and complete in the end."""

import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

from tasks.tracking_store import store_errors

QUIET_SECONDS = 30.0
"""After a failed live point the server is left alone for so long; `deliver` makes up for it."""

BATCH = 1000  # MLflow's limit of metrics a call

log = logging.getLogger(__name__)


class Points:
    """What is logged at steps. A point has a `step` and its `values` by name."""

    def __init__(self, client: Any) -> None:
        self.client = client
        self.last_step = 0
        """The newest step that the run has, as far as is known here."""
        self.quiet_until = 0.0
        """On the monotonic clock."""

    def log_live(self, run_id: str, step: int, values: dict[str, float]) -> None:
        """Log one step now if the server answers; training never waits for a dead one."""
        if step <= self.last_step or time.monotonic() < self.quiet_until:
            return  # a continued training repeats steps that are recorded already
        try:
            self.log(run_id, [{"step": step, "values": values}])
            self.last_step = step
        except store_errors() as error:
            log.warning("MLflow did not take step %d (delivered later): %s", step, error)
            self.quiet_until = time.monotonic() + QUIET_SECONDS

    def deliver(self, run_id: str, points: Sequence[dict[str, Any]]) -> None:
        """Log the points that the run does not have yet: no gap, nothing twice."""
        known, _ = self._known_values(run_id, points)
        self.log(run_id, _left(points, lambda name, step, _: step not in known[name]))

    def correct(self, run_id: str, points: Sequence[dict[str, Any]]) -> None:
        """The same for figures that may be measured anew: another value than the newest, too."""
        known, newest = self._known_values(run_id, points)
        left = _left(points, lambda name, step, value: known[name].get(step) != value)
        self.log(run_id, left, after=newest)

    def _known_values(
        self, run_id: str, points: Sequence[dict[str, Any]]
    ) -> tuple[dict[str, dict[int, float]], int]:
        """The newest value of each step, by name; and the time of the newest of all."""
        known, newest = {}, 0
        for name in {name for point in points for name in point["values"]}:
            history = self.client.get_metric_history(run_id, name)  # in no order
            known[name] = {m.step: m.value for m in sorted(history, key=lambda m: m.timestamp)}
            newest = max([newest, *(m.timestamp for m in history)])
        return known, newest

    def log(self, run_id: str, points: Sequence[dict[str, Any]], after: int = 0) -> None:
        """Log points as they are, with a time behind `after` (ms) even if the clock is not."""
        from mlflow.entities import Metric

        now = max(int(time.time() * 1000), after + 1)
        metrics = [
            Metric(name, value, now, point["step"])
            for point in points
            for name, value in point["values"].items()
        ]
        for start in range(0, len(metrics), BATCH):
            self.client.log_batch(run_id, metrics=metrics[start : start + BATCH])


def _left(
    points: Sequence[dict[str, Any]], wanted: Callable[[str, int, float], bool]
) -> list[dict[str, Any]]:
    """The points with those of their values whose name, step and value are wanted."""
    return [
        {
            "step": point["step"],
            "values": {n: v for n, v in point["values"].items() if wanted(n, point["step"], v)},
        }
        for point in points
    ]
