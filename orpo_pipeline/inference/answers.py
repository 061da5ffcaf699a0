"""Answers, token by token as they are made."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from schemas.errors import UserError
from schemas.serving import Sampling

Turns = list[dict[str, str]]


@dataclass
class Conversation:
    """The turns so far with one model."""

    system: str | None = None
    turns: Turns = field(default_factory=list)

    def messages(self, question: str) -> Turns:
        """All that the model is to see, `question` last."""
        first = [{"role": "system", "content": self.system}] if self.system else []
        return [*first, *self.turns, {"role": "user", "content": question}]

    def add(self, question: str, answer: str) -> None:
        self.turns += [
            {"role": "user", "content": question},
            {"role": "assistant", "content": answer},
        ]


@dataclass(frozen=True)
class Voice:
    """A model that answers, with the tokenizer and the ends of turn of its version."""

    model: Any
    tokenizer: Any
    stop_token_ids: tuple[int, ...]


def stream_answer(
    voice: Voice, messages: Turns, sampling: Sampling, on_text: Callable[[str], None]
) -> str:
    """The answer to the last message; `on_text` gets its pieces as they come.

    KeyboardInterrupt ends the answer, and what has been said stands. Raises UserError when the
    template does not take the conversation, or it leaves no room for an answer.
    """
    import torch
    from transformers import TextStreamer

    pieces: list[str] = []

    class Streamer(TextStreamer):
        def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
            if text:
                pieces.append(text)
                on_text(text)

    inputs = _render(voice, messages)
    room = _room(voice.model, inputs["input_ids"].shape[1])
    drawn: dict[str, Any] = {"do_sample": False}
    if sampling.temperature:
        drawn = {
            "do_sample": True,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": 0,
        }
    torch.manual_seed(sampling.seed)
    try:
        with torch.inference_mode():
            voice.model.generate(
                **inputs,
                **drawn,
                max_new_tokens=min(sampling.max_new_tokens, room),
                pad_token_id=voice.tokenizer.pad_token_id,
                eos_token_id=list(voice.stop_token_ids),
                streamer=Streamer(voice.tokenizer, skip_prompt=True, skip_special_tokens=True),
            )
    except KeyboardInterrupt:
        on_text(" [stopped]")
    return "".join(pieces).strip()


def _render(voice: Voice, messages: Turns) -> Any:
    """Token ids (1, T); control tokens that stand in the texts stay text, as in training."""
    from jinja2 import TemplateError

    try:
        return voice.tokenizer.apply_chat_template(
            messages,
            add_generation_prompt=True,
            return_tensors="pt",
            return_dict=True,
            sanitize_control_tokens=True,
        ).to(voice.model.device)
    except (TemplateError, ValueError) as error:
        raise UserError(
            f"The chat template does not take this conversation: {error}.",
            "turns that the version's template knows.",
            "Leave out the system message, or /reset.",
        ) from error


def _room(model: Any, prompt_tokens: int) -> int:
    """Tokens that an answer may have."""
    longest = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if longest is None:
        return 1 << 20
    if prompt_tokens >= longest:
        raise UserError(
            f"The conversation has {prompt_tokens:,} tokens.",
            f"fewer than the {longest:,} that the model takes.",
            "Begin anew: /reset.",
        )
    return int(longest) - prompt_tokens
