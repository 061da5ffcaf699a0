"""Writes docs/configuration.md from schemas/*config.py: `python docs/configuration.py`."""

import inspect
import json
import types
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from schemas.config import RunConfig
from schemas.figures import Figure
from schemas.pairs import DefectCode
from schemas.retraining_config import FilesSource, HubSource, SqlSource
from schemas.section import Section

SOURCES: tuple[type[BaseModel], ...] = (FilesSource, HubSource, SqlSource)
"""What `retraining.sources` is a list of."""

PAGE = Path(__file__).with_name("configuration.md")

HEAD = """# Configuration

<!-- Written by docs/configuration.py from schemas/*config.py. Edit the field's text there. -->

A run is described by one YAML file. Name only what you want to change; the rest has the default
below. The files in `configs/` are examples.

```bash
orpo-pipeline run --config configs/demo.yaml
orpo-pipeline run --config configs/demo.yaml --set training.max_steps=10 --set lora.r=8
orpo-pipeline config configs/demo.yaml     # the resolved configuration as JSON, all fields
orpo-pipeline config                       # the defaults
```

`--set SECTION.FIELD=VALUE` wins over the file and may be repeated. The value is read as YAML:
`20`, `1e-4`, `true`, `[q_proj, v_proj]`, text, or `null` for unset. A revision
of digits only must be quoted: `--set "data.revision='1234567'"`.

An unknown field or an impossible value ends the command with exit code 2 before anything is done,
and the message lists all of them. Relative paths start at the current folder.
"""


def render() -> str:
    """The page: a heading and a table of fields for each section of `RunConfig`."""
    parts = [HEAD]
    for name, section in RunConfig.model_fields.items():
        model: type[BaseModel] = section.annotation  # type: ignore[assignment]
        parts.append(f"## {name}\n\n{_one_line(model.__doc__)}\n")
        parts.append("| field | values | default | meaning |\n|---|---|---|---|")
        parts += _rows(name, model)
        parts.append("")
        for source in SOURCES if name == "retraining" else ():
            parts.append(f"### {source.__name__}\n\n{_one_line(source.__doc__)}\n")
            parts.append("| field | values | default | meaning |\n|---|---|---|---|")
            parts += [_row(key, field) for key, field in source.model_fields.items()]
            parts.append("")
    return "\n".join(parts)


def _rows(prefix: str, model: type[BaseModel]) -> list[str]:
    """A row for each field; behind a section's own row those of its fields."""
    rows = []
    for key, field in model.model_fields.items():
        name = f"{prefix}.{key}"
        rows.append(_row(name, field))
        for inner in get_args(field.annotation):
            if inspect.isclass(inner) and issubclass(inner, Section):
                rows += _rows(name, inner)
    return rows


def _row(name: str, field: FieldInfo) -> str:
    default = "required"
    if not field.is_required():
        default = f"`{json.dumps(field.get_default(call_default_factory=True))}`"
    cells = [f"`{name}`", _values(field), default, _one_line(field.description)]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _values(field: FieldInfo) -> str:
    return ", ".join([_type(field.annotation), *_limits(field.metadata)])


def _limits(metadata: list[Any]) -> list[str]:
    return [
        f"{sign} {getattr(limit, key)}"
        for limit in metadata
        for key, sign in (("gt", ">"), ("ge", ">="), ("lt", "<"), ("le", "<="))
        if hasattr(limit, key)
    ]


def _type(annotation: Any) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in arguments)
    if origin in (Union, types.UnionType):
        return " or ".join(_type(argument) for argument in arguments)
    if origin is Annotated:
        return ", ".join([_type(arguments[0]), *_limits(arguments[1].metadata)])
    if origin is dict:
        return f"mapping of {_type(arguments[0])} to {_type(arguments[1])}"
    if origin is tuple:
        return f"list of {_type(arguments[0])}"
    if inspect.isclass(annotation) and issubclass(annotation, Section):
        return "the fields below"
    names = {
        DefectCode: "defect code",
        Figure: "a figure of [evaluate](evaluate.md#the-figures)",
        str: "text",
        int: "whole number",
        float: "number",
        bool: "true, false",
        **{source: f"`{source.__name__}`" for source in SOURCES},
    }
    return names.get(annotation, "null" if annotation is type(None) else str(annotation))


def _one_line(text: str | None) -> str:
    return " ".join((text or "").split())


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
