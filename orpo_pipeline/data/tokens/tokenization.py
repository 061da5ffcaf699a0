"""Token ids of pairs: the prompt once, each answer once, and nothing that would be trained wrongly.

The ids of prompt + answer are those of the rendered text as a whole. They are put together from
parts, cut behind a control token: a tokenizer splits its input at control tokens before anything
else, so the parts' ids are the whole's. Whether a tokenizer really does so is tried, not assumed.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from orpo_pipeline.data.tokens.chat_template import ChatFormat
from orpo_pipeline.data.tokens.control_tokens import ControlTokens
from orpo_pipeline.data.tokens.template_shapes import TemplateShapes
from orpo_pipeline.data.tokens.truncation import fit_pair
from orpo_pipeline.data.tokens.word_table import EncodeTexts, WordTable
from schemas.config import ChatConfig
from schemas.pairs import Conversation, Defect, DefectCode, Pair
from schemas.tokens import TokenizedPair

# Texts that stand behind a control token, chosen to show prefix spaces and merged line ends.
PROBES = ("a", " a", "\n\na", "assistant\n b", "é", "  ", "1")
CHECKED_ROWS = 2  # of each batch, against the whole text's ids
LONGEST_HEADER = 200  # characters; what is longer holds a row's own text and never comes back


@dataclass(slots=True)
class Tokenized:
    """What became of one pair. Without a defect there are tokens."""

    tokens: TokenizedPair | None = None
    defect: Defect | None = None
    notes: list[Defect] = field(default_factory=list)


@dataclass(slots=True)
class _Rendered:
    """A pair's texts. Each answer's begins with the prompt's, which may be cut at `cut`."""

    result: Tokenized
    prompt: str
    chosen: str
    rejected: str
    cut: int

    @property
    def header(self) -> str:
        """What stands between the prompt's last control token and the answer."""
        return self.prompt[self.cut :]


class PairTokenizer:
    """Pairs to token ids, in batches, under one chat format and one length policy."""

    def __init__(self, chat: ChatFormat, settings: ChatConfig) -> None:
        self._chat = chat
        self._settings = settings
        self._encode_whole = _batch_encoder(chat.tokenizer)
        self._encode = _table_encoder(chat.tokenizer, self._encode_whole)
        self._shapes = TemplateShapes(chat.tokenizer)
        self._control = ControlTokens(chat)
        self._cuts_exactly: dict[str, bool] = {}
        self._endings: dict[str, int] = {}
        self._headers: dict[str, list[int]] = {}

    def tokenize(self, pairs: Sequence[Pair]) -> list[Tokenized]:
        """Token ids for each pair, or the defect that tokenizer, template and length bring out.

        Raises UserError when the template takes more time or memory than a template may.
        """
        results = [Tokenized() for _ in pairs]
        plain: list[tuple[Pair, Tokenized]] = []
        for pair, result in zip(pairs, results, strict=True):
            token = self._control.found_in((*pair.prompt, *pair.chosen, *pair.rejected))
            if token is None:
                plain.append((pair, result))
            else:
                self._tokenize_with_control_token(pair, token, result)
        self._tokenize_plain(self._render_batch(plain))
        for pair, result in zip(pairs, results, strict=True):
            if result.tokens is not None:
                self._check_and_fit(pair, result)
        return results

    def _tokenize_with_control_token(self, pair: Pair, token: str, result: Tokenized) -> None:
        if self._settings.control_tokens == "quarantine":
            result.defect = Defect(
                DefectCode.CONTROL_TOKEN, f"a message contains the control token {token}"
            )
            return
        prompt = self._control.neutralised_ids(pair.prompt, True)
        chosen = self._control.neutralised_ids(pair.prompt + pair.chosen, False)
        rejected = self._control.neutralised_ids(pair.prompt + pair.rejected, False)
        if isinstance(prompt, Defect) or isinstance(chosen, Defect) or isinstance(rejected, Defect):
            result.defect = next(i for i in (prompt, chosen, rejected) if isinstance(i, Defect))
            return
        result.notes.append(
            Defect(
                DefectCode.CONTROL_TOKEN_NEUTRALISED,
                f"the control token {token} in a message is tokenised as plain text",
            )
        )
        for side, ids in (("chosen", chosen), ("rejected", rejected)):
            if ids[: len(prompt)] != prompt:
                result.defect = _not_a_prefix(side)
                return
        result.tokens = TokenizedPair(prompt, chosen[len(prompt) :], rejected[len(prompt) :])

    def _render_batch(self, batch: list[tuple[Pair, Tokenized]]) -> list[_Rendered]:
        """The texts of those pairs that the template takes; the others' results get a defect."""
        columns = [
            self._shapes.render_each(conversations, generation)
            for conversations, generation in (
                ([pair.prompt for pair, _ in batch], True),
                ([pair.prompt + pair.chosen for pair, _ in batch], False),
                ([pair.prompt + pair.rejected for pair, _ in batch], False),
            )
        ]
        rendered = []
        for (_, result), prompt, chosen, rejected in zip(batch, *columns, strict=True):
            if isinstance(prompt, Defect):
                result.defect = prompt
            elif isinstance(chosen, Defect):
                result.defect = chosen
            elif isinstance(rejected, Defect):
                result.defect = rejected
            elif not chosen.startswith(prompt):
                result.defect = _not_a_prefix("chosen")
            elif not rejected.startswith(prompt):
                result.defect = _not_a_prefix("rejected")
            else:
                rendered.append(_Rendered(result, prompt, chosen, rejected, self._cut(prompt)))
        return rendered

    def _cut(self, prompt: str) -> int:
        """Where the prompt may be cut: behind its last control token; 0: nowhere."""
        for ending, behind in self._endings.items():
            if prompt.endswith(ending):
                return len(prompt) - behind
        last, token = 0, ""
        for candidate in self._chat.control_tokens:
            place = prompt.rfind(candidate)
            if place >= 0 and place + len(candidate) > last:
                last, token = place + len(candidate), candidate
        if not last or not self._may_cut_behind(token):
            return 0
        if len(prompt) - last < LONGEST_HEADER and len(self._endings) < 3:
            self._endings[token + prompt[last:]] = len(prompt) - last
        return last

    def _may_cut_behind(self, token: str) -> bool:
        """Whether a text's ids are those of its parts before and behind the end of `token`."""
        known = self._cuts_exactly.get(token)
        if known is None:
            alone, *behind = self._encode_whole([token, *PROBES])
            whole = self._encode_whole([token + probe for probe in PROBES])
            added = self._chat.tokenizer.added_tokens_encoder
            known = whole == [alone + ids for ids in behind] and not any(
                other.startswith(token) for other in added if other != token
            )
            self._cuts_exactly[token] = known
        return known

    def _tokenize_plain(self, rendered: list[_Rendered]) -> None:
        """Fill the results of pairs without control tokens in their text."""
        if not rendered:
            return
        texts: list[str] = []
        for row in rendered:
            texts += (row.prompt[: row.cut], row.chosen[row.cut :], row.rejected[row.cut :])
        new = list(dict.fromkeys(row.header for row in rendered if row.header not in self._headers))
        ids = self._encode(texts + new)
        found = dict(zip(new, ids[len(texts) :], strict=True))
        for number, row in enumerate(rendered):
            head, chosen, rejected = ids[3 * number : 3 * number + 3]
            header = found.get(row.header) or self._headers.get(row.header, [])
            if number < CHECKED_ROWS:
                self._check_parts(row, head + header, head + chosen)
            first = self._answer("chosen", row.chosen, chosen, header, row)
            second = self._answer("rejected", row.rejected, rejected, header, row)
            if row.result.defect is None:
                row.result.tokens = TokenizedPair(head + header, first, second)
        for text in new:
            if len(text) < LONGEST_HEADER and len(self._headers) < 1000:
                self._headers[text] = found[text]

    def _check_parts(self, row: _Rendered, parts: list[int], whole: list[int]) -> None:
        if self._encode_whole([row.prompt, row.chosen]) != [parts, whole]:
            raise AssertionError(
                "this tokenizer reads the parts of a text otherwise than the whole; "
                f"seen at the prompt {row.prompt[:80]!r}"
            )

    def _answer(
        self, side: str, text: str, part: list[int], header: list[int], row: _Rendered
    ) -> list[int]:
        """The answer's ids behind the prompt's."""
        if part[: len(header)] == header:
            return part[len(header) :]
        # "...assistant\n" and an answer that begins with a line end would become one token, which
        # no model can generate behind a finished prompt: so they are tokenised apart.
        answer = text[len(row.prompt) :]
        alone = self._behind_a_token(answer)
        decode = self._chat.tokenizer.decode
        plain = {"skip_special_tokens": False, "clean_up_tokenization_spaces": False}
        if decode(header + alone, **plain) != decode(header, **plain) + answer:
            row.result.defect = _not_a_prefix(side)
        else:
            row.result.notes.append(
                Defect(
                    DefectCode.BOUNDARY_KEPT,
                    f"{side} would have merged with the end of the prompt; tokenised apart",
                )
            )
        return alone

    def _behind_a_token(self, text: str) -> list[int]:
        """Ids of a text that does not begin its sequence, so that none gets a prefix space."""
        end = self._chat.end_of_turn
        (ids,) = self._encode([self._chat.tokenizer.convert_ids_to_tokens(end) + text])
        return ids[1:]

    def _check_and_fit(self, pair: Pair, result: Tokenized) -> None:
        assert result.tokens is not None
        finished = _finish(result.tokens, self._chat)
        result.tokens = None
        if isinstance(finished, Defect):
            result.defect = finished
            return
        if finished.longest > self._settings.max_length:
            fitted = fit_pair(pair, finished, self._settings, self._prompt_ids)
            if isinstance(fitted, Defect):
                result.defect = fitted
                return
            finished, note = fitted
            result.notes.append(note)
        result.tokens = finished

    def _prompt_ids(self, prompt: Conversation) -> list[int] | None:
        """Ids of a shortened prompt; None: template or tokenizer do not take it."""
        if self._control.found_in(prompt):
            ids = self._control.neutralised_ids(prompt, True)
            return None if isinstance(ids, Defect) else ids
        (text,) = self._shapes.render_each([prompt], True)
        return None if isinstance(text, Defect) else self._encode([text])[0]


def _finish(tokens: TokenizedPair, chat: ChatFormat) -> TokenizedPair | Defect:
    """Answers end with the end-of-turn token, begin-of-sequence stands once, padding nowhere."""
    bos, pad, end = chat.tokenizer.bos_token_id, chat.tokenizer.pad_token_id, chat.end_of_turn
    if bos is not None and tokens.prompt[:2] == [bos, bos]:
        return Defect(DefectCode.REPEATED_BOS, "the prompt has two begin-of-sequence tokens")
    for side, ids in (("chosen", tokens.chosen), ("rejected", tokens.rejected)):
        # What the template writes behind the turn (a line end, say) is not the model's to learn.
        kept = len(ids)
        while kept and ids[kept - 1] != end:
            kept -= 1
        if not kept:
            return Defect(DefectCode.UNFINISHED_TURN, f"{side} has no end-of-turn token")
        del ids[kept:]
        if pad != end and pad in ids:
            return Defect(DefectCode.PAD_IN_ANSWER, f"{side} contains the padding token")
        if bos != end and bos in ids:
            return Defect(DefectCode.REPEATED_BOS, f"{side} has a begin-of-sequence token")
    if tokens.chosen == tokens.rejected:
        return Defect(DefectCode.IDENTICAL_ANSWERS, "chosen and rejected have the same tokens")
    return tokens


def _not_a_prefix(side: str) -> Defect:
    return Defect(
        DefectCode.PROMPT_NOT_PREFIX, f"prompt + {side} does not begin with the prompt's tokens"
    )


def _table_encoder(tokenizer: Any, encode_whole: EncodeTexts) -> EncodeTexts:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    return encode_whole if backend is None else WordTable(backend, encode_whole).encode


def _batch_encoder(tokenizer: Any) -> EncodeTexts:
    """Texts to ids, adding nothing: the template writes the control tokens."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:  # a tokenizer in Python
        return lambda texts: tokenizer(texts, add_special_tokens=False)["input_ids"]

    def encode(texts: list[str]) -> list[list[int]]:
        backend.no_truncation()  # each time, because a call of the tokenizer may set them
        backend.no_padding()
        encodings = backend.encode_batch_fast(texts, add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    return encode
