"""The chat format: the run's own tokenizer and template decide what a conversation looks like."""

import importlib.resources
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orpo_pipeline.base_model import TOKENIZER_FILES, tokenizer_identity
from orpo_pipeline.data.tokens.rendering_limits import BYTES, rendering_limits
from orpo_pipeline.stages import fingerprint
from schemas.errors import UserError
from schemas.pairs import Conversation, Defect, DefectCode, Message

FIXED_DATE = "{%- macro strftime_now(format) -%}26 Jul 2024{%- endmacro -%}"
"""The date that Llama 3.2's own template falls back to."""
PLAIN_CLASSES = ("PreTrainedTokenizerFast", "TokenizersBackend")  # one class by two names
NAMED_TEMPLATES = ("chatml", "llama3", "mistral", "zephyr")
LONGEST_SAID = 300  # characters of a template's own words: it may repeat a whole message
BYTES_PER_CHARACTER = 64  # that rendering may take: copies of a text at four bytes a character


@dataclass(frozen=True)
class ChatFormat:
    """A tokenizer with its chat template, and the token that ends an assistant turn."""

    tokenizer: Any
    end_of_turn: int
    control_tokens: tuple[str, ...]
    """Strings that the tokenizer turns into a control token wherever they stand."""


def template_text(name: str | None) -> str | None:
    """Jinja source of a named template or a template file; None for the tokenizer's own.

    Raises UserError when it is neither.
    """
    if name is None:
        return None
    if name in NAMED_TEMPLATES:
        packaged = (
            importlib.resources.files("orpo_pipeline.data.tokens") / "templates" / f"{name}.jinja"
        )
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
    tokenizer.chat_template = _without_clock(_default_template(tokenizer.chat_template))
    if not tokenizer.chat_template:
        raise UserError(
            f"The tokenizer in {model_folder} has no chat template.",
            "a template that turns a conversation into the text that the model is trained on.",
            f"Set chat.template to {', '.join(NAMED_TEMPLATES)} or a Jinja file; zephyr and "
            "mistral use only tokens that most base models have.",
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.unk_token or tokenizer.eos_token
    return ChatFormat(tokenizer, _end_of_turn(tokenizer), _control_tokens(tokenizer))


def _tokenizer_class(folder: Path) -> Any:
    """The class that AutoTokenizer would take; where that is the plain one, without asking it.

    AutoTokenizer imports torch: seconds and 200 MiB in each process that only tokenises.
    """
    file = folder / "tokenizer_config.json"
    settings = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    if settings.get("tokenizer_class") in PLAIN_CLASSES and (folder / "tokenizer.json").is_file():
        from transformers import PreTrainedTokenizerFast

        return PreTrainedTokenizerFast
    from transformers import AutoTokenizer

    return AutoTokenizer


def _load_tokenizer(folder: Path) -> Any:
    try:
        tokenizer = _tokenizer_class(folder).from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"The model folder {folder} has no usable tokenizer: {error}",
            "a tokenizer that transformers can load without running code of the model's.",
            f"Put the model's tokenizer files there ({', '.join(TOKENIZER_FILES)}).",
        ) from error
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        # What encoding sets anyway; so a tokenizer that has encoded is saved as one that has not.
        backend.no_truncation()
        backend.no_padding()
    return tokenizer


def _without_clock(template: str | None) -> str | None:
    """The template with a fixed date where it asks for today's, as those of Llama 3.1 do.

    Otherwise the same row would have other tokens tomorrow.
    """
    if template is None or "strftime_now" not in template or template.startswith(FIXED_DATE):
        return template
    return FIXED_DATE + template


def _default_template(template: Any) -> str | None:
    """A tokenizer may bring several templates by name (for tools, say)."""
    return template.get("default") if isinstance(template, dict) else template


def _end_of_turn(tokenizer: Any) -> int:
    """The special token that the template puts behind an assistant's answer.

    Raises UserError when there is none: such a model would never learn to stop.
    """
    question, answer = Message("user", "Why?"), Message("assistant", "Because.")
    with rendering_limits():
        prompt = render(tokenizer, [(question,)], add_generation_prompt=True)[0]
        whole = render(tokenizer, [(question, answer)], add_generation_prompt=False)[0]
    special = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id} | {tokenizer.eos_token_id}
    if prompt and whole.startswith(prompt):
        # Some templates write special tokens before the answer as well (a channel's name).
        behind = whole[len(prompt) :].rpartition(answer.content)[2]
        for token in tokenizer(behind, add_special_tokens=False)["input_ids"]:
            if token in special:
                return int(token)
    raise UserError(
        f"The chat template ends an answer with {whole[len(prompt) :]!r}, which holds no special "
        "token of this tokenizer.",
        "a template whose assistant turn starts where the generation prompt ends and closes with "
        "one of the tokenizer's special tokens.",
        "Set chat.template to zephyr or mistral, which close a turn with the tokenizer's eos.",
    )


def render(
    tokenizer: Any, conversations: Sequence[Conversation], add_generation_prompt: bool
) -> list[str]:
    """The conversations' texts. transformers renders them in Jinja's immutable sandbox.

    Raises UserError when the template refuses one of them.
    """
    if not conversations:
        return []
    with template_refusals():
        texts = tokenizer.apply_chat_template(
            [as_dicts(turns) for turns in conversations],
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
        )
    return list(texts)


def render_each(
    tokenizer: Any, conversations: Sequence[Conversation], add_generation_prompt: bool
) -> list[str] | list[str | Defect]:
    """Each conversation's text, or the defect that the template does not take it.

    Raises UserError when the template takes more time or memory than a template may: what is
    harmless for two short turns may be a trap for others.
    """
    size = sum(len(message.content) for turns in conversations for message in turns)
    with rendering_limits(spare=BYTES + BYTES_PER_CHARACTER * size):
        try:
            return render(tokenizer, conversations, add_generation_prompt)
        except UserError:
            return [_render_or_defect(tokenizer, c, add_generation_prompt) for c in conversations]


def _render_or_defect(
    tokenizer: Any, conversation: Conversation, add_generation_prompt: bool
) -> str | Defect:
    try:
        return render(tokenizer, [conversation], add_generation_prompt)[0]
    except UserError as error:
        return Defect(DefectCode.UNSUPPORTED_CONTENT, error.found)


def as_dicts(conversation: Conversation) -> list[dict[str, str]]:
    """Turns as templates take them."""
    return [{"role": m.role, "content": m.content} for m in conversation]


@contextmanager
def template_refusals() -> Iterator[None]:
    """UserError for whatever a template's code raises, but for the want of memory."""
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:
        said = str(error) or type(error).__name__
        raise UserError(
            f"The chat template failed on a conversation: {said[:LONGEST_SAID]}.",
            "a template that accepts system (optional), user and assistant turns.",
            "Set chat.template to another template, or remove the turns that it refuses.",
        ) from error


def _control_tokens(tokenizer: Any) -> tuple[str, ...]:
    """Special tokens, and others of the tokenizer's added ones that the template writes."""
    added = tokenizer.added_tokens_decoder.values()
    template = tokenizer.chat_template
    return tuple(
        sorted(str(t) for t in added if t.special or (str(t).strip() and str(t) in template))
    )
