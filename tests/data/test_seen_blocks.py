"""Which blocks are looked through again, and which are known by what the file system says."""

import os
import time
from pathlib import Path

import pytest

from orpo_pipeline import stages
from orpo_pipeline.data import seen_blocks
from orpo_pipeline.data.seen_blocks import SeenBlocks
from orpo_pipeline.stages import new_stage

HOUR = 3600 * 10**9


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files whose bytes are read from now on."""
    names: list[str] = []
    real = stages.file_sha256

    def counted(path: Path) -> str:
        names.append(path.name)
        return real(path)

    monkeypatch.setattr(stages, "file_sha256", counted)
    return names


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything that is written now was written an hour ago."""
    real = time.time_ns
    monkeypatch.setattr(seen_blocks.time, "time_ns", lambda: real() + HOUR)


@pytest.fixture
def block(tmp_path: Path) -> Path:
    with new_stage(tmp_path / "block") as temporary:
        (temporary / "rows.parquet").write_text("rows")
    return tmp_path / "block"


@pytest.mark.usefixtures("later")
def test_a_block_is_looked_through_once(block: Path, hashed: list[str]) -> None:
    seen = SeenBlocks(block.with_name("seen.json"))
    assert seen.is_complete(block) and seen.is_complete(block)
    assert hashed == ["rows.parquet"]
    seen.save()
    again = SeenBlocks(block.with_name("seen.json"))
    os.link(block / "rows.parquet", block.with_name("a link, as prepared data have"))
    assert again.is_complete(block)
    assert hashed == ["rows.parquet"]
    again.forget()
    assert again.is_complete(block)
    assert hashed == ["rows.parquet"] * 2
    assert not again.is_complete(block.with_name("another"))


@pytest.mark.usefixtures("later")
@pytest.mark.parametrize("name", ["rows.parquet", "manifest.json"])
def test_a_block_that_was_written_to_is_looked_through(block: Path, name: str) -> None:
    seen = SeenBlocks(block.with_name("seen.json"))
    seen.remember(block)
    content = (block / name).read_bytes()
    (block / name).write_bytes(content[:-1] + b"!")
    assert not seen.is_complete(block)
    assert block.with_name("block.damaged").is_dir()


def test_a_block_that_was_just_written_is_not_remembered(block: Path, hashed: list[str]) -> None:
    seen = SeenBlocks(block.with_name("seen.json"))
    seen.remember(block)
    seen.save()
    assert SeenBlocks(block.with_name("seen.json")).is_complete(block)
    assert hashed == ["rows.parquet"]


@pytest.mark.parametrize("content", ["", "[]", '{"block": 1}', '{"block": [[1, 2, 3, 4]]}', "\0"])
def test_a_damaged_record_is_none(block: Path, content: str, hashed: list[str]) -> None:
    block.with_name("seen.json").write_text(content)
    seen = SeenBlocks(block.with_name("seen.json"))
    assert seen.is_complete(block)
    assert hashed == ["rows.parquet"]
    seen.save()
