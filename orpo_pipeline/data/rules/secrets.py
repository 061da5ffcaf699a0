"""Keys and tokens that open something: whoever can ask the model could read them out.

Only shapes that their issuers gave a fixed beginning or that can be decoded are looked for; a
password looks like any word. Placeholders of the documentation (`AKIAIOSFODNN7EXAMPLE`, `ghp_xxxx`)
are none.
"""

import base64
import binascii
import json
import re
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

PLACEHOLDER = "[SECRET]"

FEWEST_CHARACTERS = 8
"""Of 16 random letters and digits fewer than 8 different ones are one in 10^5; of `xxxx` one."""


class Kind(NamedTuple):
    """One issuer's shape. Every match has one of the hints: a text without is not searched."""

    name: str
    hints: tuple[str, ...]
    pattern: re.Pattern[str]
    is_real: Callable[[str], bool]


def _looks_random(token: str) -> bool:
    return len(set(token)) >= FEWEST_CHARACTERS and "EXAMPLE" not in token


def _is_key_body(body: str) -> bool:
    """Whether there is enough base64 for the smallest key (Ed25519: 64 characters)."""
    return len(re.sub(r"\\[nr]|\s", "", body)) >= 64 and _looks_random(body)


def _is_web_token(token: str) -> bool:
    """Whether the first part is a JSON object that names its algorithm (RFC 7515, 4.1.1)."""
    header = token.partition(".")[0]
    try:
        decoded = json.loads(base64.urlsafe_b64decode(header + "=" * (-len(header) % 4)))
    except (binascii.Error, ValueError, RecursionError):
        return False
    return isinstance(decoded, dict) and "alg" in decoded


def _token(name: str, hints: str, pattern: str) -> Kind:
    """A kind that stands alone; the group `value` is its random part, spaces divide the hints."""
    alone = re.compile(rf"(?<![A-Za-z0-9]){pattern}(?![A-Za-z0-9])", re.ASCII)
    return Kind(name, tuple(hints.split()), alone, _looks_random)


# Every long repetition is possessive or cannot begin twice in one run of characters, so that a text
# of a million near misses is still searched in linear time.
_AWS_SECRET = (
    r"(?i:(?:aws_?)?secret_?access_?key)[\"']?\s{0,3}[=:]\s{0,3}[\"']?"
    r"(?P<value>[A-Za-z0-9/+]{40})"
)
_PEM_NAME = r"(?:[A-Z0-9]+ ){0,3}PRIVATE KEY(?: BLOCK)?-----"
_SPACE = r"(?:\s|\\[nr])*+"  # also as it stands in a JSON string
_PEM = (
    rf"-----BEGIN {_PEM_NAME}{_SPACE}(?:[A-Za-z-]{{1,40}}: [^\n]{{0,200}}\n)*+{_SPACE}"
    rf"(?P<value>(?:[A-Za-z0-9+/=]{{16,}}+{_SPACE})++)"
    rf"(?:(?:[A-Za-z0-9+/=]{{1,15}}+{_SPACE})?+-----END {_PEM_NAME})?+"
)
_WEB_TOKEN = r"(?<![\w-])(?P<value>eyJ[\w-]{10,4000}+\.[\w-]{10,20000}+\.[\w-]{10,4000}+)"

KINDS = (
    _token(
        "AWS access key",
        "AKIA ASIA ABIA ACCA",
        r"(?:AKIA|ASIA|ABIA|ACCA)(?P<value>[A-Z2-7]{16})",
    ),
    _token("AWS secret key", "secret_access SecretAccess SECRET_ACCESS", _AWS_SECRET),
    _token("GitHub token", "ghp_ gho_ ghu_ ghs_ ghr_", r"gh[pousr]_(?P<value>[A-Za-z0-9]{36,255})"),
    _token("GitHub token", "github_pat_", r"github_pat_(?P<value>\w{82})"),
    _token(
        "GitLab token",
        "glpat- gldt- glrt- glptt-",
        r"gl(?:pat|dt|rt|ptt)-(?P<value>[\w-]{20,300}+)",
    ),
    _token("Slack token", "xox", r"xox[abeoprs]-(?P<value>\d[A-Za-z0-9-]{19,250}+)"),
    _token("Slack token", "xapp-", r"xapp-\d-(?P<value>[A-Z0-9]{8,20}-\d{8,20}-[a-f0-9]{32,100})"),
    _token(
        "Slack webhook",
        "hooks.slack.com",
        r"hooks\.slack\.com/services/(?P<value>T[A-Z0-9]{7,20}/B[A-Z0-9]{7,20}/[A-Za-z0-9]{20,30})",
    ),
    _token("OpenAI key", "T3BlbkFJ", r"sk-(?P<value>[\w-]{16,200}?T3BlbkFJ[\w-]{16,200}+)"),
    _token("OpenAI key", "sk-", r"sk-(?P<value>(?=[a-zA-Z]*[0-9])[A-Za-z0-9]{32,64})"),
    _token("Anthropic key", "sk-ant-", r"sk-ant-[a-z]{2,8}\d\d-(?P<value>[\w-]{32,200}+)"),
    _token("Hugging Face token", "hf_", r"hf_(?P<value>[A-Za-z0-9]{34,40})"),
    _token("Google key", "AIza", r"AIza(?P<value>[\w-]{35})"),
    _token("Google key", "GOCSPX-", r"GOCSPX-(?P<value>[\w-]{28})"),
    _token("Stripe key", "k_live_ k_test_", r"[sr]k_(?:live|test)_(?P<value>[A-Za-z0-9]{20,250})"),
    _token("Stripe key", "whsec_", r"whsec_(?P<value>[A-Za-z0-9+/]{32,64})"),
    Kind("private key", ("PRIVATE KEY",), re.compile(_PEM, re.ASCII), _is_key_body),
    Kind("JSON web token", ("eyJ",), re.compile(_WEB_TOKEN, re.ASCII), _is_web_token),
)


def redact_secrets(text: str) -> tuple[str, Counter[str]]:
    """The text with `[SECRET]` for each key and token, and how many there were of each kind."""
    found: Counter[str] = Counter()
    for kind in KINDS:
        if any(hint in text for hint in kind.hints):
            text = _replace(kind, text, found)
    return text, found


def _replace(kind: Kind, text: str, found: Counter[str]) -> str:
    def replacement(match: re.Match[str]) -> str:
        if not kind.is_real(match["value"]):
            return match.group()
        found[kind.name] += 1
        return PLACEHOLDER

    return kind.pattern.sub(replacement, text)
