"""Model cards: what hubs read, what people read, and that nobody's text becomes markup."""

from typing import Any

import pytest
import yaml

from orpo_pipeline.model_card.card import cell, render_card
from schemas.model_card import CardFigure, CardSource, Drift, ModelCard

HOSTILE = "a|b `c` <script>alert(1)</script> [x](javascript:y) \x1b[31m {{ 7*7 }}\n## d"


def card(**changes: Any) -> ModelCard:
    values: dict[str, Any] = {
        "model_name": "orpo-chat",
        "base_name": "Qwen2-1B",
        "base_address": "owner/Qwen2-1B",
        "base_is_local": False,
        "base_revision": "a" * 40,
        "base_licence": "Apache-2.0",
        "quantization": "nf4",
        "dtype": "bfloat16",
        "dataset_id": "d" * 64,
        "prepared_id": "p" * 20,
        "data_source": "owner/pairs",
        "data_hub_id": "owner/pairs",
        "rows_in": 1200,
        "train_pairs": 1000,
        "eval_pairs": 150,
        "rows_quarantined": 40,
        "duplicates": 10,
        "sources": (CardSource(name="chat", pairs=1150),),
        "adapter_id": "x" * 20,
        "steps": 100,
        "recipe": {"training.orpo_lambda": "0.1"},
        "eval_scored": 150,
        "figures": (
            CardFigure(
                name="pair accuracy",
                base="60.0% [52.0%, 68.0%]",
                candidate="70.0% [62.0%, 77.0%]",
                difference="10.0% [3.0%, 17.0%]",
            ),
        ),
        "smallest_difference": 0.07,
        "run_id": "r" * 32,
    }
    return ModelCard.model_validate({**values, **changes})


def front_matter(text: str) -> dict[str, Any]:
    _, block, _ = text.split("---\n", 2)
    parsed: dict[str, Any] = yaml.safe_load(block)
    return parsed


def test_front_matter_is_what_hubs_read() -> None:
    assert front_matter(render_card(card())) == {
        "base_model": "owner/Qwen2-1B",
        "base_model_relation": "adapter",
        "library_name": "peft",
        "pipeline_tag": "text-generation",
        "license": "apache-2.0",
        "datasets": ["owner/pairs"],
        "tags": ["orpo", "preference", "lora"],
    }


def test_merged_weights_are_another_kind_of_model() -> None:
    drift = Drift(pairs=64, tokens=3000, mean_kl=0.0049, verdict_flips=0.0, pairs_from="its own")
    text = render_card(card(), "merged", drift)
    fields = front_matter(text)
    assert fields["library_name"] == "transformers"
    assert fields["base_model_relation"] == "finetune"
    assert "0.0049 nats per answer token" in text and "dequantised NF4 weights" in text


def test_a_local_base_and_unknown_licences_are_said() -> None:
    text = render_card(card(base_is_local=True, base_licence=None, data_hub_id=None))
    fields = front_matter(text)
    assert fields["base_model"] == "Qwen2-1B" and "datasets" not in fields
    assert fields["license"] == "other"
    assert "revision is their SHA-256" in text and "licence not recorded" in text


def test_numbers_stand_with_their_intervals() -> None:
    text = render_card(card(alarms=("Chosen answers became less likely.",)))
    row = next(line for line in text.splitlines() if line.startswith("| pair accuracy"))
    assert "70.0%" in row and "3.0%, 17.0%" in row
    assert "7.0 points in four of five cases" in text
    assert "- Chosen answers became less likely." in text
    assert "| pairs to train on | 1,000 |" in text


@pytest.mark.parametrize(
    "field", ["data_source", "base_name", "model_name", "base_licence", "data_licence"]
)
def test_hostile_text_stays_text(field: str) -> None:
    text = render_card(card(**{field: HOSTILE, "base_is_local": True}))
    body = text.split("---\n", 2)[2]
    assert "<script>" not in body.replace("\\<", "")
    assert "\x1b" not in text and "\n## d" not in body
    assert "](javascript" not in body.replace("\\]", "")
    fields = front_matter(text)
    if field == "base_name":
        assert fields["base_model"] == HOSTILE  # YAML quotes it


def test_a_cell_is_one_line_of_plain_text() -> None:
    assert cell("a|b\n*c*") == "a\\|b \\*c\\*"
    assert cell("x\x1b[0m") == "x\\[U+001B\\]\\[0m"


def test_steps_that_were_left_out_are_counted() -> None:
    assert "\n100 optimizer steps.\n" in render_card(card())
    said = "100 optimizer steps, 2 of them left out because loss or gradient was not finite."
    assert said in render_card(card(skipped_steps=2))
