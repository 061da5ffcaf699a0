"""A model card as Markdown with Hugging Face's YAML front matter; what people wrote stays text."""

from functools import cache
from pathlib import Path
from typing import Any, Literal

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

from orpo_pipeline.pages.rendering import show_controls
from schemas.model_card import Drift, ModelCard

CARD = "README.md"
FACTS = "model_card.json"
Form = Literal["adapter", "merged"]

MARKDOWN = "\\`*_{}[]<>#|!&$~"
"""Characters that a Markdown cell would act on; `&` and `<` because Markdown passes HTML on."""


def render_card(card: ModelCard, form: Form = "adapter", drift: Drift | None = None) -> str:
    """The card's text. `form` says what lies beside it: the adapter, or the merged weights."""
    text = _template().render(
        card=card,
        form=form,
        drift=drift,
        front_matter=front_matter(card, form),
    )
    return text.rstrip() + "\n"


def front_matter(card: ModelCard, form: Form) -> str:
    """The YAML that model hubs read (huggingface.co/docs/hub/model-cards)."""
    on_hub = not card.base_is_local
    fields: dict[str, Any] = {
        "base_model": card.base_address if on_hub else card.base_name,
        "base_model_relation": "adapter" if form == "adapter" else "finetune",
        "library_name": "peft" if form == "adapter" else "transformers",
        "pipeline_tag": "text-generation",
        "license": (card.base_licence or "other").lower(),
        "datasets": [card.data_hub_id] if card.data_hub_id else [],
        "tags": ["orpo", "preference", *(["lora"] if form == "adapter" else [])],
    }
    known = {name: value for name, value in fields.items() if value != []}
    return yaml.safe_dump(known, sort_keys=False, allow_unicode=False).strip()


def cell(value: Any) -> str:
    """Text as a table cell shows it: on one line, and no character of it is Markdown or HTML."""
    text = " ".join(str(show_controls(str(value))).split())
    return "".join(f"\\{c}" if c in MARKDOWN else c for c in text)


def code(value: Any) -> str:
    """Text inside backticks, which end at a backtick and in a cell at a bar."""
    text = " ".join(str(show_controls(str(value))).split())
    return text.replace("`", "'").replace("|", "/")


@cache
def _template() -> Template:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=False,  # Markdown, escaped by `cell` and `code`
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(cell=cell, code=code)
    return environment.get_template("card.md.jinja")
