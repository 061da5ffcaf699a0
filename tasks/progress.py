"""Progress for people: bars in a terminal, lines in a pipe or in a deployment's log."""

import time
from types import TracebackType

from prefect import get_run_logger
from prefect.runtime import deployment
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars

LINE_EVERY = 0.1  # share of a long stage between two lines
SECONDS_BETWEEN = 5.0  # two lines of a stage whose length is not known


class StageProgress:
    """Shows what a stage is doing. A context manager; call it with what, done and total."""

    def __init__(self, stage: str) -> None:
        self.stage = stage
        self.in_deployment = deployment.id is not None
        self.console = Console(stderr=True)
        self.draws = self.console.is_terminal and not self.in_deployment
        self.bars = Bars(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[figures]}"),
            console=self.console,
            disable=not self.draws,
        )
        self.shown = ""
        self.next_line = 0.0  # a share of the total, or a time where there is none
        self.last_line = ""

    def __enter__(self) -> "StageProgress":
        self.bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.bars.stop()

    def __call__(self, what: str, done: int = 0, total: int = 0, figures: str = "") -> None:
        if self.draws:
            self._draw(what, done, total, figures)
        else:
            self._write(what, done, total, figures)

    def _write(self, what: str, done: int, total: int, figures: str) -> None:
        if what != self.shown:
            self.shown, self.next_line = what, 0.0
        reached = done / total if total else time.monotonic()
        if reached < self.next_line and (done < total or not total):
            return
        line = self._line(what, done, total, figures)
        if line == self.last_line:
            return
        self.next_line = reached + (LINE_EVERY if total else SECONDS_BETWEEN)
        self.last_line = line
        if self.in_deployment:
            get_run_logger().info(line)
        else:
            self.console.print(f"{self.stage}: {line}", highlight=False, markup=False)

    @staticmethod
    def _line(what: str, done: int, total: int, figures: str) -> str:
        count = f": {done:,} of {total:,}" if total else f": {done:,}" if done else ""
        return f"{what}{count}" + (f" ({figures})" if figures else "")

    def _draw(self, what: str, done: int, total: int, figures: str) -> None:
        if what != self.shown:
            for task in self.bars.tasks:
                self.bars.update(task.id, total=task.total or 1, completed=task.total or 1)
            self.shown = what
            self.bars.add_task(f"{self.stage:<9}{what}", total=total or None, figures="")
        bar = self.bars.tasks[-1].id
        self.bars.update(bar, completed=done, total=total or None, figures=figures)
