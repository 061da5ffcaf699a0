"""The registered model's code (MLflow models-from-code): base model + adapter, chat in, text out.

It travels with every version and runs where this project is not installed, so it imports nothing of
it. The base model is found by the folder or hub id stored with the version; `ORPO_BASE_MODEL`
names another copy of the same weights.
"""

import json
import os
from pathlib import Path
from typing import Any

import mlflow
import torch
from mlflow.pyfunc import PythonModel


class ChatModel(PythonModel):
    """One chat completion for each row of `messages` (a list of role and content)."""

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
            attn_implementation="sdpa",
            device_map={"": device},
            use_safetensors=True,
        )
        self.model = PeftModel.from_pretrained(base_model, adapter).eval()

    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
        # Without annotations: with them MLflow drops the signature's params.
        params = params or {}
        limit = int(params.get("max_new_tokens", 256))
        return [self.answer(list(messages), limit) for messages in model_input["messages"]]

    def answer(self, messages: list[dict[str, str]], max_new_tokens: int) -> str:
        """The greedy answer to one conversation."""
        inputs = self.tokenizer.apply_chat_template(
            [{"role": m["role"], "content": m["content"]} for m in messages],
            add_generation_prompt=True,
            return_tensors="pt",
            return_dict=True,
        ).to(self.model.device)
        with torch.inference_mode():
            output = self.model.generate(
                **inputs,
                max_new_tokens=max_new_tokens,
                do_sample=False,
                pad_token_id=self.tokenizer.pad_token_id,
                eos_token_id=self.stop_token_ids,
            )
        answer = output[0, inputs["input_ids"].shape[1] :]
        return str(self.tokenizer.decode(answer, skip_special_tokens=True)).strip()


mlflow.models.set_model(ChatModel())
