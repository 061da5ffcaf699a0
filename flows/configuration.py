"""Config files and `--set` overrides, read into one `RunConfig`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from schemas.config import RunConfig
from schemas.errors import UserError

NEVER_SHOWN = "evaluation.judge"
"""The section whose values are not repeated in messages: people paste the key itself there."""

CONFIG_FOLDER = "configs"
# A date that does not exist is a ValueError, as is text that is no UTF-8; brackets may nest deep.
NO_YAML = (yaml.YAMLError, ValueError, RecursionError)


def read_config(file: Path | None, overrides: Sequence[str] = ()) -> RunConfig:
    """The file's values, then the overrides (`section.field=value`, the value as YAML).

    Raises UserError that lists every problem at once.
    """
    values = _read_yaml(file) if file else {}
    for override in overrides:
        _apply(values, override)
    try:
        return RunConfig.model_validate(values)
    except ValidationError as error:
        problems = [_describe(dict(problem)) for problem in error.errors()]
        raise UserError(
            f"{file or 'The configuration'}: {'; '.join(problems)}.",
            "the fields and values that docs/configuration.md lists.",
            "Correct them; `orpo-pipeline config` prints all fields with their values.",
        ) from None


def _read_yaml(file: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, *NO_YAML) as error:
        raise UserError(
            f"The config file {file} cannot be read: {' '.join(str(error).split())}.",
            "an existing YAML file.",
            f"Correct the path or the file; examples lie in {CONFIG_FOLDER}/.",
        ) from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise UserError(
            f"The config file {file} holds {type(values).__name__}, not sections.",
            "a mapping with sections such as `data:` and `training:`.",
            f"Compare it with the examples in {CONFIG_FOLDER}/.",
        )
    return values


def _apply(values: dict[str, Any], override: str) -> None:
    path, separator, text = override.partition("=")
    section, dot, field = path.strip().partition(".")
    if not separator or not dot:
        raise UserError(
            f"The override {override!r} has not the form SECTION.FIELD=VALUE.",
            "for example training.max_steps=20.",
            "Correct the --set option.",
        )
    inside = values.setdefault(section, {})
    *between, field = field.split(".")
    for name in between:  # such as data.columns.prompt
        inside = inside.setdefault(name, {}) if isinstance(inside, dict) else inside
    if not isinstance(inside, dict):
        raise UserError(
            f"The section {section!r} of the config file holds {inside!r}, not fields.",
            "a mapping of fields.",
            "Correct the config file.",
        )
    try:
        inside[field] = yaml.safe_load(text)
    except NO_YAML as error:
        raise UserError(
            f"The value of the override {override!r} is no YAML: {' '.join(str(error).split())}.",
            "a YAML value such as 20, 1e-4, true or text.",
            "Correct or quote the value.",
        ) from error


def _describe(problem: dict[str, Any]) -> str:
    place = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        return f"{place} is not a known field"
    if place.startswith(NEVER_SHOWN) or NEVER_SHOWN.startswith(f"{place}."):
        return f"{place}: {problem['msg']}"
    # A URL may hold a password, and stands where only the name of its variable should.
    given = str(problem["input"])
    shown = "(a URL)" if "://" in given or "@" in given else repr(problem["input"])
    return f"{place} = {shown}: {problem['msg']}"
