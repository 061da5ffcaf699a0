"""One row of every dialect; all of them say the same, with what the dialect can carry."""

from typing import Any

from orpo_pipeline.data.dialects import find_dialect
from orpo_pipeline.data.reading.detection import unknown_row
from schemas.pairs import Defect, Origin, Pair

USER = {"role": "user", "content": "Why is the sky blue?"}
GOOD = {"role": "assistant", "content": "Air scatters blue light most."}
BAD = {"role": "assistant", "content": "It mirrors the sea."}
SYSTEM = {"role": "system", "content": "Answer shortly."}

ASKED, SAID, WRONG = USER["content"], GOOD["content"], BAD["content"]
TURNS = f"\n\nHuman: {ASKED}\n\nAssistant:"

EXAMPLES: dict[str, dict[str, Any]] = {
    "trl_explicit": {"prompt": [USER], "chosen": [GOOD], "rejected": [BAD]},
    "trl_implicit": {"chosen": [USER, GOOD], "rejected": [USER, BAD]},
    "ultrafeedback": {
        "prompt": ASKED,
        "prompt_id": "0f",
        "chosen": [USER, GOOD],
        "rejected": [USER, BAD],
        "messages": [USER, GOOD],
        "score_chosen": 8.5,
        "score_rejected": 3.0,
    },
    "hh_rlhf": {"chosen": f"{TURNS} {SAID}", "rejected": f"{TURNS} {WRONG}"},
    "openai_preference": {
        "input": {"messages": [USER], "tools": [], "parallel_tool_calls": True},
        "preferred_output": [GOOD],
        "non_preferred_output": [BAD],
    },
    "llama_factory_alpaca": {
        "instruction": ASKED,
        "input": "",
        "chosen": SAID,
        "rejected": WRONG,
    },
    "llama_factory_sharegpt": {
        "conversations": [{"from": "human", "value": ASKED}],
        "chosen": {"from": "gpt", "value": SAID},
        "rejected": {"from": "gpt", "value": WRONG},
    },
    "chatml.argilla": {"instruction": ASKED, "chosen_response": SAID, "rejected_response": WRONG},
    "chatml.icr": {"system": "", "input": ASKED, "chosen": SAID, "rejected": WRONG},
    "chatml.intel": {"system": "", "question": ASKED, "chosen": SAID, "rejected": WRONG},
    "chatml.ultra": {"prompt": ASKED, "chosen": [USER, GOOD], "rejected": [USER, BAD]},
    "zephyr.nectar": {
        "prompt": f"{TURNS} ",
        "answers": [
            {"answer": "Because.", "model": "b", "rank": 2.0},
            {"answer": WRONG, "model": "c", "rank": 3.0},
            {"answer": SAID, "model": "a", "rank": 1.0},
        ],
        "turns": 1,
        "num_responses": 3,
    },
    "shp": {
        "post_id": "x1",
        "domain": "explainlikeimfive_train",
        "history": ASKED,
        "human_ref_A": WRONG,
        "human_ref_B": SAID,
        "labels": 0,
        "score_A": 3,
        "score_B": 21,
    },
    "helpsteer2_preference": {
        "split": "train",
        "prompt": ASKED,
        "response_1": SAID,
        "response_2": WRONG,
        "preference_strength": -2,
    },
    "argilla_export": {
        "id": "1",
        "fields": {"prompt": ASKED, "response_1": WRONG, "response_2": SAID},
        "metadata": {},
        "suggestions": {},
        "responses": {
            "preference": [{"value": ["response_2", "response_1"], "user_id": "u"}],
        },
        "status": "completed",
    },
}


def parse_pair(row: dict[str, Any], origin: Origin) -> Pair | Defect:
    """The row read as a file is that holds nothing else."""
    dialect = find_dialect(row)
    return dialect.parse(row, origin) if dialect else unknown_row(row, str)
