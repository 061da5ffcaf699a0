"""Lines that tell of a stage where there is no terminal."""

import pytest

from tasks import progress
from tasks.progress import StageProgress


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return capsys.readouterr().err.splitlines()


def test_a_count_without_a_total_is_told_now_and_then(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with StageProgress("prepare") as tell:
        for done in (0, 2048, 4096):
            tell("rows checked", done)
        tell("comparing rows")
        assert lines(capsys) == ["prepare: rows checked", "prepare: comparing rows"]
        monkeypatch.setattr(progress, "SECONDS_BETWEEN", 0.0)
        for done in (0, 2048, 2048, 4096):
            tell("rows checked", done)
    assert lines(capsys) == [
        "prepare: rows checked",
        "prepare: rows checked: 2,048",
        "prepare: rows checked: 4,096",
    ]


def test_a_count_of_a_total_is_told_ten_times_and_at_its_end(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with StageProgress("train") as tell:
        for done in range(100):
            tell("training steps", done + 1, 100, "loss 1.000")
    found = lines(capsys)
    assert 10 <= len(found) <= 12
    assert found[0] == "train: training steps: 1 of 100 (loss 1.000)"
    assert found[-1] == "train: training steps: 100 of 100 (loss 1.000)"
