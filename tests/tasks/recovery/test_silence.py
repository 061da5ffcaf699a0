"""Servers that live and say nothing, by a clock of the test's; real ones are in tests/faults."""

from tasks.recovery.silence import LOOK_SECONDS, SILENT_SECONDS, Silence

WHOLE = int(SILENT_SECONDS / LOOK_SECONDS)


class Answers:
    """A server that answers or does not."""

    def __init__(self) -> None:
        self.well, self.asked = True, 0

    def __call__(self) -> bool:
        self.asked += 1
        return self.well


def looks(silence: Silence, pids: dict[str, int], first: int, count: int) -> list[list[str]]:
    return [silence.look(pids, (first + n) * LOOK_SECONDS) for n in range(count)]


def test_one_that_is_silent_for_long_is_named_and_no_other() -> None:
    hung, well = Answers(), Answers()
    silence = Silence({"hung": hung, "well": well})
    assert looks(silence, {"hung": 1, "well": 2}, 0, 3) == [[], [], []]
    hung.well = False
    found = looks(silence, {"hung": 1, "well": 2}, 3, WHOLE + 1)
    assert found == [*[[]] * WHOLE, ["hung"]]


def test_a_silence_that_ends_in_time_is_forgotten() -> None:
    server = Answers()
    silence = Silence({"server": server})
    looks(silence, {"server": 1}, 0, 1)
    server.well = False
    assert not any(looks(silence, {"server": 1}, 1, WHOLE))
    server.well = True
    looks(silence, {"server": 1}, 1 + WHOLE, 1)
    server.well = False
    assert not any(looks(silence, {"server": 1}, 2 + WHOLE, WHOLE))


def test_a_new_process_has_the_whole_time_again() -> None:
    server = Answers()
    server.well = False
    silence = Silence({"server": server})
    assert not any(looks(silence, {"server": 1}, 0, WHOLE))
    assert not any(looks(silence, {"server": 2}, WHOLE, WHOLE))
    assert looks(silence, {}, 2 * WHOLE, 1) == [[]]


def test_servers_are_asked_now_and_then_only() -> None:
    server = Answers()
    silence = Silence({"server": server})
    for tenth in range(100):
        silence.look({"server": 1}, tenth * LOOK_SECONDS / 10)
    assert server.asked == 10
