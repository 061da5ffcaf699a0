"""Control tokens in what people wrote: found, and made plain text."""

import re
from collections.abc import Callable

from orpo_pipeline.data.tokens.chat_template import (
    ChatFormat,
    as_dicts,
    render_each,
    template_refusals,
)
from schemas.errors import UserError
from schemas.pairs import Conversation, Defect, DefectCode, Message


class ControlTokens:
    """Finds control tokens in what people wrote, and makes plain text of them."""

    def __init__(self, chat: ChatFormat) -> None:
        self._tokenizer = chat.tokenizer
        self._ids = frozenset(chat.tokenizer.convert_tokens_to_ids(list(chat.control_tokens)))
        # Longest first, so that a token that begins like another is found as itself.
        ordered = sorted(chat.control_tokens, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, ordered)) or r"(?!)")
        self._first_characters = {token[0] for token in ordered}
        self._normalise = _normaliser(chat)

    def found_in(self, conversation: Conversation) -> str | None:
        """The first control token in a message, as the tokenizer would see it; None: there is none.

        Looks at raw text, and at the normalised one when tokens are searched there, too: a
        full-width bracket, say, may become a plain one.
        """
        for message in conversation:
            texts = [message.content]
            if self._normalise is not None:
                texts.append(self._normalise(message.content))
            for text in texts:
                if any(character in text for character in self._first_characters):
                    found = self._pattern.search(text)
                    if found:
                        return found.group()
        return None

    def neutralised_ids(
        self, conversation: Conversation, add_generation_prompt: bool
    ) -> list[int] | Defect:
        """Token ids in which control tokens of the conversation's own text are plain text.

        Or the defect that the template refuses, or that a control token comes back all the same.
        """
        harmless = tuple(Message(m.role, "x") if self.found_in((m,)) else m for m in conversation)
        texts = render_each(self._tokenizer, (conversation, harmless), add_generation_prompt)
        for text in texts:
            if isinstance(text, Defect):
                return text
        try:
            with template_refusals():
                ids: list[int] = self._tokenizer.apply_chat_template(
                    as_dicts(conversation),
                    tokenize=True,
                    return_dict=False,
                    add_generation_prompt=add_generation_prompt,
                    sanitize_control_tokens=True,
                )
        except UserError as error:
            return self._not_neutralised(conversation, str(error.__cause__))
        written = self._tokenizer(texts[1], add_special_tokens=False)["input_ids"]
        if self._count(ids) != self._count(written):
            return self._not_neutralised(conversation, "tokenizer or template bring it back")
        return ids

    def _not_neutralised(self, conversation: Conversation, reason: str) -> Defect:
        token = self.found_in(conversation)
        return Defect(DefectCode.CONTROL_TOKEN, f"{token} cannot be neutralised: {reason}")

    def _count(self, ids: list[int]) -> int:
        return sum(token in self._ids for token in ids)


def _normaliser(chat: ChatFormat) -> Callable[[str], str] | None:
    """The tokenizer's normaliser, when control tokens are searched behind it."""
    normaliser = getattr(getattr(chat.tokenizer, "backend_tokenizer", None), "normalizer", None)
    if normaliser is None:
        return None
    added = chat.tokenizer.added_tokens_decoder.values()
    late = any(token.normalized and str(token) in chat.control_tokens for token in added)
    return normaliser.normalize_str if late else None
