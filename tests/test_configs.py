"""Every shipped config and deployment parses; what `--set` and bad input do."""

import asyncio
import importlib.util
import inspect
import json
from datetime import datetime, timedelta
from pathlib import Path
from types import ModuleType
from typing import Any
from zoneinfo import ZoneInfo

import pytest
import yaml
from pydantic import ValidationError
from typer.testing import CliRunner

from flows.cli import app, main
from flows.configuration import read_config
from schemas.config import RegistryConfig, RunConfig
from schemas.errors import UserError
from schemas.pairs import DefectCode

ROOT = Path(__file__).parents[1]
CONFIGS = sorted((ROOT / "configs").glob("*.y*ml"))
DEPLOYMENTS = yaml.safe_load((ROOT / "prefect.yaml").read_text(encoding="utf-8"))["deployments"]
FIELDS = [
    (section, name, field)
    for section, outer in RunConfig.model_fields.items()
    for name, field in outer.annotation.model_fields.items()  # type: ignore[union-attr]
]


def load(path: Path) -> ModuleType:
    """A Python file as a module, wherever it lies."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_shipped_configs_are_found() -> None:
    assert {path.name for path in CONFIGS} >= {
        "demo.yaml",
        "mistral-7b-qlora.yaml",
        "paper-mistral-orpo-beta.yaml",
        "ultrafeedback.yaml",
    }


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_every_config_parses_and_says_what_it_needs(path: Path) -> None:
    config = read_config(path)
    given = yaml.safe_load(path.read_text(encoding="utf-8"))
    for section, fields in given.items():
        for name, value in fields.items():
            assert getattr(getattr(config, section), name) == value
    header = path.read_text(encoding="utf-8").split("\n" + next(iter(given)) + ":")[0]
    assert all(line.startswith("#") for line in header.splitlines())
    assert "Needs" in header


def test_no_two_configs_share_a_registered_model() -> None:
    """Else the champion of one would be compared with a candidate of another."""
    names = [read_config(path).registry.model_name for path in CONFIGS]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("mistral-7b-qlora.yaml", (0.1, 8e-6, "linear", 0.1, 8, 1024)),
        ("paper-mistral-orpo-beta.yaml", (0.1, 5e-6, "inverse_sqrt", 200, 32, 2048)),
    ],
)
def test_recipes_are_as_published(name: str, expected: tuple[Any, ...]) -> None:
    config = read_config(ROOT / "configs" / name)
    training = config.training
    found = (
        training.orpo_lambda,
        training.learning_rate,
        training.lr_scheduler,
        training.warmup,
        training.batch_size,
        config.chat.max_length,
    )
    assert found == expected
    assert config.chat.template == "zephyr"  # the base model's tokenizer has none


def test_deployments_are_found() -> None:
    names = [deployment["name"] for deployment in DEPLOYMENTS]
    assert names == ["orpo-pipeline", "orpo-retrain", "nightly", "orpo-promote", "orpo-rollback"]


@pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin", "America/New_York"])
def test_every_night_has_one_run_also_when_clocks_change(zone: str) -> None:
    """In the zone of prefect.yaml, and in others at the hours that its comment allows."""
    from prefect.server.schemas.schedules import CronSchedule

    (nightly,) = (d for d in DEPLOYMENTS if d["name"] == "nightly")
    schedule = CronSchedule(cron=nightly["schedules"][0]["cron"], timezone=zone)
    first = datetime(2026, 1, 1, tzinfo=ZoneInfo(zone))
    nights = asyncio.run(schedule.get_dates(n=400, start=first))
    days = [night.astimezone(ZoneInfo(zone)).date() for night in nights]
    assert days == [first.date() + timedelta(days=n) for n in range(400)]


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=lambda deployment: deployment["name"])
def test_deployment_names_a_flow_that_takes_its_parameters(deployment: dict[str, Any]) -> None:
    from prefect import Flow

    file, function = deployment["entrypoint"].split(":")
    assert (ROOT / file).is_file()
    flow = getattr(load(ROOT / file), function)
    assert isinstance(flow, Flow)
    parameters = deployment.get("parameters", {})
    assert set(parameters) <= set(inspect.signature(flow.fn).parameters)
    for name, section in (("config", RunConfig), ("registry", RegistryConfig)):
        given = section.model_validate(parameters.get(name, {}))
        asked = {"version": "1", "because": "a test"}  # what only the asker can know
        known = {k: v for k, v in asked.items() if k in inspect.signature(flow.fn).parameters}
        assert flow.validate_parameters({**known, **parameters}).get(name, section()) == given


@pytest.mark.parametrize(("section", "name", "field"), FIELDS, ids=lambda value: str(value)[:20])
def test_every_field_is_described(section: str, name: str, field: Any) -> None:
    """The descriptions are the help texts of the Prefect UI and of docs/configuration.md."""
    assert field.description, f"{section}.{name} has no text below it"
    assert field.description.rstrip().endswith(".")
    assert inspect.getdoc(RunConfig.model_fields[section].annotation)


def test_the_configuration_page_is_up_to_date() -> None:
    script = load(ROOT / "docs" / "configuration.py")
    assert script.PAGE.read_text(encoding="utf-8") == script.render(), (
        "run `python docs/configuration.py`"
    )


def test_a_url_in_the_place_of_a_variable_s_name_is_not_repeated(tmp_path: Path) -> None:
    source = "{kind: sql, name: a, query: select 1, database_url_variable: 'x://bob:planted@h/d'}"
    with pytest.raises(UserError, match="database_url_variable") as caught:
        read_config(None, [f"retraining.sources=[{source}]"])
    assert "planted" not in str(caught.value)


def test_two_sources_have_two_names() -> None:
    source = "{kind: files, name: a, path: b}"
    with pytest.raises(UserError, match="a is the name of several sources"):
        read_config(None, [f"retraining.sources=[{source}, {source}]"])


def test_every_problem_is_listed_at_once(tmp_path: Path) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text("trainign: {max_steps: 3}\nlora: {r: 0}\nmodel: {dtype: int8}\n")
    with pytest.raises(UserError) as caught:
        read_config(file, ["training.max_steps=-1", "training.learning_rte=1e-4"])
    message = str(caught.value)
    assert str(file) in caught.value.found
    for problem in (
        "trainign is not a known field",
        "lora.r = 0",
        "model.dtype = 'int8'",
        "training.max_steps = -1",
        "training.learning_rte is not a known field",
    ):
        assert problem in message


@pytest.mark.parametrize(
    ("override", "section", "field", "value"),
    [
        ("training.learning_rate=1e-4", "training", "learning_rate", 1e-4),
        ("training.learning_rate=3.0e-05", "training", "learning_rate", 3e-5),
        ("training.max_steps=20", "training", "max_steps", 20),
        ("training.max_steps=null", "training", "max_steps", None),
        ("training.max_steps=", "training", "max_steps", None),
        ("training.warmup=200", "training", "warmup", 200),
        ("lora.use_dora=true", "lora", "use_dora", True),
        ("lora.target_modules=[q_proj, v_proj]", "lora", "target_modules", ("q_proj", "v_proj")),
        ("registry.experiment=two words", "registry", "experiment", "two words"),
        ("data.source=../pairs=new.jsonl", "data", "source", "../pairs=new.jsonl"),
        ("data.source=owner/name", "data", "source", "owner/name"),
        ("training.gradient_checkpointing='off'", "training", "gradient_checkpointing", "off"),
    ],
)
def test_set_reads_a_value_as_yaml(override: str, section: str, field: str, value: object) -> None:
    config = read_config(None, [override])
    assert getattr(getattr(config, section), field) == value


def test_set_wins_over_the_file_and_the_last_set_over_the_first(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("training: {max_steps: 5, seed: 7}\n")
    config = read_config(file, ["training.max_steps=6", "training.max_steps=8"])
    assert (config.training.max_steps, config.training.seed) == (8, 7)


@pytest.mark.parametrize(
    ("override", "found"),
    [
        ("max_steps=3", "has not the form SECTION.FIELD=VALUE"),
        ("training.max_steps", "has not the form SECTION.FIELD=VALUE"),
        ("lora.target_modules=[q_proj", "is no YAML"),
        ("training.max_steps=many", "training.max_steps = 'many'"),
        ("training.max_steps.more=3", "training.max_steps = {'more': 3}"),
        ("nothing.max_steps=3", "nothing is not a known field"),
        ("data.revision=2024-13-45", "is no YAML: month must be in 1..12"),
        ("data.columns=" + "[" * 5000, "is no YAML: maximum recursion depth"),
        ("data.max_rule_share.truncated=0.1", "truncated removes no row"),
        ("data.max_rule_share.small_score_margin=0", "small_score_margin removes no row"),
        ("data.max_rule_share.too_long=1.5", "data.max_rule_share.too_long = 1.5"),
        ("data.max_rule_share.too_long=-0.1", "data.max_rule_share.too_long = -0.1"),
    ],
)
def test_a_bad_override_is_named(override: str, found: str) -> None:
    with pytest.raises(UserError, match=found.replace("[", r"\[").replace(".", r"\.")):
        read_config(None, [override])


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"data: [unclosed", "cannot be read"),
        (b"\xff\xfe\x00", "cannot be read"),
        (b"- a\n- list\n", "holds list, not sections"),
        (b"data: embedded\n", "data = 'embedded'"),
        (b"data: {revision: 2024-13-45}\n", "cannot be read: month must be in 1..12"),
        (b"data: " + b"[" * 5000, "cannot be read: maximum recursion depth"),
    ],
)
def test_a_bad_file_is_named(tmp_path: Path, content: bytes, found: str) -> None:
    file = tmp_path / "bad.yaml"
    file.write_bytes(content)
    with pytest.raises(UserError) as caught:
        read_config(file)
    assert found in caught.value.found
    assert "bad.yaml" in caught.value.found


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"missing\.yaml cannot be read"):
        read_config(tmp_path / "missing.yaml")


def test_an_empty_file_gives_the_defaults(tmp_path: Path) -> None:
    file = tmp_path / "empty.yaml"
    file.write_text("# nothing set\n")
    assert read_config(file) == RunConfig()


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_the_config_command_prints_json_that_reads_back(path: Path) -> None:
    """`prefect deployment run -p config="$(orpo-pipeline config FILE)"` relies on it."""
    override = "training.seed=7"
    result = CliRunner().invoke(app, ["config", str(path), "--set", override])
    assert result.exit_code == 0
    values = json.loads(result.stdout)
    assert RunConfig.model_validate(values) == read_config(path, [override])
    assert RunConfig.model_validate_json(result.stdout).training.seed == 7
    assert set(values["training"]) == {n for s, n, _ in FIELDS if s == "training"}


def test_a_bad_config_ends_the_command_with_2_and_one_paragraph(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["orpo-pipeline", "config", "--set", "lora.r=[16"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "[16" in printed.err  # not taken for markup
    assert "expected:" in printed.err
    assert "fix:" in printed.err
    assert "Traceback" not in printed.err


def test_an_error_does_not_steer_the_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    override = "lora.\x1b]0;owned\x07=1"
    monkeypatch.setattr("sys.argv", ["orpo-pipeline", "config", "--debug", "--set", override])
    with pytest.raises(SystemExit):
        main()
    printed = capsys.readouterr().err
    assert "lora.[U+001B]]0;owned[U+0007] is not a known field" in printed
    assert "\x1b]" not in printed


def test_one_rule_s_share_leaves_the_default_of_another() -> None:
    inverted, long = DefectCode.SCORE_INVERTED, DefectCode.TOO_LONG
    shares = read_config(None, ["data.max_rule_share.too_long=0.1"]).data.max_rule_share
    assert shares == {inverted: 0.005, long: 0.1}
    shares = read_config(None, ["data.max_rule_share.score_inverted=1"]).data.max_rule_share
    assert shares == {inverted: 1.0}


def test_a_dialect_and_columns_exclude_each_other() -> None:
    with pytest.raises(UserError, match="dialect and columns are both set"):
        read_config(None, ["data.dialect=trl_explicit", "data.columns.prompt=question"])


def test_a_split_is_not_both_trained_on_and_held_out() -> None:
    with pytest.raises(UserError, match="train_split and eval_split are both 'train'"):
        read_config(None, ["data.eval_split=train"])


def test_a_config_cannot_be_changed() -> None:
    with pytest.raises(ValidationError):
        RunConfig().training.seed = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    "override",
    [
        "evaluation.judge.key_variable=sk-planted-0123456789",  # the key instead of its name
        "evaluation.judge.base_url=https://me:sk-planted-0123456789@host/v1",
        "evaluation.judge.base_url=https://host/v1?key=sk-planted-0123456789",
        "evaluation.judge.api_key=sk-planted-0123456789",
        "evaluation.judge.request={api_key: [sk-planted-0123456789]}",
    ],
)
def test_a_pasted_key_is_refused_and_not_repeated(override: str) -> None:
    given = ["evaluation.judge.base_url=http://host/v1", "evaluation.judge.model=m"]
    with pytest.raises(UserError, match=r"evaluation\.judge") as caught:
        read_config(None, [*given, override, "evaluation.generations=0"])
    assert "sk-planted" not in str(caught.value)


def test_a_judge_needs_answers() -> None:
    given = {"judge": {"base_url": "http://host/v1/", "model": "m"}}
    assert RunConfig.model_validate({"evaluation": given}).evaluation.judge is not None
    with pytest.raises(ValidationError, match="nothing to judge"):
        RunConfig.model_validate({"evaluation": {**given, "generations": 0}})
