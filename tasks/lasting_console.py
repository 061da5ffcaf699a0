"""A console that outlives its terminal."""

import os
from typing import Any

from rich.console import Console


class LastingConsole(Console):
    """Prints while somebody can read it, and is silent from then on.

    A closed terminal or pipe would else raise at the next line, also where that line only says what
    has to be done now.
    """

    def print(self, *objects: Any, **options: Any) -> None:
        try:
            super().print(*objects, **options)
        except OSError:
            self.on_broken_pipe()

    def on_broken_pipe(self) -> None:
        """rich would end the process here."""
        self.quiet = True
        # What is buffered would fail once more when the interpreter ends.
        silence = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silence, self.file.fileno())
        os.close(silence)
