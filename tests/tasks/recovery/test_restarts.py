"""When a dead server is started again, and how its end is told."""

from tasks.recovery.restarts import LIMIT, WINDOW_SECONDS, Deaths, ending


def test_the_wait_doubles_until_it_is_one_death_too_many() -> None:
    deaths = Deaths()
    assert [deaths.record(float(second)) for second in range(LIMIT)] == [1.0, 2.0, 4.0, 8.0, None]


def test_deaths_that_are_long_ago_do_not_count() -> None:
    deaths = Deaths()
    times = [number * WINDOW_SECONDS / 3 for number in range(20)]
    # At most four lie within any ten minutes, both ends counted.
    assert [deaths.record(time) for time in times] == [1.0, 2.0, 4.0, *[8.0] * 17]


def test_an_end_in_words() -> None:
    assert [ending(code) for code in (0, 3, -9, -40)] == [
        *("exit code 0", "exit code 3", "signal SIGKILL", "signal 40"),
    ]
