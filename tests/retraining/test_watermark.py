"""The watermark: whole or not there, and never ahead of what was registered."""

import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from seen import frame, seen, watermark

from orpo_pipeline.retraining.rows import count_new, new_rows
from orpo_pipeline.retraining.watermark import (
    KEPT,
    ROWS,
    commit_watermark,
    nothing_seen,
    read_watermark,
)
from schemas.errors import EnvironmentFault


def numbers(home: Path) -> list[str]:
    return sorted(path.name for path in (home / "watermarks" / "tiny").glob("[0-9]*"))


def test_what_is_committed_is_read_and_models_have_their_own(tmp_path: Path) -> None:
    assert read_watermark(tmp_path, "tiny") is None
    written = watermark([seen("a"), seen("b", accepted=False, prompt_tokens=None)])
    commit_watermark(tmp_path, written)
    found = read_watermark(tmp_path, "tiny")
    assert found is not None
    assert found.trained == written.trained and found.rows.equals(written.rows)
    assert read_watermark(tmp_path, "other") is None


def test_a_damaged_one_is_set_aside_and_the_one_before_counts(tmp_path: Path) -> None:
    commit_watermark(tmp_path, watermark([seen("a")]))
    commit_watermark(tmp_path, watermark([seen("a"), seen("b")], version="2"))
    rows = tmp_path / "watermarks" / "tiny" / "000002" / ROWS
    rows.write_bytes(rows.read_bytes()[:-1] + b"?")
    found = read_watermark(tmp_path, "tiny")
    assert found is not None and found.trained.version == "1"
    commit_watermark(tmp_path, watermark([seen("c")], version="3"))
    found = read_watermark(tmp_path, "tiny")
    assert found is not None and found.trained.version == "3"


def test_only_the_newest_stay(tmp_path: Path) -> None:
    for version in range(1, KEPT + 3):
        commit_watermark(tmp_path, watermark([seen("a")], version=str(version)))
    assert numbers(tmp_path) == ["000003", "000004", "000005"]


def test_a_disk_that_refuses_leaves_the_one_before(tmp_path: Path) -> None:
    (tmp_path / "watermarks").write_text("a file where the folder should be")
    with pytest.raises(EnvironmentFault, match="watermarks"):
        commit_watermark(tmp_path, watermark([seen("a")]))


EVENTS = st.one_of(
    st.tuples(st.just("arrive"), st.integers(0, 12)),
    st.tuples(st.just("leave"), st.integers(0, 12)),
    st.tuples(st.just("run"), st.sampled_from(["killed early", "killed late", "finished"])),
    st.tuples(st.just("damage"), st.just(0)),
)


@settings(max_examples=30, deadline=None)
@given(st.lists(EVENTS, max_size=12))
def test_no_row_is_taken_for_seen_that_no_registered_version_was_trained_on(
    events: list[tuple[str, object]],
) -> None:
    """Whatever arrives, leaves, is killed (before or after registration) or is damaged."""
    with tempfile.TemporaryDirectory() as folder:
        home, source = Path(folder), set[str]()
        registered: list[set[str]] = []
        for kind, value in events:
            if kind == "arrive":
                source.add(str(value))
            elif kind == "leave":
                source.discard(str(value))
            elif kind == "damage" and numbers(home):
                (home / "watermarks" / "tiny" / numbers(home)[-1] / ROWS).write_bytes(b"")
            elif kind == "run" and value != "killed early":
                registered.append(set(source))
                if value == "finished":
                    commit_watermark(home, watermark(map(seen, source)))
            check(home, source, registered)


def check(home: Path, source: set[str], registered: list[set[str]]) -> None:
    last = read_watermark(home, "tiny")
    before = last.rows if last else nothing_seen()
    trained = set[str]().union(*registered)
    assert new_rows(before, frame(map(seen, trained))).is_empty()  # nothing seen untrained
    never = source - trained
    assert count_new(frame(map(seen, source)), before) >= len(never)
    assert new_rows(frame(map(seen, never)), before).height == len(never)
