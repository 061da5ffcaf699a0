"""A console whose reader has gone."""

import os

from tasks.lasting_console import LastingConsole


def test_it_is_silent_when_nobody_reads() -> None:
    reading, writing = os.pipe()
    with os.fdopen(writing, "w") as output:
        console = LastingConsole(file=output)
        console.print("heard")
        assert os.read(reading, 100) == b"heard\n"
        os.close(reading)
        for _ in range(2):
            console.print("not heard")
