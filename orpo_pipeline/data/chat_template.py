"""Chat template and token ids: the run's own tokenizer decides what a pair looks like."""

import importlib.resources
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orpo_pipeline.base_model import TOKENIZER_FILES, tokenizer_identity
from orpo_pipeline.stages import fingerprint
from schemas.errors import UserError
from schemas.pairs import Conversation, Defect, DefectCode, Pair

NAMED_TEMPLATES = ("chatml", "llama3", "mistral", "zephyr")


@dataclass(frozen=True, slots=True)
class TokenizedPair:
    """Token ids of one pair. prompt + chosen and prompt + rejected are what the model reads."""

    prompt: list[int]
    chosen: list[int]
    rejected: list[int]

    @property
    def longest(self) -> int:
        return len(self.prompt) + max(len(self.chosen), len(self.rejected))


@dataclass(frozen=True)
class ChatFormat:
    """A tokenizer with its chat template, and the token that ends an assistant turn."""

    tokenizer: Any
    end_of_turn: int


def template_text(name: str | None) -> str | None:
    """Jinja source of a named template or a template file; None for the tokenizer's own.

    Raises UserError when it is neither.
    """
    if name is None:
        return None
    if name in NAMED_TEMPLATES:
        packaged = importlib.resources.files("orpo_pipeline.data") / "templates" / f"{name}.jinja"
        return packaged.read_text(encoding="utf-8").strip()
    path = Path(name).expanduser()
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        raise UserError(
            f"The chat template {name!r} cannot be read: {error}.",
            f"one of {', '.join(NAMED_TEMPLATES)}, or a Jinja file.",
            "Correct chat.template.",
        ) from error


def format_identity(model_folder: Path, template: str | None) -> str:
    """Hash of everything that decides how a conversation becomes token ids."""
    return fingerprint(
        {"tokenizer": tokenizer_identity(model_folder), "template": template_text(template)}
    )


def load_chat_format(model_folder: Path, template: str | None) -> ChatFormat:
    """The tokenizer with the configured template.

    Raises UserError when there is no tokenizer or no template, or one that does not suit the other.
    """
    tokenizer = _load_tokenizer(model_folder)
    text = template_text(template)
    if text is not None:
        tokenizer.chat_template = text
    if not tokenizer.chat_template:
        raise UserError(
            f"The tokenizer in {model_folder} has no chat template.",
            "a template that turns a conversation into the text that the model is trained on.",
            f"Set chat.template to {', '.join(NAMED_TEMPLATES)} or a Jinja file; zephyr and "
            "mistral use only tokens that most base models have.",
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.unk_token or tokenizer.eos_token
    return ChatFormat(tokenizer, _end_of_turn(tokenizer))


def _load_tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"The model folder {folder} has no usable tokenizer: {error}",
            "a tokenizer that transformers can load without running code of the model's.",
            f"Put the model's tokenizer files there ({', '.join(TOKENIZER_FILES)}).",
        ) from error


def _end_of_turn(tokenizer: Any) -> int:
    """The special token that the template puts behind an assistant's answer.

    Raises UserError when there is none: such a model would never learn to stop.
    """
    question = [{"role": "user", "content": "a"}]
    answer = [{"role": "assistant", "content": "b"}]
    prompt = _render(tokenizer, [question], add_generation_prompt=True)[0]
    whole = _render(tokenizer, [question + answer])[0]
    special = set(tokenizer.all_special_ids)
    if prompt and whole.startswith(prompt):
        ids = tokenizer(whole[len(prompt) :], add_special_tokens=False)["input_ids"]
        for token in ids:
            if token in special:
                return int(token)
    raise UserError(
        f"The chat template ends an answer with {whole[len(prompt) :]!r}, which holds no special "
        "token of this tokenizer.",
        "a template whose assistant turn starts where the generation prompt ends and closes with "
        "one of the tokenizer's special tokens.",
        "Set chat.template to zephyr or mistral, which close a turn with the tokenizer's eos.",
    )


def tokenize_pairs(
    pairs: Sequence[Pair], chat: ChatFormat, max_length: int
) -> list[TokenizedPair | Defect]:
    """Token ids for each pair, or the defect that the run's tokenizer and length bring out.

    The prompt's ids must be a prefix of both sides' ids, each answer must hold the end-of-turn
    token (it is the last one kept), and neither side may exceed `max_length` tokens.
    """
    tokenizer = chat.tokenizer
    prompts = _encode(tokenizer, [pair.prompt for pair in pairs], add_generation_prompt=True)
    chosen = _encode(tokenizer, [pair.prompt + pair.chosen for pair in pairs])
    rejected = _encode(tokenizer, [pair.prompt + pair.rejected for pair in pairs])
    controls = _control_tokens(tokenizer)
    return [
        _control_token(pair, controls) or _join(p, c, r, chat.end_of_turn, max_length)
        for pair, p, c, r in zip(pairs, prompts, chosen, rejected, strict=True)
    ]


def _render(tokenizer: Any, conversations: list[list[dict[str, str]]], **options: Any) -> list[str]:
    from jinja2 import TemplateError

    try:
        texts = tokenizer.apply_chat_template(conversations, tokenize=False, **options)
    except (TemplateError, TypeError, ValueError, LookupError, ArithmeticError) as error:
        raise UserError(
            f"The chat template failed on a conversation: {error}.",
            "a template that accepts system (optional), user and assistant turns.",
            "Set chat.template to another template, or remove the turns that it refuses.",
        ) from error
    return list(texts)


def _encode(
    tokenizer: Any, conversations: list[Conversation], add_generation_prompt: bool = False
) -> list[list[int]]:
    plain = [[{"role": m.role, "content": m.content} for m in turns] for turns in conversations]
    texts = _render(tokenizer, plain, add_generation_prompt=add_generation_prompt)
    # The template writes the special tokens, so the tokenizer must not add its own.
    ids: list[list[int]] = tokenizer(texts, add_special_tokens=False)["input_ids"]
    return ids


def _control_tokens(tokenizer: Any) -> tuple[str, ...]:
    """The strings that the tokenizer turns into a control token wherever they stand."""
    added = tokenizer.added_tokens_decoder.values()
    return tuple(sorted(str(token) for token in added if token.special))


def _control_token(pair: Pair, controls: tuple[str, ...]) -> Defect | None:
    for message in (*pair.prompt, *pair.chosen, *pair.rejected):
        for token in controls:
            if token in message.content:
                return Defect(
                    DefectCode.CONTROL_TOKEN, f"a message contains the control token {token}"
                )
    return None


def _join(
    prompt: list[int], chosen: list[int], rejected: list[int], end: int, max_length: int
) -> TokenizedPair | Defect:
    answers = []
    for side, ids in (("chosen", chosen), ("rejected", rejected)):
        if ids[: len(prompt)] != prompt:
            return Defect(
                DefectCode.PROMPT_NOT_PREFIX,
                f"prompt + {side} does not begin with the prompt's tokens",
            )
        answer = ids[len(prompt) :]
        if end not in answer:
            return Defect(DefectCode.UNFINISHED_TURN, f"{side} has no end-of-turn token")
        # What the template writes behind the turn (a line end, say) is not the model's to learn.
        last = len(answer) - answer[::-1].index(end)
        answers.append(answer[:last])
    if answers[0] == answers[1]:
        return Defect(DefectCode.IDENTICAL_ANSWERS, "chosen and rejected have the same tokens")
    pair = TokenizedPair(prompt, answers[0], answers[1])
    if pair.longest > max_length:
        return Defect(
            DefectCode.TOO_LONG, f"{pair.longest:,} tokens; chat.max_length is {max_length:,}"
        )
    return pair
