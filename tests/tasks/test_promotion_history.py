"""The history in a real registry: who is first, and what a killed process leaves."""

import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from promoting import a_promotion, intended
from registries import MODEL, Registry, make_registry

from schemas.errors import EnvironmentFault, UserError
from schemas.promotion import PromotionEntry, PromotionState
from tasks.home import mlflow_database
from tasks.promotion import commit, lost_champion, repair
from tasks.promotion_history import (
    STATE_TAG,
    append,
    history_name,
    mark_overtaken,
    read_history,
    set_state,
)
from tasks.tracking import Tracker
from tasks.versions import read_aliases

LAST_WRITE = 7
"""Of a promotion: the history's model, its entry, champion, previous, challenger, two tags."""


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    """Made once: the first migration of a database is slow."""
    return make_registry(tmp_path_factory.mktemp("template"))


@pytest.fixture
def store(template: Registry, tmp_path: Path) -> Registry:
    home = tmp_path / "home"
    shutil.copytree(mlflow_database(template.home).parent, mlflow_database(home).parent)
    return Registry(home, template.run_id)


OLD, NEW = {"champion": "1", "challenger": "2"}, {"champion": "2", "previous": "1"}


@pytest.mark.parametrize(
    "step",
    [
        pytest.param(step, marks=pytest.mark.slow) if step in (2, 4, 5, 7) else step
        for step in range(1, LAST_WRITE + 2)
    ],
)
def test_a_kill_before_any_write_leaves_the_old_or_the_new_champion(
    store: Registry, step: int
) -> None:
    process = store.start("1", "2", stop_before=step)
    output, _ = process.communicate("\n", timeout=60)
    tracker = store.tracker()
    if step > LAST_WRITE:
        assert process.returncode == 0 and output == "completed\n"
    else:
        assert process.returncode == -signal.SIGKILL
    assert read_aliases(tracker)["champion"] == ("1" if step <= 3 else "2")

    written = step > 2  # the entry is there: whoever comes next finishes it
    entries = repair(tracker)
    assert read_aliases(tracker) == (NEW if written else OLD)
    assert [entry.state for entry in entries] == [PromotionState.COMPLETED] * written
    assert entries == read_history(tracker)
    assert repair(tracker) == entries


def test_of_three_that_race_one_wins_and_two_explain(store: Registry) -> None:
    winner = store.race({version: store.start("1", version) for version in ("2", "3", "4")})
    assert read_aliases(store.tracker())["champion"] == winner
    counted = [e for e in read_history(store.tracker()) if e.state is PromotionState.COMPLETED]
    assert [entry.promotion.to_version for entry in counted] == [winner]


def test_of_two_entries_that_follow_the_same_the_lower_number_counts(store: Registry) -> None:
    tracker = store.tracker()
    first, second = (intended(tracker, store.run_id, "1", version) for version in ("2", "3"))
    assert append(tracker, first).state is PromotionState.INTENDED
    assert append(tracker, second).state is PromotionState.OVERTAKEN
    repaired = repair(tracker)
    assert [entry.state.value for entry in repaired] == ["completed", "overtaken"]
    assert read_aliases(tracker)["champion"] == "2"
    third = intended(tracker, store.run_id, "2", "4")
    assert third.follows == 1
    assert commit(tracker, third).state is PromotionState.COMPLETED


def test_who_came_too_late_is_told_of_a_champion_whose_alias_has_not_moved_yet(
    store: Registry,
) -> None:
    tracker = store.tracker()
    first, second = (intended(tracker, store.run_id, "1", version) for version in ("2", "3"))
    append(tracker, first)
    assert read_aliases(tracker)["champion"] == "1"
    with pytest.raises(UserError, match=r"is version 2 now \(promotion 1 by .*no longer version 1"):
        commit(tracker, second)


def test_an_entry_that_was_written_twice_by_a_repeated_call_counts_once(store: Registry) -> None:
    tracker = store.tracker()
    promotion = intended(tracker, store.run_id, "1", "2")
    append(tracker, promotion)
    assert append(tracker, promotion).number == 1
    assert [entry.state.value for entry in repair(tracker)] == ["completed", "overtaken"]


def test_a_deleted_entry_breaks_no_chain() -> None:
    # Number 2, which number 3 follows, is deleted; number 4 did not know of number 3.
    found = [
        PromotionEntry(
            number=number,
            promotion=a_promotion(follows),
            state=PromotionState.COMPLETED,
        )
        for number, follows in ((1, 0), (3, 2), (4, 2))
    ]
    states = [entry.state.value for entry in mark_overtaken(found)]
    assert states == ["completed", "completed", "overtaken"]


def by_hand(tracker: Tracker) -> None:
    tracker.client.set_registered_model_alias(MODEL, "champion", "4")


def deleted(tracker: Tracker) -> None:
    tracker.client.delete_model_version(MODEL, "2")


@pytest.mark.parametrize("meanwhile", [by_hand, deleted])
def test_an_unfinished_promotion_is_abandoned_when_it_makes_no_sense_any_more(
    store: Registry, meanwhile: Callable[[Tracker], None]
) -> None:
    tracker = store.tracker()
    append(tracker, intended(tracker, store.run_id, "1", "2"))
    meanwhile(tracker)
    before = read_aliases(tracker)
    (entry,) = repair(tracker)
    assert entry.state is PromotionState.ABANDONED
    assert read_aliases(tracker) == before


def test_an_alias_that_was_moved_meanwhile_is_left_alone(store: Registry) -> None:
    tracker = store.tracker()
    promotion = intended(tracker, store.run_id, "1", "2")
    by_hand(tracker)
    with pytest.raises(UserError, match="is version 4 now, no longer version 1"):
        commit(tracker, promotion)
    assert read_aliases(tracker)["champion"] == "4"
    assert read_history(tracker) == []


def test_a_deleted_alias_is_named_with_the_version_that_had_it(store: Registry) -> None:
    tracker = store.tracker()
    commit(tracker, intended(tracker, store.run_id, "1", "2"))
    assert lost_champion(tracker, repair(tracker)) is None
    tracker.client.delete_registered_model_alias(MODEL, "champion")
    lost = lost_champion(tracker, repair(tracker))
    assert lost is not None and lost.exit_code == 2
    assert "By the history it was version 2's" in lost.found
    command = f"`orpo-pipeline promote 2 --because ... --set registry.model_name={MODEL}`"
    assert command in lost.fix


def test_an_entry_that_nobody_can_read_is_named(store: Registry) -> None:
    tracker = store.tracker()
    entry = append(tracker, intended(tracker, store.run_id, "1", "2"))
    set_state(tracker, entry, PromotionState.COMPLETED)
    tracker.client.set_model_version_tag(history_name(MODEL), "1", STATE_TAG, "finished?")
    with pytest.raises(EnvironmentFault, match=r"Promotion 1 in tiny\.promotions cannot be read"):
        read_history(tracker)
