"""The registered model's code (MLflow models-from-code): base model + adapter, chat in, answer out.

It travels with every version and runs where this project is not installed, so it imports nothing of
it. The base model is found by the folder or hub id stored with the version; `ORPO_BASE_MODEL`
names another copy of the same weights.
"""

import json
import os
import threading
import time
import uuid
from pathlib import Path
from typing import Any, NoReturn

import mlflow
import torch
from mlflow.exceptions import MlflowException
from mlflow.pyfunc import PythonModel

ROLES = ("system", "user", "assistant")


class ChatModel(PythonModel):
    """One answer for each row of `messages` (a list of role and content): see `predict`."""

    def load_context(self, context: Any) -> None:
        from peft import PeftModel
        from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

        adapter = context.artifacts["adapter"]
        settings = json.loads((Path(adapter) / "serving.json").read_text(encoding="utf-8"))
        self.stop_token_ids = settings["stop_token_ids"]
        dtype = getattr(torch, settings["dtype"])
        quantization = None
        if settings["quantization"] == "nf4":
            quantization = BitsAndBytesConfig(
                load_in_4bit=True,
                bnb_4bit_quant_type="nf4",
                bnb_4bit_use_double_quant=True,
                bnb_4bit_compute_dtype=dtype,
            )
        base = os.environ.get("ORPO_BASE_MODEL") or settings["base_model"]
        if not Path(base).exists() and settings["base_is_local"]:
            raise FileNotFoundError(
                f"The base model {settings['base_name']} (revision {settings['base_revision']}) is "
                f"not at {base}. Set ORPO_BASE_MODEL to a folder with these weights."
            )
        revision = None if Path(base).exists() else settings["base_revision"]
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self.tokenizer = AutoTokenizer.from_pretrained(adapter)
        base_model = AutoModelForCausalLM.from_pretrained(
            base,
            revision=revision,
            dtype=dtype,
            quantization_config=quantization,
            device_map={"": device},
            use_safetensors=True,
        )
        # On CPUs with AVX-512 bf16 bitsandbytes rounds NF4's scales once more outside of training:
        # the log-probs would not be those that were evaluated.
        for module in base_model.modules():
            if hasattr(module, "support_avx512bf16_for_cpu"):
                module.support_avx512bf16_for_cpu = False
        self.model = PeftModel.from_pretrained(base_model, adapter).eval()
        # The draws of a sampled answer come from torch's one generator, and a server has threads.
        self.one_at_a_time = threading.Lock()

    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
        """The answers' texts, or OpenAI chat completions when the parameter `model` is given.

        One conversation with `model` gives one completion, so a request in OpenAI's chat format is
        answered in it.
        """
        # Without annotations: with them MLflow drops the signature's params.
        params = {name: value for name, value in (params or {}).items() if value is not None}
        answers = [self.answer(_checked(messages), params) for messages in model_input["messages"]]
        if not params.get("model"):
            return [answer["content"] for answer in answers]
        completions = [_completion(answer, params["model"]) for answer in answers]
        return completions[0] if len(completions) == 1 else completions

    def answer(self, messages: list[dict[str, str]], params: dict[str, Any]) -> dict[str, Any]:
        """One answer: `content`, `finish_reason` (stop or length), `prompt_tokens`, `tokens`."""
        limit = int(params.get("max_tokens") or params.get("max_new_tokens") or 256)
        temperature = float(params.get("temperature") or 0.0)
        top_p = float(params.get("top_p", 1.0))
        if limit < 1 or temperature < 0 or not 0 < top_p <= 1:
            _refuse("max_new_tokens has to be at least 1, temperature 0 or more, top_p in (0, 1].")
        inputs = self.render(messages)
        sampling: dict[str, Any] = {"do_sample": False}
        if temperature:
            sampling = {"do_sample": True, "temperature": temperature, "top_p": top_p, "top_k": 0}
        with self.one_at_a_time, torch.inference_mode():
            torch.manual_seed(int(params.get("seed", 0)))
            output = self.model.generate(
                **inputs,
                **sampling,
                max_new_tokens=limit,
                pad_token_id=self.tokenizer.pad_token_id,
                eos_token_id=self.stop_token_ids,
            )
        prompt_tokens = inputs["input_ids"].shape[1]
        ids = output[0, prompt_tokens:].tolist()
        return {
            "content": str(self.tokenizer.decode(ids, skip_special_tokens=True)).strip(),
            "finish_reason": "stop" if ids and ids[-1] in self.stop_token_ids else "length",
            "prompt_tokens": prompt_tokens,
            "tokens": len(ids),
        }

    def render(self, messages: list[dict[str, str]]) -> Any:
        """Token ids of the conversation, shaped (1, T); control tokens in its texts stay text."""
        from jinja2 import TemplateError

        try:
            return self.tokenizer.apply_chat_template(
                messages,
                add_generation_prompt=True,
                return_tensors="pt",
                return_dict=True,
                sanitize_control_tokens=True,
            ).to(self.model.device)
        except (TemplateError, ValueError) as error:
            _refuse(f"The chat template does not take this conversation: {error}")


def _checked(messages: Any) -> list[dict[str, str]]:
    """The conversation as plain role and content; 400 with the reason when it is none."""
    turns = [{"role": m["role"], "content": m["content"]} for m in messages]
    if not turns:
        _refuse("`messages` is empty; it takes at least one user message.")
    unknown = sorted({str(turn["role"]) for turn in turns} - set(ROLES))
    if unknown:
        _refuse(f"Unknown roles {', '.join(unknown)}; there are {', '.join(ROLES)}.")
    if turns[-1]["role"] != "user":
        _refuse(f"The last message is the {turns[-1]['role']}'s; it has to be the user's.")
    return turns


def _refuse(reason: str) -> NoReturn:
    raise MlflowException.invalid_parameter_value(reason)


def _completion(answer: dict[str, Any], model: str) -> dict[str, Any]:
    """An answer as OpenAI's chat.completion object."""
    prompt_tokens, tokens = answer["prompt_tokens"], answer["tokens"]
    return {
        "id": f"chatcmpl-{uuid.uuid4().hex}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": model,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": answer["content"]},
                "finish_reason": answer["finish_reason"],
            }
        ],
        "usage": {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": tokens,
            "total_tokens": prompt_tokens + tokens,
        },
    }


mlflow.models.set_model(ChatModel())
