"""Files of every kind, whole and broken: each row has an origin, nothing stops the others."""

import csv
import gzip
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from rows import pair_row, write_rows

from orpo_pipeline.data.dialects import parse_pair
from orpo_pipeline.data.quality import first_defect
from orpo_pipeline.data.sources import (
    LONGEST_ROW,
    LONGEST_SHOWN,
    RawRow,
    SourceFile,
    find_files,
    read_rows,
)
from schemas.config import DataConfig
from schemas.errors import UserError
from schemas.pairs import Defect, DefectCode, Origin, Pair

ROWS = [pair_row(number) for number in range(3)]
TEXT_ROWS = [
    {"prompt": "Say hi, twice", "chosen": 'Hi, "hi"\nand hi', "rejected": "No"},
    {"prompt": "Grüße", "chosen": "Grüß Gott", "rejected": "Nö"},
]


def read(path: Path) -> list[RawRow]:
    return list(read_rows(SourceFile(path, path.name)))


def values(rows: Sequence[RawRow]) -> list[Any]:
    return [row.value for row in rows]


def codes(rows: Sequence[RawRow]) -> list[str | None]:
    return [row.value.code.value if isinstance(row.value, Defect) else None for row in rows]


def as_jsonl(path: Path) -> Path:
    return write_rows(path.with_suffix(".jsonl"), ROWS)


def as_gz(path: Path) -> Path:
    path = path.with_suffix(".jsonl.gz")
    path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in ROWS).encode()))
    return path


def as_json(path: Path) -> Path:
    path = path.with_suffix(".json")
    path.write_text(json.dumps(ROWS, indent=2))
    return path


def as_parquet(path: Path) -> Path:
    path = path.with_suffix(".parquet")
    pl.DataFrame(ROWS).write_parquet(path)
    return path


@pytest.mark.parametrize("write", [as_jsonl, as_gz, as_json, as_parquet])
def test_every_format_gives_the_same_rows(write: Callable[[Path], Path], tmp_path: Path) -> None:
    path = write(tmp_path / "pairs")
    assert read(path) == [
        RawRow(Origin(path.name, number), row) for number, row in enumerate(ROWS, start=1)
    ]


def test_json_may_be_compressed(tmp_path: Path) -> None:
    (tmp_path / "pairs.json.gz").write_bytes(gzip.compress(json.dumps(ROWS).encode()))
    assert values(read(tmp_path / "pairs.json.gz")) == ROWS


def write_csv(path: Path, rows: Sequence[dict[str, str]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def test_csv_rows_count_from_the_header(tmp_path: Path) -> None:
    rows = read(write_csv(tmp_path / "pairs.csv", TEXT_ROWS))
    assert values(rows) == TEXT_ROWS
    assert [str(row.origin) for row in rows] == ["pairs.csv:2", "pairs.csv:3"]


def test_csv_keeps_line_ends_inside_fields(tmp_path: Path) -> None:
    row = {"prompt": "one\r\ntwo", "chosen": "a", "rejected": "b"}
    assert values(read(write_csv(tmp_path / "pairs.csv", [row]))) == [row]


def test_a_csv_row_of_another_length(tmp_path: Path) -> None:
    path = tmp_path / "pairs.csv"
    path.write_text("prompt,chosen,rejected\nq,a,b\nq,a,b,left over\nq,a\n")
    rows = read(path)
    assert codes(rows) == [None, "broken_row", None]
    assert "left over" in rows[1].text
    short = parse_pair(rows[2].value, rows[2].origin)  # type: ignore[arg-type]
    assert short == Defect(DefectCode.MISSING_FIELD, "no rejected")


def test_csv_scores_are_numbers_or_nothing(tmp_path: Path) -> None:
    path = tmp_path / "pairs.csv"
    path.write_text("prompt,chosen,rejected,score_chosen,score_rejected\nq,a,b,7,2.5\nq,a,b,,\n")
    pairs = [parse_pair(row.value, row.origin) for row in read(path)]  # type: ignore[arg-type]
    found = [(p.score_chosen, p.score_rejected) for p in pairs if isinstance(p, Pair)]
    assert found == [(7, 2.5), (None, None)]


def test_broken_lines_keep_their_place_and_text(tmp_path: Path) -> None:
    path = write_rows(
        tmp_path / "pairs.jsonl", [ROWS[0], '{"prompt": "cut', "", "[1, 2]", "null", ROWS[1]]
    )
    rows = read(path)
    assert [row.origin.row for row in rows] == [1, 2, 4, 5, 6]  # an empty line is no row
    assert codes(rows) == [None, "broken_row", "broken_row", "broken_row", None]
    assert [row.text for row in rows] == ["", '{"prompt": "cut', "[1, 2]", "null", ""]
    assert rows[2].value == Defect(DefectCode.BROKEN_ROW, "a JSON object was expected, not list")


def test_a_json_list_may_hold_broken_rows(tmp_path: Path) -> None:
    path = tmp_path / "pairs.json"
    path.write_text(json.dumps([ROWS[0], "text", ROWS[1]]))
    rows = read(path)
    assert codes(rows) == [None, "broken_row", None]
    assert rows[1].text == '"text"'


@pytest.mark.parametrize("compress", [bytes, gzip.compress])
@pytest.mark.parametrize("name", ["pairs.jsonl", "pairs.json", "pairs.csv"])
def test_a_byte_order_mark_is_no_content(
    name: str, compress: Callable[[bytes], bytes], tmp_path: Path
) -> None:
    source = tmp_path / name
    if name.endswith(".csv"):
        write_csv(source, TEXT_ROWS)
    elif name.endswith(".json"):
        source.write_text(json.dumps(TEXT_ROWS))
    else:
        write_rows(source, TEXT_ROWS)
    path = source.with_name(f"marked-{name}" + (".gz" if compress is not bytes else ""))
    path.write_bytes(compress(b"\xef\xbb\xbf" + source.read_bytes()))
    assert values(read(path)) == TEXT_ROWS


def test_crlf_line_ends(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_bytes(b"".join(json.dumps(row).encode() + b"\r\n" for row in ROWS))
    rows = read(path)
    assert values(rows) == ROWS
    assert [row.origin.row for row in rows] == [1, 2, 3]


def test_the_last_line_needs_no_end(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in ROWS))
    assert values(read(path)) == ROWS


def test_unicode_line_separators_do_not_end_a_line(tmp_path: Path) -> None:
    row = pair_row(1, chosen="one\u2028two\u0085three")
    path = tmp_path / "pairs.jsonl"
    path.write_text(json.dumps(row, ensure_ascii=False) + "\n", encoding="utf-8")
    assert values(read(path)) == [row]


def test_bytes_that_are_no_utf8_damage_their_row_only(tmp_path: Path) -> None:
    latin = json.dumps({**TEXT_ROWS[1], "chosen": "é"}, ensure_ascii=False).encode("latin-1")
    path = tmp_path / "pairs.jsonl"
    path.write_bytes(json.dumps(ROWS[0]).encode() + b"\n" + latin + b"\n")
    pairs = [parse_pair(row.value, row.origin) for row in read(path)]  # type: ignore[arg-type]
    defects = [first_defect(pair) for pair in pairs if isinstance(pair, Pair)]
    assert defects == [None, Defect(DefectCode.DAMAGED_CHARACTERS, "prompt contains U+FFFD")]


@pytest.mark.parametrize("depth", [100_000, 1_000, 950, 900])
def test_a_nested_bomb_is_one_broken_row(depth: int, tmp_path: Path) -> None:
    bomb = '{"chosen": ' + "[" * depth + "]" * depth + "}"
    rows = read(write_rows(tmp_path / "pairs.jsonl", [bomb, ROWS[0]]))
    assert rows[1].value == ROWS[0]
    if depth >= 1_000:
        assert codes(rows) == ["broken_row", None]
        assert len(rows[0].text) <= LONGEST_SHOWN


def test_a_nested_bomb_as_one_document_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "pairs.json"
    path.write_text("[" * 100_000 + "]" * 100_000)
    with pytest.raises(UserError, match="nested too deeply"):
        read(path)


def test_a_line_without_end_does_not_fill_the_memory(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl.gz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        for _ in range(40):  # 40 MiB in one line
            file.write(b" " * 2**20)
        file.write(b"x\n" + json.dumps(ROWS[0]).encode() + b"\n")
    assert values(read(path)) == [ROWS[0]]  # blank as far as we look


def test_a_line_just_over_the_limit_is_broken_and_one_just_within_is_not(tmp_path: Path) -> None:
    frame = json.dumps({**TEXT_ROWS[0], "chosen": ""})
    fits = json.dumps({**TEXT_ROWS[0], "chosen": "x" * (LONGEST_ROW - len(frame))})
    assert len(fits) == LONGEST_ROW
    rows = read(write_rows(tmp_path / "pairs.jsonl", [fits, fits[:-2] + 'y"}', ROWS[0]]))
    assert codes(rows) == [None, "broken_row", None]
    assert len(rows[1].text) == LONGEST_SHOWN
    assert [row.origin.row for row in rows] == [1, 2, 3]


def cut_gz(path: Path) -> Path:
    path = as_gz(path)
    path.write_bytes(path.read_bytes()[:-20])
    return path


def damage_gz(path: Path) -> Path:
    path = path.with_suffix(".jsonl.gz")
    content = bytearray(gzip.compress(os.urandom(5000).hex().encode()))
    content[100:140] = bytes(40)
    path.write_bytes(content)
    return path


def name_gz(path: Path) -> Path:
    return as_jsonl(path).rename(path.with_suffix(".jsonl.gz"))


def cut_parquet(path: Path) -> Path:
    path = as_parquet(path)
    path.write_bytes(path.read_bytes()[:-20])
    return path


def damage_parquet(path: Path) -> Path:
    path = as_parquet(path)
    content = bytearray(path.read_bytes())
    content[4:80] = bytes(76)
    path.write_bytes(content)
    return path


def empty_parquet(path: Path) -> Path:
    path = path.with_suffix(".parquet")
    path.touch()
    return path


def cut_json(path: Path) -> Path:
    path = as_json(path)
    path.write_text(path.read_text()[:-20])
    return path


def lines_named_json(path: Path) -> Path:
    return as_jsonl(path).rename(path.with_suffix(".json"))


def open_quote(path: Path) -> Path:
    path = path.with_suffix(".csv")
    path.write_text('prompt,chosen,rejected\nq,a,b\nq,"a,b\nq,a,b\n')
    return path


def other_type(path: Path) -> Path:
    path = path.with_suffix(".txt")
    path.write_text("hello")
    return path


@pytest.mark.parametrize(
    ("write", "reason"),
    [
        (cut_gz, "end-of-stream"),
        (damage_gz, ""),
        (name_gz, "Not a gzipped file"),
        (cut_parquet, "footer"),
        (damage_parquet, ""),
        (empty_parquet, ""),
        (cut_json, "line"),
        (lines_named_json, "name it .jsonl"),
        (open_quote, "in the row behind line 2: unexpected end of data"),
        (other_type, "the file type is not known"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(
    write: Callable[[Path], Path], reason: str, tmp_path: Path
) -> None:
    path = write(tmp_path / "pairs")
    with pytest.raises(UserError) as raised:
        read(path)
    assert str(path) in raised.value.found
    assert reason in raised.value.found
    assert raised.value.fix == "Repair or remove the file."


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
    pairs = [parse_pair(row.value, row.origin) for row in read_rows(file)]  # type: ignore[arg-type]
    assert all(isinstance(p, Pair) and first_defect(p) is None for p in pairs)
    assert [p.prompt[0].content for p in pairs if isinstance(p, Pair)] == [
        row["prompt"][0]["content"] for row in ROWS
    ]
    assert [(p.score_chosen, p.score_rejected) for p in pairs if isinstance(p, Pair)] == [
        (8.5, 3.0)
    ] * 3


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
