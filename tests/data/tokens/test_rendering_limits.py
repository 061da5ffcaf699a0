"""Templates that would take the machine, the process or its files."""

import resource
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from token_pairs import user

from orpo_pipeline.data.tokens.chat_template import load_chat_format, render
from orpo_pipeline.data.tokens.rendering_limits import rendering_limits
from schemas.errors import UserError

NESTED = "{% for a in range(90000) %}" * 4 + "{% endfor %}" * 4
ENDLESS = [
    pytest.param(NESTED, id="nested loops"),
    pytest.param("{% set x = 10 ** (10 ** 9) %}", id="a constant's digits"),
    pytest.param("{% set n = 10 ** 9 %}{% set x = 10 ** n %}", id="a number's digits"),
    pytest.param(
        "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}"
        "{{ m(60) }}",
        id="branching calls",
    ),
]
HUGE = [
    pytest.param("{{ 'a' * 10**10 }}", id="a constant"),
    pytest.param("{{ messages[0]['content'] * 10**10 }}", id="a product"),
    pytest.param(
        "{% set ns = namespace(s='aa') %}{% for i in range(99) %}{% set ns.s = ns.s + ns.s %}"
        "{% endfor %}",
        id="doubled",
    ),
    pytest.param("{{ '%9999999999d' % 1 }}", id="padded"),
    pytest.param("{{ [0] * 10**10 }}", id="a list"),
]
FORBIDDEN = [
    "{{ ''.__class__.__mro__ }}",
    "{{ messages.__class__.__base__.__subclasses__() }}",
    "{{ messages[0].content.__class__.__name__ }}",
    "{{ raise_exception.__globals__['os'].system('true') }}",
    "{{ messages.append(1) }}",
    "{{ open('/etc/passwd').read() }}",
    "{% include '/etc/passwd' %}",
    "{% import 'os' as os %}{{ os.getcwd() }}",
    "{% extends '/etc/passwd' %}",
]


@pytest.fixture
def as_before() -> Iterator[None]:
    """The process's limits, handler and timer are after the test what they were before."""
    handler = signal.getsignal(signal.SIGALRM)
    memory = resource.getrlimit(resource.RLIMIT_AS)
    waiting = signal.setitimer(signal.ITIMER_REAL, 500, 7)
    try:
        yield
        left, interval = signal.getitimer(signal.ITIMER_REAL)
        assert 400 < left <= 500 and interval == 7
        assert signal.getsignal(signal.SIGALRM) is handler
        assert resource.getrlimit(resource.RLIMIT_AS) == memory
    finally:
        signal.setitimer(signal.ITIMER_REAL, *waiting)


def render_with(folder: Path, template: str, seconds: float = 20.0) -> str:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = template
    with rendering_limits(seconds):
        return render(tokenizer, [user("Hi!")], add_generation_prompt=True)[0]


@pytest.mark.parametrize("template", ENDLESS)
def test_an_endless_template(template: str, mistral_like: Path, as_before: None) -> None:
    with pytest.raises(UserError, match=r"did not finish within 0\.2 s and 1 GiB"):
        render_with(mistral_like, template, 0.2)


@pytest.mark.parametrize("template", HUGE)
def test_a_huge_template(template: str, mistral_like: Path, as_before: None) -> None:
    with pytest.raises(UserError, match="did not finish within 20 s and 1 GiB"):
        render_with(mistral_like, template)


@pytest.mark.parametrize("template", FORBIDDEN)
def test_a_forbidden_template(template: str, mistral_like: Path, as_before: None) -> None:
    with pytest.raises(UserError, match="The chat template failed on a conversation"):
        render_with(mistral_like, template)


def test_a_format_string_reaches_no_attribute(mistral_like: Path) -> None:
    assert render_with(mistral_like, "a{{ '{0.__class__}'.format(messages) }}b") == "ab"


def test_a_format_is_loaded_within_the_limits(
    mistral_like: Path, tmp_path: Path, as_before: None
) -> None:
    path = tmp_path / "huge.jinja"
    path.write_text("{{ 'a' * 10**10 }}")
    with pytest.raises(UserError, match="did not finish") as raised:
        load_chat_format(mistral_like, str(path))
    assert "set chat.template to another one" in raised.value.fix


def test_a_harmless_block(as_before: None) -> None:
    with rendering_limits():
        pass


def test_limits_within_limits(as_before: None) -> None:
    expected = pytest.raises(UserError, match=r"within 0\.1 s")
    with expected, rendering_limits(), rendering_limits(0.1):
        while True:
            pass


def test_other_errors_pass(as_before: None) -> None:
    with pytest.raises(KeyError), rendering_limits():
        raise KeyError("a")


def test_a_lower_limit_of_the_process_stays(as_before: None) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    lower = 2**45  # below infinity, above what the process has
    resource.setrlimit(resource.RLIMIT_AS, (lower, hard))
    try:
        with rendering_limits(spare=2**46):
            assert resource.getrlimit(resource.RLIMIT_AS) == (lower, hard)
        assert resource.getrlimit(resource.RLIMIT_AS) == (lower, hard)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def test_a_timer_that_ran_out_meanwhile_strikes_afterwards() -> None:
    struck = []
    handler = signal.signal(signal.SIGALRM, lambda *_: struck.append(True))
    waiting = signal.setitimer(signal.ITIMER_REAL, 0.05)
    try:
        with pytest.raises(UserError), rendering_limits(0.2):
            while True:
                pass
        signal.sigtimedwait([], 0.2)
        assert struck
    finally:
        signal.signal(signal.SIGALRM, handler)
        signal.setitimer(signal.ITIMER_REAL, *waiting)


def test_threads_leave_the_process_as_it_was(as_before: None) -> None:
    found: list[str] = []
    first_is_in, second_waits = threading.Event(), threading.Event()

    def first() -> None:
        with rendering_limits():
            first_is_in.set()
            second_waits.wait(30)

    def second() -> None:
        first_is_in.wait(30)
        second_waits.set()
        try:
            with rendering_limits():
                bytearray(10**12)
        except UserError as error:
            found.append(error.found)

    threads = [threading.Thread(target=first), threading.Thread(target=second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(found) == 1
