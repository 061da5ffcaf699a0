"""Source files: which are found, under which names, in which split, and which are refused."""

import os
import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import datasets
import polars as pl
import pytest
from rows import pair_row, read_rows, write_rows

from orpo_pipeline.data.reading import files
from orpo_pipeline.data.reading.files import SourceFile, find_files
from schemas.config import DataConfig
from schemas.errors import UserError

ROWS = [pair_row(number) for number in range(3)]


def found_names(source: Path | str, **config: Any) -> dict[str, list[str]]:
    files = find_files(DataConfig(source=str(source), **config))
    return {split: [file.name for file in found] for split, found in files.items()}


def test_one_file_is_all_there_is(tmp_path: Path) -> None:
    for name in ("pairs.jsonl", "test.jsonl"):  # even if its name says something else
        path = write_rows(tmp_path / name, ROWS)
        assert found_names(path) == {"train": [name]}


def test_the_packaged_pairs() -> None:
    assert found_names("embedded") == {"train": ["preferences.jsonl"]}


@pytest.fixture
def ultrafeedback(tmp_path: Path) -> Path:
    """The layout and columns of HuggingFaceH4/ultrafeedback_binarized."""
    root = tmp_path / "ultrafeedback_binarized"
    (root / "data").mkdir(parents=True)
    (root / "README.md").write_text("# UltraFeedback\n")
    (root / "dataset_infos.json").write_text("{}")
    for split, start in (("train_prefs", 0), ("test_prefs", 100), ("train_sft", 200)):
        rows = []
        for number in range(start, start + 3):
            row = pair_row(number)
            turn = row["prompt"]
            rows.append(
                {
                    "prompt": turn[0]["content"],
                    "prompt_id": f"{number:064x}",
                    "chosen": turn + row["chosen"],
                    "rejected": turn + row["rejected"],
                    "messages": turn + row["chosen"],
                    "score_chosen": 8.5,
                    "score_rejected": 3.0,
                }
            )
        pl.DataFrame(rows).write_parquet(root / "data" / f"{split}-00000-of-00001.parquet")
    return root


def test_splits_of_a_folder(ultrafeedback: Path) -> None:
    assert found_names(ultrafeedback, train_split="train_prefs", eval_split="test_prefs") == {
        "train_prefs": ["data/train_prefs-00000-of-00001.parquet"],
        "test_prefs": ["data/test_prefs-00000-of-00001.parquet"],
    }
    config = DataConfig(source=str(ultrafeedback), train_split="train_prefs")
    (file,) = find_files(config)["train_prefs"]
    rows = [row.value for row in read_rows(file)]
    assert [row["chosen"] for row in rows if isinstance(row, dict)] == [
        row["prompt"] + row["chosen"] for row in ROWS
    ]


@pytest.mark.parametrize(
    "config", [{"train_split": "train_prefs", "eval_split": "test"}, {}, {"train_split": "prefs"}]
)
def test_a_split_that_is_not_there_lists_what_is(
    config: dict[str, str], ultrafeedback: Path
) -> None:
    # Without an eval_split all files would do, but these hold test pairs.
    with pytest.raises(UserError, match=r"data/test_prefs-00000-of-00001.parquet") as raised:
        found_names(ultrafeedback, **config)
    assert raised.value.fix == "Correct data.train_split and data.eval_split, or data.source."


def test_a_folder_without_splits_is_taken_whole(tmp_path: Path) -> None:
    (tmp_path / "dataset_info.json").write_text("{}")
    for name in ("b.jsonl", "a.jsonl", "devices.jsonl", "notes.txt"):
        write_rows(tmp_path / name, ROWS)
    assert found_names(tmp_path) == {"train": ["a.jsonl", "b.jsonl", "devices.jsonl"]}


def test_splits_may_be_folders_within_the_source(tmp_path: Path) -> None:
    root = tmp_path / "train"  # a folder above the files says nothing about them
    for name in ("train/x.jsonl", "test/x.jsonl"):
        (root / name).parent.mkdir(parents=True)
        write_rows(root / name, ROWS)
    expected = {"train": ["train/x.jsonl"], "test": ["test/x.jsonl"]}
    assert found_names(root, eval_split="test") == expected


def test_the_name_of_the_source_itself_is_no_split(tmp_path: Path) -> None:
    root = tmp_path / "train"
    root.mkdir()
    for name in ("train.jsonl", "test.jsonl"):
        write_rows(root / name, ROWS)
    assert found_names(root, eval_split="test") == {
        "train": ["train.jsonl"],
        "test": ["test.jsonl"],
    }


def test_split_names_may_hold_dashes_and_dots(tmp_path: Path) -> None:
    for name in ("train-v1.5.jsonl", "train-v1.5-00001.jsonl", "train-v2.jsonl"):
        write_rows(tmp_path / name, ROWS)
    assert found_names(tmp_path, train_split="train-v1.5") == {
        "train-v1.5": ["train-v1.5-00001.jsonl", "train-v1.5.jsonl"]
    }


def test_a_glob_names_files_from_their_common_folder(tmp_path: Path) -> None:
    for name in ("2026-01/pairs.jsonl", "2026-02/pairs.jsonl"):
        (tmp_path / name).parent.mkdir()
        write_rows(tmp_path / name, ROWS)
    names = ["2026-01/pairs.jsonl", "2026-02/pairs.jsonl"]
    assert found_names(tmp_path / "*" / "*.jsonl") == {"train": names}
    assert found_names(tmp_path / "**" / "*") == {"train": names}
    assert found_names(tmp_path / "*-02" / "*") == {"train": ["pairs.jsonl"]}


def test_a_relative_glob(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_rows(tmp_path / "a.jsonl", ROWS)
    write_rows(tmp_path / "b.jsonl", ROWS)
    monkeypatch.chdir(tmp_path)
    assert found_names("*.jsonl") == {"train": ["a.jsonl", "b.jsonl"]}


def test_a_file_whose_name_is_a_pattern(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "pairs[1].jsonl", ROWS)
    assert found_names(path) == {"train": ["pairs[1].jsonl"]}


def test_a_file_name_that_is_no_text_is_shown_as_text(tmp_path: Path) -> None:
    path = os.fsencode(tmp_path) + b"/caf\xe9.jsonl"
    write_rows(Path(os.fsdecode(path)), ROWS)
    assert found_names(tmp_path) == {"train": ["caf\ufffd.jsonl"]}


def test_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no data file at all"):
        found_names(tmp_path)


@pytest.mark.parametrize(
    "source",
    [
        "pairs.jsonl",
        "data/pairs.jsonl",  # has the form of a hub id, and the ending of a file
        "/no/such/folder/",
        "no/such/*.jsonl",
        "",
        "nul\0byte",
    ],
)
def test_a_source_that_does_not_exist(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"does not exist|No file of split"):
        found_names(source)


def test_what_datasets_saves_is_found_and_its_own_files_are_not(tmp_path: Path) -> None:
    saved = datasets.Dataset.from_list(ROWS)
    datasets.DatasetDict(train=saved, test=saved).save_to_disk(tmp_path / "saved")
    # `map` leaves its results beside the rows, with the same ending.
    kept = tmp_path / "saved/train/data-00000-of-00001.arrow"
    kept.with_name("cache-1c80317fa3b1799d.arrow").write_bytes(kept.read_bytes())
    config = DataConfig(source=str(tmp_path / "saved"), eval_split="test")
    found = find_files(config)
    assert {split: [f.name for f in part] for split, part in found.items()} == {
        "train": ["train/data-00000-of-00001.arrow"],
        "test": ["test/data-00000-of-00001.arrow"],
    }
    assert [row.value for row in read_rows(found["train"][0])] == ROWS


def test_hidden_files_and_reports_are_no_data(tmp_path: Path) -> None:
    for name in (
        "more/pairs.jsonl",
        ".orpo/prepared/1/rows.parquet",
        "more/.ipynb_checkpoints/pairs-checkpoint.jsonl",
        ".pairs.jsonl.gz",
        "data.report.json",
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_rows(path, ROWS)
    assert found_names(tmp_path) == {"train": ["more/pairs.jsonl"]}
    # Named itself, a hidden folder is as good as another.
    write_rows(tmp_path / ".orpo/pairs.jsonl", ROWS)
    assert found_names(tmp_path / ".orpo", train_split="pairs") == {"pairs": ["pairs.jsonl"]}


def refusal(source: Path | str) -> str:
    with pytest.raises(UserError) as raised:
        found_names(source)
    assert str(source).partition("*")[0] in raised.value.found
    return raised.value.found


def test_links_that_stay_inside(tmp_path: Path) -> None:
    (tmp_path / "versions/3").mkdir(parents=True)
    write_rows(tmp_path / "versions/3/pairs.jsonl", ROWS)
    (tmp_path / "train.jsonl").symlink_to("versions/3/pairs.jsonl")
    (tmp_path / "latest").symlink_to("versions/3")
    (tmp_path / "versions/all").symlink_to("..")  # a loop
    assert found_names(tmp_path) == {"train": ["train.jsonl"]}
    (tmp_path / "train.jsonl").unlink()
    assert found_names(tmp_path) == {"train": ["versions/3/pairs.jsonl"]}
    assert found_names(tmp_path / "**" / "*.jsonl") == {"train": ["pairs.jsonl"]}


@pytest.mark.parametrize("of", ["file", "folder"])
@pytest.mark.parametrize("source", ["", "*", "**/*.jsonl"])
def test_links_that_leave_the_folder(of: str, source: str, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    target = write_rows(outside / "secret.jsonl", ROWS)
    inside = tmp_path / "inside"
    inside.mkdir()
    write_rows(inside / "pairs.jsonl", ROWS)
    if of == "file":
        (inside / "link.jsonl").symlink_to(target)
    else:
        (inside / "link").symlink_to(outside)
    if of == "folder" and source == "*":
        assert found_names(inside / source) == {"train": ["pairs.jsonl"]}  # finds no file there
        return
    found = refusal(inside / source)
    assert f"The link {inside}/link" in found
    assert f"leads to {outside}" in found


def test_a_named_link_may_lead_anywhere(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    write_rows(tmp_path / "elsewhere/pairs.jsonl", ROWS)
    (tmp_path / "mine").symlink_to("elsewhere")
    (tmp_path / "mine.jsonl").symlink_to("elsewhere/pairs.jsonl")
    assert found_names(tmp_path / "mine") == {"train": ["pairs.jsonl"]}
    assert found_names(tmp_path / "mine" / "*") == {"train": ["pairs.jsonl"]}
    assert found_names(tmp_path / "mine.jsonl") == {"train": ["mine.jsonl"]}


def test_the_hub_cache_links_to_its_blobs(tmp_path: Path) -> None:
    cache = tmp_path / "hub" / "datasets--a--b"
    snapshot = cache / "snapshots" / "0123abcd"
    (snapshot / "data").mkdir(parents=True)
    (cache / "blobs").mkdir()
    write_rows(cache / "blobs" / "77", ROWS)
    (snapshot / "data/train.jsonl").symlink_to("../../../blobs/77")
    assert found_names(snapshot) == {"train": ["data/train.jsonl"]}
    assert found_names(snapshot / "data") == {"train": ["train.jsonl"]}
    write_rows(tmp_path / "hub" / "other.jsonl", ROWS)
    (snapshot / "data/train-2.jsonl").symlink_to("../../../../other.jsonl")
    assert "out of the data source" in refusal(snapshot)


def test_a_link_to_nothing(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").symlink_to("gone.jsonl")
    assert "No such file" in refusal(tmp_path)
    assert "No such file" in refusal(tmp_path / "*.jsonl")
    (tmp_path / "train.jsonl").unlink()
    (tmp_path / "train.jsonl").symlink_to("train.jsonl")
    assert "symbolic links" in refusal(tmp_path)


def test_a_glob_that_links_make_endless(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_rows(tmp_path / "pairs.jsonl", ROWS)
    for name in ("one", "two"):  # 2 ** 40 paths before the system stops following them
        (tmp_path / name).symlink_to(".")
    monkeypatch.setattr(files, "MOST_FILES", 1000)
    assert "finds more than 1,000 files" in refusal(tmp_path / "**" / "*.jsonl")


def make_pipe(path: Path) -> None:
    os.mkfifo(path)


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))


def link_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


@pytest.mark.parametrize("make", [make_pipe, make_socket, link_device])
def test_special_files_are_not_opened(make: Callable[[Path], None]) -> None:
    with tempfile.TemporaryDirectory() as folder:  # a socket's path must be short
        path = Path(folder, "train.jsonl")
        make(path)
        for source in (path, path.parent, path.parent / "*.jsonl"):
            found = refusal(source)
            assert "it is no regular file" in found or "leads to /dev/zero" in found
        with pytest.raises(UserError, match="no regular file"):
            list(read_rows(SourceFile(path, path.name)))


def test_empty_files_are_listed_at_once(tmp_path: Path) -> None:
    for number in range(7):
        (tmp_path / f"train-{number}.jsonl").touch()
    write_rows(tmp_path / "train-7.jsonl", ROWS)
    (tmp_path / "other.jsonl").touch()  # of no split that is used
    found = refusal(tmp_path)
    assert f"{tmp_path}/train-0.jsonl: it is empty; " in found
    assert found.endswith(" and 2 more.")
    (tmp_path / "test.csv").touch()
    with pytest.raises(UserError, match=r"test\.csv: it is empty"):
        found_names(tmp_path / "test.csv")


@contextmanager
def ordinary_user() -> Iterator[None]:
    """No permission stops the superuser; as whom tests may well run."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


def test_what_may_not_be_read() -> None:
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        root.chmod(0o755)
        path = write_rows(root / "train.jsonl", ROWS)
        path.chmod(0)
        with ordinary_user():
            assert f"{path}: Permission denied" in refusal(root)
            with pytest.raises(UserError, match="Permission denied"):
                list(read_rows(SourceFile(path, path.name)))
        path.chmod(0o644)
        (root / "closed").mkdir(mode=0)
        with ordinary_user():
            assert "Permission denied" in refusal(root)
            assert "Permission denied" in refusal(root / "closed" / "pairs.jsonl")


def test_a_file_that_vanishes_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_rows(tmp_path / "train.jsonl", ROWS)
    walk = os.walk

    def slow_walk(*args: Any, **options: Any) -> Iterator[Any]:
        yield from walk(*args, **options)
        path.unlink()

    monkeypatch.setattr(os, "walk", slow_walk)
    assert f"{path}: No such file or directory" in refusal(tmp_path)
    with pytest.raises(UserError, match="No such file"):
        list(read_rows(SourceFile(path, path.name)))


def test_a_folder_that_vanishes_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "part").mkdir()
    is_symlink = Path.is_symlink

    def vanish(path: Path) -> bool:
        if path.name == "part" and path.exists():
            path.rmdir()
        return is_symlink(path)

    monkeypatch.setattr(Path, "is_symlink", vanish)
    assert "No such file" in refusal(tmp_path)


def test_names_that_are_too_long_and_users_that_are_not_there() -> None:
    assert "File name too long" in refusal("x" * 300)
    assert "does not exist" in refusal("~no-such-user/pairs.jsonl")
