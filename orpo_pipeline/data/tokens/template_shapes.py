"""Rendered conversations without running the template: what it writes around the contents.

Most templates only copy the messages' contents, or strip them. Then all conversations of the same
roles have the same text but for the contents, and one rendering tells all. That a template does no
more is proven by running it on contents that refuse to be looked at: comparing, searching, testing
or changing one ends the attempt, and such a template is run for each conversation.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NoReturn

from jinja2 import TemplateError, nodes
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from orpo_pipeline.data.tokens.chat_template import render_each
from orpo_pipeline.data.tokens.rendering_limits import rendering_limits
from schemas.errors import UserError
from schemas.pairs import Conversation, Defect, Message

MOST_SHAPES = 1000
LEFT, RIGHT = (
    "\x1c\x0b",
    "\x0b\x1c",
)  # white space that no template writes: it shows what is stripped
CORE = "\"<&>\\'A\u00e9a{}\ue000"  # whatever escapes or changes a text changes this
ALLOWED_METHODS = frozenset(("strip", "lstrip", "rstrip"))
ALLOWED_FILTERS = frozenset(
    ("trim", "string", "length", "default", "d", "first", "last", "list", "selectattr")
)
STRIPPED: dict[tuple[bool, bool], Callable[[str], str]] = {
    (True, True): str,
    (False, True): str.lstrip,
    (True, False): str.rstrip,
    (False, False): str.strip,
}

Shape = tuple[tuple[str, ...], tuple[tuple[int, Callable[[str], str]], ...]]
"""Literal texts, and between them which message's content, changed in which way."""


class _LookedAt(Exception):
    """The template does more with a content than to copy it."""


def _refuse(*_: Any, **__: Any) -> NoReturn:
    raise _LookedAt


class _Content(str):
    """A text that can be copied, joined by `+` and stripped; anything else raises _LookedAt."""

    __slots__ = ()
    __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = _refuse
    __hash__ = __len__ = __iter__ = __contains__ = __getitem__ = _refuse
    __mul__ = __rmul__ = __mod__ = __rmod__ = __format__ = __repr__ = _refuse

    def __getattribute__(self, name: str) -> Any:
        if not name.startswith("__") and name not in ALLOWED_METHODS:
            raise _LookedAt
        return super().__getattribute__(name)

    def __str__(self) -> str:
        return self

    def __add__(self, other: str) -> "_Content":
        return _Content(str.__add__(self, other))

    def __radd__(self, other: str) -> "_Content":
        return _Content(str.__add__(other, self))

    def strip(self, characters: str | None = None, /) -> "_Content":
        return _stripped(self, str.strip, characters)

    def lstrip(self, characters: str | None = None, /) -> "_Content":
        return _stripped(self, str.lstrip, characters)

    def rstrip(self, characters: str | None = None, /) -> "_Content":
        return _stripped(self, str.rstrip, characters)


def _stripped(content: _Content, strip: Callable[[str], str], characters: str | None) -> _Content:
    if characters is not None:
        raise _LookedAt
    return _Content(strip(content))


class _CopyingEnvironment(ImmutableSandboxedEnvironment):
    """Runs templates as transformers does, and ends with _LookedAt what might look at a content."""

    @staticmethod
    def concat(parts: Iterable[str]) -> str:
        parts = list(parts)
        text = "".join(parts)
        return _Content(text) if any(isinstance(part, _Content) for part in parts) else text

    def call(self, context: Any, called: Any, *arguments: Any, **named: Any) -> Any:
        owner = getattr(called, "__self__", None)
        if isinstance(owner, str) and not isinstance(owner, _Content):
            raise _LookedAt  # 'x'.join(...), say, makes a plain text of contents
        return super().call(context, called, *arguments, **named)


def _environment() -> ImmutableSandboxedEnvironment:
    environment = _CopyingEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols]
    )
    for name in environment.filters.keys() - ALLOWED_FILTERS:
        environment.filters[name] = _refuse
    environment.globals["raise_exception"] = _refuse
    return environment


def _may_look_unseen(template: nodes.Template) -> bool:
    """`~` makes plain texts of contents, and a plain text can be asked whether they are in it."""
    return template.find(nodes.Concat) is not None or any(
        not isinstance(comparison.expr, nodes.Const)
        and any(
            operand.op in ("in", "notin")
            and not isinstance(operand.expr, (nodes.List, nodes.Tuple))
            for operand in comparison.ops
        )
        for comparison in template.find_all(nodes.Compare)
    )


class TemplateShapes:
    """Texts of conversations under one tokenizer's chat template."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._shapes: dict[tuple[bool, tuple[str, ...]], Shape | None] = {}

    def render_each(
        self, conversations: Sequence[Conversation], add_generation_prompt: bool
    ) -> list[str | Defect]:
        """Each conversation's text, or the defect that the template does not take it.

        Raises UserError when the template takes more time or memory than a template may.
        """
        found: list[str | Defect | None] = [
            self._by_shape(turns, add_generation_prompt) for turns in conversations
        ]
        others = [turns for turns, text in zip(conversations, found, strict=True) if text is None]
        rendered = iter(render_each(self._tokenizer, others, add_generation_prompt))
        return [next(rendered) if text is None else text for text in found]

    def _by_shape(self, turns: Conversation, generation: bool) -> str | None:
        key = generation, tuple([message.role for message in turns])
        if key not in self._shapes:
            if len(self._shapes) >= MOST_SHAPES:
                return None
            self._shapes[key] = self._find_shape(key[1], generation)
        shape = self._shapes[key]
        if shape is None:
            return None
        first, *literals = shape[0]
        parts = [first]
        for (number, change), literal in zip(shape[1], literals, strict=True):
            parts += (change(turns[number].content), literal)
        return "".join(parts)

    def _find_shape(self, roles: tuple[str, ...], generation: bool) -> Shape | None:
        """None: the template refuses such a conversation, or looks at what it says."""
        contents = [f"{LEFT}{CORE.format(number)}{RIGHT}" for number in range(len(roles))]
        turns = tuple(map(Message, roles, contents))
        try:
            (text,) = render_each(self._tokenizer, [turns], generation)
            with rendering_limits():
                copied = self._copy(turns, generation)
        except (_LookedAt, TemplateError, UserError, TypeError, ValueError):
            return None
        return _shape_of(text, len(roles)) if text == copied else None

    def _copy(self, turns: Conversation, generation: bool) -> str:
        source, environment = self._tokenizer.chat_template, _environment()
        if _may_look_unseen(environment.parse(source)):
            raise _LookedAt
        text = environment.from_string(source).render(
            messages=[{"role": m.role, "content": _Content(m.content)} for m in turns],
            tools=None,
            documents=None,
            add_generation_prompt=generation,
            **self._tokenizer.special_tokens_map,
        )
        return str.__add__(text, "")


def _shape_of(text: str, contents: int) -> Shape | None:
    """The shape that the text shows; None where a content is missing, changed or repeated."""
    literals, places = [], []
    rest = text
    order = sorted(range(contents), key=lambda number: text.find(CORE.format(number)))
    for number in order:
        before, core, rest = rest.partition(CORE.format(number))
        if not core:
            return None
        kept = before.endswith(LEFT), rest.startswith(RIGHT)
        literals.append(before.removesuffix(LEFT))
        rest = rest.removeprefix(RIGHT)
        places.append((number, STRIPPED[kept]))
    literals.append(rest)
    # Whatever else is left of a content was cut out of it, or stands there a second time.
    if any(mark in literal for literal in literals for mark in (*LEFT, "\ue000")):
        return None
    return tuple(literals), tuple(places)
