"""When a run's silence means that its process is gone, and not that nobody could hear it."""

from tasks.recovery.watch import ABSENCE_SECONDS, Answers


def test_answers_without_a_gap_add_up() -> None:
    answers = Answers()
    assert answers.lasted(5.0) == 0
    for second in range(0, 700, 2):
        answers.note(1e9 + second, float(second))
    assert answers.lasted(700.0) == 700


def test_after_a_gap_they_count_anew() -> None:
    answers = Answers()
    answers.note(1e9, 0.0)
    answers.note(1e9 + ABSENCE_SECONDS, ABSENCE_SECONDS)
    assert answers.lasted(100.0) == 100
    answers.note(1e9 + 2 * ABSENCE_SECONDS + 1, 200.0)
    assert answers.lasted(300.0) == 100


def test_a_sleep_of_the_machine_is_a_gap_and_a_clock_that_was_set_back_is_none() -> None:
    answers = Answers()
    answers.note(1e9, 0.0)
    answers.note(1e9 + 3600, 2.0)  # the monotonic clock stood still
    assert answers.lasted(12.0) == 10
    answers.note(1e9 - 3600, 12.0)
    assert answers.lasted(12.0) == 10
