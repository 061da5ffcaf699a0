"""The prepare stage: what becomes of every row, and when a stage is done again."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from prepared import (
    BROKEN,
    EMPTY,
    GOOD,
    answer,
    check_account,
    content_of,
    frame,
    kept,
    prompts,
    quarantined,
    question,
    report_of,
    run,
)
from rows import pair_row, write_rows

from orpo_pipeline.data.block_store import StoredBlock
from orpo_pipeline.data.inputs import find_inputs
from orpo_pipeline.data.preparation import check_equation, load_prepared
from schemas.config import RunConfig
from schemas.errors import UserError
from schemas.results import PreparedData

MakeConfig = Callable[..., RunConfig]
Prepare = Callable[..., PreparedData]
SECRET = "AKIA" + "Q7ZT2LMX5VBC4NDK"


def stage_of(config: RunConfig, home: Path) -> Path:
    return find_inputs(config, home, lambda _: None).folder


def test_what_becomes_of_each_row(prepare_rows: Prepare) -> None:
    flipped = pair_row(0, chosen=GOOD[0]["rejected"], rejected=GOOD[0]["chosen"])
    too_long = pair_row(101, chosen=answer("word " * 200))
    prepared = prepare_rows([*GOOD, BROKEN, EMPTY, GOOD[3], GOOD[3], flipped, too_long])
    assert prepared.rows_in == 46
    assert prepared.duplicates == 2
    assert prepared.quarantined == {
        "contradiction": 2,  # row 1 and its flipped copy
        "broken_row": 1,
        "empty_text": 1,
        "too_long": 1,
    }
    assert prepared.train_pairs + prepared.eval_pairs == 39
    assert prepared.rows_quarantined == 5
    check_account(prepared)
    removed = frame(prepared, "quarantine").sort("origin_row")
    assert removed.select("origin_row", "code", "severity").rows() == [
        (1, "contradiction", "quarantine"),
        (41, "broken_row", "quarantine"),
        (42, "empty_text", "quarantine"),
        (45, "contradiction", "quarantine"),
        (46, "too_long", "drop"),
    ]
    assert frame(prepared, "duplicates")["origin_row"].to_list() == [43, 44]


def test_the_quarantine_says_what_where_and_why(prepare_rows: Prepare) -> None:
    quarantine = frame(prepare_rows([*GOOD, BROKEN, EMPTY]), "quarantine").sort("origin_row")
    broken, empty = quarantine.to_dicts()
    assert (broken["origin_file"], broken["origin_row"]) == ("rows.jsonl", 41)
    assert (broken["code"], broken["row"], broken["row_id"]) == ("broken_row", BROKEN, None)
    assert broken["reason"].startswith("not JSON: Unterminated string")
    assert json.loads(empty.pop("row")) == EMPTY
    assert len(empty.pop("row_id")) == 64
    assert empty == {
        "origin_file": "rows.jsonl",
        "origin_row": 42,
        "split": "eval",  # its prompt says so
        "code": "empty_text",
        "severity": "quarantine",
        "reason": "chosen has a message without text",
    }


def test_prepared_rows_hold_text_and_tokens(prepare_rows: Prepare) -> None:
    from transformers import AutoTokenizer

    prepared = prepare_rows(GOOD)
    tokenizer = AutoTokenizer.from_pretrained(prepared.path / "tokenizer")
    rows = kept(prepared)
    assert len(rows) == 40
    for row in rows:
        source = GOOD[row["origin_row"] - 1]
        assert {key: row[key] for key in source} == source
        assert tokenizer.decode(row["chosen_ids"]) == source["chosen"][0]["content"] + "<|im_end|>"
        assert source["prompt"][0]["content"] in tokenizer.decode(row["prompt_ids"])
        for side in ("prompt", "chosen", "rejected"):
            assert row[f"{side}_tokens"] == len(row[f"{side}_ids"])
    longest = max(
        len(r["prompt_ids"]) + max(len(r["chosen_ids"]), len(r["rejected_ids"])) for r in rows
    )
    assert prepared.longest_pair == longest
    whole = (sum(len(r[f"{side}_ids"]) for side in ("prompt", "chosen", "rejected")) for r in rows)
    assert prepared.longest_segment == max(whole)
    for name in ("train", "eval"):
        assert frame(prepared, name)["row_id"].is_sorted()


def test_the_report_counts_and_gives_examples(prepare_rows: Prepare) -> None:
    prepared = prepare_rows([*GOOD, *[BROKEN] * 5, GOOD[0]])
    report = report_of(prepared)
    assert (report.rows_in, report.duplicates) == (46, 1)
    assert (report.prepared_id, report.dataset_id) == (prepared.prepared_id, prepared.dataset_id)
    assert report.kept_train + report.kept_eval == 40
    (broken,) = report.defects
    assert (broken.code, broken.rows) == ("broken_row", 5)
    assert [example.origin for example in broken.examples] == [
        "rows.jsonl:41",
        "rows.jsonl:42",
        "rows.jsonl:43",
    ]
    assert [example.text for example in broken.examples] == [BROKEN] * 3
    length = next(bias for bias in report.biases if bias.name == "length")
    assert length.auc.value == 0  # the chosen answers are all shorter
    (file,) = report.files
    assert (file.name, file.dialect, file.rows, file.kept) == ("rows.jsonl", "trl_explicit", 46, 40)


def test_hostile_rows_are_quarantined_like_others(prepare_rows: Prepare) -> None:
    lone = "\ud83d"
    hostile: list[Any] = [
        pair_row(1, prompt=[{"role": f"user{lone}", "content": "Hi"}]),
        pair_row(2, chosen=[{"role": "assistant", "content": "x", f"key{lone}": 1}]),
        pair_row(3, chosen=answer(f"half {lone}")),
        pair_row(4, score_chosen=10**400, score_rejected=1),
        pair_row(5, chosen=answer("a" + "\n" * 300_000)),
        '{"prompt": "\x00", "chosen": "a", "rejected": "b"}',
        '{"chosen": 1' + "0" * 5000 + "}",
        pair_row(6, prompt=None),
        pair_row(7, chosen=[{"role": "assistant", "content": None}]),
        {"prompt": None, "chosen": None, "rejected": None},
        pair_row(8, rejected=answer("private \ue000 use")),
        pair_row(9, chosen=answer("bidi \u202egnisrever")),
        pair_row(10, chosen=answer("a NUL \x00 here")),
    ]
    # Just shallow enough to be read is not shallow enough to be written again.
    nested = ['{"x": ' + "[" * d + "]" * d + "}" for d in range(900, 1000, 4)]
    prepared = prepare_rows([*GOOD[10:], *hostile, *nested, "[" * 10**5], max_quarantined_share=1.0)
    assert prepared.rows_quarantined == len(hostile) + len(nested) + 1
    check_account(prepared)
    removed = quarantined(prepared)
    assert [removed[number][0] for number in range(31, 44)] == [
        "wrong_roles",
        "unsupported_content",
        "damaged_characters",
        "wrong_type",
        "too_long",
        "broken_row",
        "broken_row",
        "missing_field",
        "missing_field",
        "missing_field",
        *["damaged_characters"] * 3,
    ]
    assert "ud83d" in removed[31][1]
    assert {removed[number] for number in range(44, 69)} == {
        ("broken_row", "nested deeper than 100 levels")
    }


def test_odd_text_is_kept_or_repaired(prepare_rows: Prepare, tmp_path: Path) -> None:
    texts = {
        "{{ 7*7 }} {% for x in range(10**9) %}": "{{ 7*7 }} {% for x in range(10**9) %}",
        "zero\u200b\u200bwidth": "zerowidth",
        "line\r\nend": "line\nend",
        "=1+1": "=1+1",
    }
    rows = [pair_row(50 + n, chosen=answer(text)) for n, text in enumerate(texts)]
    lines = [json.dumps(row) for row in [*GOOD, *rows]]
    # As an editor on Windows saves it: a byte-order mark, and CRLF at the end of lines.
    (tmp_path / "odd.jsonl").write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).encode())
    prepared = prepare_rows(None, source=str(tmp_path / "odd.jsonl"))
    assert prepared.rows_quarantined == 0
    found = {row["origin_row"]: row for row in kept(prepared)}
    assert [found[41 + n]["chosen"][0]["content"] for n in range(4)] == list(texts.values())
    decoded = read_tokenizer(prepared).decode(found[41]["chosen_ids"])
    assert decoded == "{{ 7*7 }} {% for x in range(10**9) %}<|im_end|>"
    repaired = next(d for d in report_of(prepared).defects if d.code == "characters_repaired")
    assert [e.origin for e in repaired.examples] == [f"odd.jsonl:{n}" for n in (42, 43)]


def read_tokenizer(prepared: PreparedData) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(prepared.path / "tokenizer")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("rows.jsonl", b"", "it is empty"),
        ("rows.csv", b"prompt,chosen,rejected\n", "hold no rows at all"),
        ("rows.jsonl.gz", b"\x1f\x8b\x08\x00torn", "cannot be read"),
        ("rows.parquet", b"PAR1torn", "cannot be read"),
        ("rows.docx", b"PK", "the file type is not known"),
        ("rows.jsonl", b'[{"prompt": "a"}]', "a list"),
    ],
)
def test_a_file_that_cannot_be_read_is_one_clear_error(
    name: str, content: bytes, message: str, prepare_rows: Prepare, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message) as raised:
        prepare_rows(None, source=str(tmp_path / name))
    assert str(tmp_path / name) in raised.value.found
    assert not (tmp_path / "home" / "prepared").exists()


def test_personal_data_is_replaced_before_rows_are_told_apart(prepare_rows: Prepare) -> None:
    def mail(address: str) -> dict[str, Any]:
        said = f"Write to {address}, please."
        return pair_row(50, prompt=question(f"Is {address} hers?"), chosen=answer(said))

    rows = [*GOOD, mail("ann.lee@mail.example.com"), mail("bob@post.example.org")]
    redacted = prepare_rows(rows)
    assert redacted.duplicates == 1  # without the addresses they are one row
    (row,) = [row for row in kept(redacted) if row["origin_row"] == 41]
    assert row["prompt"][0]["content"] == "Is [EMAIL] hers?"
    assert row["chosen"][0]["content"] == "Write to [EMAIL], please."
    check_account(redacted)

    kept_rows = prepare_rows(rows, personal_data="keep")
    assert (kept_rows.duplicates, kept_rows.rows_quarantined) == (0, 0)
    assert "Is bob@post.example.org hers?" in prompts(kept_rows, "train") | prompts(
        kept_rows, "eval"
    )

    aside = prepare_rows(rows, personal_data="quarantine")
    assert aside.quarantined == {"personal_data": 2}
    assert "example.com" not in "".join(frame(aside, "quarantine")["row"])
    assert len({p.prepared_id for p in (redacted, kept_rows, aside)}) == 3


def test_secrets_and_control_tokens_follow_the_configuration(prepare_rows: Prepare) -> None:
    rows = [
        *GOOD,
        pair_row(50, chosen=answer(f"The key is {SECRET}.")),
        pair_row(51, chosen=answer("Say <|im_end|> twice.")),
    ]
    default = prepare_rows(rows)
    assert quarantined(default) == {41: ("secret", "found: AWS access key in chosen")}
    assert SECRET not in "".join(frame(default, "quarantine")["row"])
    (neutral,) = [row for row in kept(default) if row["origin_row"] == 42]
    end_of_turn = read_tokenizer(default).convert_tokens_to_ids("<|im_end|>")
    assert neutral["chosen_ids"].count(end_of_turn) == 1  # its own end, not what was written
    assert read_tokenizer(default).decode(neutral["chosen_ids"]).startswith("Say <|im_end|> twice.")

    other = prepare_rows(rows, secrets="redact", chat={"control_tokens": "quarantine"})
    assert {number: code for number, (code, _) in quarantined(other).items()} == {
        42: "control_token"
    }
    (redacted,) = [row for row in kept(other) if row["origin_row"] == 41]
    assert redacted["chosen"][0]["content"] == "The key is [SECRET]."


def test_too_long_pairs_follow_the_configuration(prepare_rows: Prepare) -> None:
    long = pair_row(
        50,
        prompt=question("Old words. " * 100 + "What is left?"),
        chosen=answer("This."),
        rejected=answer("That."),
    )
    assert prepare_rows([*GOOD, long]).quarantined == {"too_long": 1}
    cut = prepare_rows([*GOOD, long], chat={"too_long": "truncate_prompt_left"})
    assert cut.rows_quarantined == 0
    assert cut.longest_pair <= 128
    (row,) = [row for row in kept(cut) if row["origin_row"] == 41]
    assert read_tokenizer(cut).decode(row["prompt_ids"]).count("What is left?") == 1


def test_blank_lines_are_no_rows(prepare_rows: Prepare, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"rows\.jsonl hold no rows at all"):
        prepare_rows(["", "  "])
    assert not (tmp_path / "home" / "prepared").exists()


def test_a_row_that_is_lost_on_the_way_is_noticed(tmp_path: Path) -> None:
    block = StoredBlock(tmp_path, "rows.jsonl", "train", 1, 3, "trl_explicit", "")
    rows = pl.DataFrame({"code": ["secret", None], "duplicate": [False, False]})
    with pytest.raises(AssertionError, match=r"^3 rows were read and 2 compared; 1 kept \+ 1 "):
        check_equation(rows, [block])


def test_prepared_id_follows_what_decides_and_nothing_else(
    tiny_config: MakeConfig, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    first = stage_of(tiny_config(), home)
    source = tmp_path / "copy" / "pairs.jsonl"
    source.parent.mkdir()
    shutil.copy(tmp_path / "pairs.jsonl", source)
    same = [
        tiny_config(data={"source": str(source)}),
        tiny_config(training={"max_steps": 99}),
        tiny_config(data={"processes": 2}),
        tiny_config(data={"max_quarantined_share": 0.5, "max_rule_share": {"empty_text": 0.1}}),
    ]
    assert {stage_of(config, home) for config in same} == {first}
    (tmp_path / "benchmarks.txt").write_text("What is 7 plus 7?\n")
    decisive: list[dict[str, Any]] = [
        {"data": {"eval_fraction": 0.4}},
        {"data": {"personal_data": "keep"}},
        {"data": {"secrets": "redact"}},
        {"data": {"min_score_margin": 1.0}},
        {"data": {"near_duplicates": 0.9}},
        {"data": {"max_pairs_per_prompt": 4}},
        {"data": {"benchmarks": str(tmp_path / "benchmarks.txt")}},
        {"data": {"dialect": "trl_explicit"}},
        {"chat": {"max_length": 127}},
        {"chat": {"template": "chatml"}},
        {"chat": {"too_long": "truncate_answer"}},
        {"chat": {"control_tokens": "quarantine"}},
    ]
    others = [stage_of(tiny_config(**sections), home) for sections in decisive]
    assert len({first, *others}) == 1 + len(decisive)


def test_the_second_call_reuses_the_first(prepare_rows: Prepare) -> None:
    first = prepare_rows(GOOD)
    before = {p: p.stat().st_mtime_ns for p in first.path.parent.parent.rglob("*")}
    second = prepare_rows(GOOD)
    assert second == first.model_copy(update={"reused": True})
    assert {p: p.stat().st_mtime_ns for p in first.path.parent.parent.rglob("*")} == before


def test_a_moved_state_folder_and_a_moved_model_are_found(
    tiny_config: MakeConfig, tiny_model: Path, tmp_path: Path
) -> None:
    first = run(tiny_config(), tmp_path / "home")
    home = (tmp_path / "home").rename(tmp_path / "moved")
    model = shutil.copytree(tiny_model, tmp_path / "model")
    config = tiny_config(model={"base_model": str(model)})
    second = run(config, home)
    assert second.reused
    assert second.path == home / "prepared" / first.path.name
    assert second.base_model.path == model
    assert second.prepared_id == first.prepared_id
    assert load_prepared(find_inputs(config, home, lambda _: None)) == second
    assert str(tmp_path) not in (second.path / "record.json").read_text(encoding="utf-8")


def test_a_damaged_result_is_made_again(prepare_rows: Prepare, tmp_path: Path) -> None:
    first = prepare_rows(GOOD)
    before = content_of(first.path)
    with (first.path / "train.parquet").open("r+b") as file:
        file.seek(100)
        file.write(b"\0\0\0\0")
    second = prepare_rows(GOOD)
    assert not second.reused
    assert content_of(second.path) == before


def test_files_of_several_kinds_are_one_data_set(prepare_rows: Prepare, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    write_rows(folder / "a.jsonl", GOOD[:10])
    (folder / "b.json").write_text(json.dumps(GOOD[10:20]))
    pl.DataFrame(GOOD[20:30]).write_parquet(folder / "c.parquet")
    hh = [
        {side: f"\n\nHuman: Why {n}?\n\nAssistant: {side} {n}" for side in ("chosen", "rejected")}
        for n in range(10)
    ]
    write_rows(folder / "d.ndjson", hh)
    prepared = prepare_rows(None, source=str(folder))
    assert (prepared.rows_in, prepared.rows_quarantined) == (40, 0)
    files = {file.name: (file.dialect, file.kept) for file in report_of(prepared).files}
    assert files == {
        "a.jsonl": ("trl_explicit", 10),
        "b.json": ("trl_explicit", 10),
        "c.parquet": ("trl_explicit", 10),
        "d.ndjson": ("hh_rlhf", 10),
    }
