"""Servers that live and say nothing, by a clock of the test's; real ones are in tests/faults."""

from tasks.recovery.silence import LOOK_SECONDS, Sign, Silence

ALLOWED = 5


class Server:
    """One that answers or does not."""

    def __init__(self) -> None:
        self.well, self.asked = True, 0
        self.sign = Sign(self._heard, ALLOWED)

    def _heard(self) -> bool:
        self.asked += 1
        return self.well


class Looks:
    """One look after another, at the times at which they are due."""

    def __init__(self, **servers: Server) -> None:
        self.silence = Silence({name: server.sign for name, server in servers.items()})
        self.now = 0.0

    def __call__(self, pids: dict[str, int], count: int = 1) -> list[list[str]]:
        found = []
        for _ in range(count):
            found.append(self.silence.look(pids, self.now))
            self.now += LOOK_SECONDS
        return found


def test_one_that_is_silent_for_long_is_named_and_no_other() -> None:
    hung = Server()
    look, pids = Looks(hung=hung, well=Server()), {"hung": 1, "well": 2}
    assert look(pids) == [[]]
    hung.well = False
    assert look(pids, ALLOWED) == [*[[]] * (ALLOWED - 1), ["hung"]]


def test_a_silence_that_ends_in_time_is_forgotten() -> None:
    server = Server()
    look = Looks(server=server)
    for _ in range(3):
        server.well = True
        assert look({"server": 1}) == [[]]
        server.well = False
        assert not any(look({"server": 1}, ALLOWED - 1))


def test_a_new_process_has_twice_as_long() -> None:
    server = Server()
    server.well = False
    look = Looks(server=server)
    for pid in (1, 2):
        assert look({"server": pid}, 2 * ALLOWED) == [*[[]] * (2 * ALLOWED - 1), ["server"]]
    assert look({}) == [[]]


def test_while_nobody_looked_nothing_was_missed() -> None:
    """Such as in a frozen container: the next look may still miss the answer."""
    server = Server()
    look = Looks(server=server)
    look({"server": 1})
    server.well = False
    look.now += 100 * ALLOWED * LOOK_SECONDS
    assert look({"server": 1}) == [[]]


def test_servers_are_asked_now_and_then_only() -> None:
    server = Server()
    silence = Silence({"server": server.sign})
    for tenth in range(100):
        silence.look({"server": 1}, tenth * LOOK_SECONDS / 10)
    assert server.asked == 10
