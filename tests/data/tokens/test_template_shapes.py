"""Texts by shape are the template's own; a template that looks at a content is run for each."""

from typing import Any, ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orpo_pipeline.data.tokens.chat_template import NAMED_TEMPLATES, render, template_text
from orpo_pipeline.data.tokens.template_shapes import TemplateShapes
from schemas.pairs import Conversation, Defect, Message

LOOP = "{% for m in messages %}{{ m.role }}: BODY\n{% endfor %}"
COPYING = {
    "plain": LOOP.replace("BODY", "{{ m['content'] }}"),
    "trimmed": LOOP.replace("BODY", "{{ '<' + m['content'] | trim + '>' }}"),
    "left": LOOP.replace("BODY", "{{ m.content.lstrip() }}"),
    "macro": "{% macro show(m) %}[{{ m.content }}]{% endmacro %}"
    + LOOP.replace("BODY", "{{ show(m) }}"),
    "set": LOOP.replace("BODY", "{% set text %}{{ m.content }}!{% endset %}{{ text }}"),
    "string": LOOP.replace("BODY", "{{ m.content if m.content is string else '' }}"),
    "order": "{{ messages[-1].content }}{% for m in messages[:-1] %}, {{ m.content }}{% endfor %}",
}
LOOKING = {
    "in": "{{ m.content if '</think>' not in m.content else 'thought' }}",
    "inside": "{{ 'x' if m.content in 'xyz' else m.content }}",
    "split": "{{ m.content.split('</think>')[-1] }}",
    "truth": "{% if m.content %}{{ m.content }}{% endif %}",
    "equal": "{{ '' if m.content == 'a' else m.content }}",
    "length": "{{ m.content }}{{ m.content | length }}",
    "tojson": "{{ m.content | tojson }}",
    "upper": "{{ m.content | upper }}",
    "replaced": "{{ m.content | replace('a', 'b') }}",
    "slice": "{{ m.content[:2] }}",
    "twice": "{{ m.content }}{{ m.content }}",
    "characters": "{{ m.content.strip('ab') }}",
    "joined": "{% set all = '-'.join([m.content]) %}{{ 'a' if 'a' in all else all }}",
    "tilde": "{% set all = m.content ~ '' %}{{ 'a' if 'a' in all else all }}",
    "captured": "{% set all %}{{ m.content }}{% endset %}{{ 'a' if 'a' in all else all }}",
    "formatted": "{% set all = '%s' % m.content %}{{ 'a' if 'a' in all else all }}",
    "repr": "{{ [m.content] }}",
    "dropped": "{{ m.role }}",
}
TEXT = st.text(st.sampled_from("ab \n\t\x0b\x1c<>&'\"\\é/xyz"), max_size=6) | st.sampled_from(
    ["</think>", "a</think>b", " a "]
)
TURNS = st.lists(
    st.builds(Message, st.sampled_from(["user", "assistant"]), TEXT), min_size=1, max_size=3
).map(tuple)


class Tokenizer:
    """What of a tokenizer renders: transformers' function for it, without its tokens."""

    special_tokens_map: ClassVar = {"bos_token": "<s>", "eos_token": "</s>"}

    def __init__(self, template: str) -> None:
        self.chat_template = template

    def apply_chat_template(self, conversations: Any, **given: Any) -> list[str]:
        from transformers.utils.chat_template_utils import render_jinja_template

        del given["tokenize"]
        texts, _ = render_jinja_template(
            conversations, chat_template=self.chat_template, **self.special_tokens_map, **given
        )
        return list(texts)


@pytest.mark.parametrize("name", [*COPYING, *LOOKING])
@settings(deadline=None, max_examples=60)
@given(conversations=st.lists(TURNS, max_size=3), generation=st.booleans())
def test_any_text_is_the_templates_own(
    name: str, conversations: list[Conversation], generation: bool
) -> None:
    tokenizer = Tokenizer(COPYING.get(name) or LOOP.replace("BODY", LOOKING[name]))
    found = TemplateShapes(tokenizer).render_each(conversations, generation)
    assert found == render(tokenizer, conversations, generation)


def _shape_of(template: str) -> Any:
    shapes = TemplateShapes(Tokenizer(template))
    turns = (Message("user", "Why?"), Message("assistant", "Because."))
    return shapes._find_shape(tuple(m.role for m in turns), False)


@pytest.mark.parametrize("name", COPYING)
def test_a_template_that_only_copies_has_a_shape(name: str) -> None:
    assert _shape_of(COPYING[name]) is not None


@pytest.mark.parametrize("name", NAMED_TEMPLATES)
def test_our_templates_have_shapes(name: str) -> None:
    assert _shape_of(template_text(name) or "") is not None


@pytest.mark.parametrize("name", LOOKING)
def test_a_template_that_looks_at_a_content_has_none(name: str) -> None:
    assert _shape_of(LOOP.replace("BODY", LOOKING[name])) is None


def test_a_refused_conversation_is_a_defect_as_before() -> None:
    template = (
        "{{ raise_exception('no system') if messages[0].role == 'system' }}" + COPYING["plain"]
    )
    shapes = TemplateShapes(Tokenizer(template))
    good, bad = (Message("user", "a"),), (Message("system", "a"),)
    first, second = shapes.render_each([good, bad], False)
    assert first == "user: a\n" and isinstance(second, Defect) and "no system" in second.reason
