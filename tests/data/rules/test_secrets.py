"""Keys and tokens, and what merely looks like one. None of these opens anything."""

import base64
import json
from collections import Counter

import pytest

from orpo_pipeline.data.rules.glance import glance
from orpo_pipeline.data.rules.secrets import KINDS, redact_secrets

# Cut in two, so that no scanner takes this file for a leak.
RANDOM = "q7Zt2LmX9vBc4NdK8sWp1RfY6hJg3TaE5uCo0iQxVbDkGnMz"  # 48 letters and digits
UPPER = "Q7ZT2LMX5VBC4NDK"  # 16 of A-Z and 2-7
HEX = "9f86d081884c7d659a2feaa0c55ad015"
BASE64 = "MIIEvgIBADANBgkqhkiG9w0BAQEFAASCBKgwggSkAgEAAoIBAQC7VJTUt9Us8cKj"


def encoded(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


def jwt(header: object) -> str:
    return ".".join([encoded(header), encoded({"sub": "4711", "name": "A. N. Other"}), RANDOM[:43]])


def pem(name: str, body: str, end: str = "\n") -> str:
    return f"-----BEGIN {name}-----{end}{body}{end}-----END {name}-----"


SECRETS = [
    ("AWS access key", "AKIA" + UPPER),
    ("AWS access key", "ASIA" + UPPER),
    ("AWS secret key", "aws_secret_access_key = " + RANDOM[:20] + "/+" + RANDOM[20:38]),
    ("AWS secret key", "AWS_SECRET_ACCESS_KEY='" + RANDOM[:40] + "'"),
    ("AWS secret key", '"SecretAccessKey": "' + RANDOM[:40] + '"'),
    ("GitHub token", "ghp_" + RANDOM[:36]),
    ("GitHub token", "ghs_" + RANDOM[:36]),
    ("GitHub token", "github_pat_" + RANDOM[:22] + "_" + RANDOM + RANDOM[:11]),
    ("GitLab token", "glpat-" + RANDOM[:9] + "_-" + RANDOM[:9]),
    ("Slack token", "xoxb-" + "123456789012-1234567890123-" + RANDOM[:24]),
    ("Slack token", "xapp-" + "1-A0123456789-1234567890123-" + HEX + HEX),
    ("Slack webhook", "https://hooks.slack.com/" + "services/T0A1B2C3D/B4E5F6G7H/" + RANDOM[:24]),
    ("OpenAI key", "sk-" + RANDOM[:20] + "T3BlbkFJ" + RANDOM[:20]),
    ("OpenAI key", "sk-proj-" + RANDOM[:30] + "_-" + "T3BlbkFJ" + RANDOM[:30]),
    ("OpenAI key", "sk-" + RANDOM[:48]),
    ("OpenAI key", "sk-" + HEX),
    ("Anthropic key", "sk-ant-" + "api03-" + RANDOM + "-" + RANDOM[:38] + "_AA"),
    ("Hugging Face token", "hf_" + RANDOM[:34]),
    ("Google key", "AIza" + RANDOM[:20] + "-_" + RANDOM[:13]),
    ("Google key", "GOCSPX-" + RANDOM[:28]),
    ("Stripe key", "sk_live_" + RANDOM[:24]),
    ("Stripe key", "rk_test_" + RANDOM[:40]),
    ("Stripe key", "whsec_" + RANDOM[:32]),
    ("private key", pem("PRIVATE KEY", BASE64)),
    ("private key", pem("RSA PRIVATE KEY", BASE64 + "\n" + BASE64 + "\nabc=")),
    ("private key", pem("OPENSSH PRIVATE KEY", BASE64)),
    ("private key", pem("PGP PRIVATE KEY BLOCK", "Version: 2.1\n\n" + BASE64)),
    ("private key", pem("EC PRIVATE KEY", "Proc-Type: 4,ENCRYPTED\nDEK-Info: x\n\n" + BASE64)),
    ("private key", pem("PRIVATE KEY", BASE64, end="\\n")),
    ("private key", "-----BEGIN PRIVATE KEY-----\n" + BASE64),
    ("JSON web token", jwt({"alg": "HS256", "typ": "JWT"})),
]

NEAR_MISSES = [
    "pip install sk-learn, sk-image and sk-some-other-package-with-a-long-name",
    "task-" + RANDOM[:48],
    "AKIAIOSFODNN7EXAMPLE",  # the documentation's own
    "AKIA" + "1890" * 4,  # digits that its alphabet does not have
    "AKIA" + UPPER[:15],
    "AKIA" + UPPER + "A",
    "XAKIA" + UPPER,
    "aws_secret_access_key = YOUR_SECRET_ACCESS_KEY_OF_FORTY_LETTERS_",
    "aws_secret_access_key = wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
    "ghp_" + "x" * 36,
    "ghp_" + RANDOM[:35],
    "github_pat_" + RANDOM[:40],
    "glpat-" + RANDOM[:19],
    "xoxb-your-bot-token-goes-right-here",
    "https://hooks.slack.com/services/YOUR/WEBHOOK/URL",
    "sk-" + "x" * 48,
    "sk-" + RANDOM[:31],
    "sk-ant-api03-xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
    "hf_hub_download(repo_id, filename_of_the_model_weights)",
    "hf_" + RANDOM[:33],
    "AIza" + RANDOM[:34],
    "sk_live_" + RANDOM[:19],
    "sk_test_your_own_key_here",
    "risk_live_" + RANDOM[:24],
    "-----BEGIN PRIVATE KEY-----\n...\n-----END PRIVATE KEY-----",
    "-----BEGIN PRIVATE KEY-----\nthe key follows in the next chapter",
    pem("PUBLIC KEY", BASE64),
    pem("CERTIFICATE", BASE64),
    "The header is -----BEGIN RSA PRIVATE KEY----- and then base64.",
    jwt({"typ": "JWT"}),  # no algorithm
    jwt(["alg"]),
    "eyJ" + RANDOM + "." + RANDOM + "." + RANDOM,  # no JSON
    "eyJhbGciOiJIUzI1NiJ9",  # a header alone
    "commit " + HEX + "9f86d081",
    "https://example.com/a/very/long/path-with-dashes/index_of_everything.html",
    "=" * 80 + "\n" + "-" * 80,
]


@pytest.mark.parametrize(("kind", "secret"), SECRETS)
def test_secret(kind: str, secret: str) -> None:
    for text in (
        secret,
        f"Use {secret} here.",
        f'key="{secret}"\n',
        f"({secret})",
        secret + "\nEnd",
    ):
        assert glance([text]).secrets
        redacted, found = redact_secrets(text)
        assert found == Counter({kind: 1})
        assert "[SECRET]" in redacted
        assert not {secret, secret[12:28], secret[-12:]} & set(_windows(redacted))


def _windows(text: str) -> set[str]:
    return {text[i : i + n] for n in (12, 16, len(text)) for i in range(len(text))}


@pytest.mark.parametrize("text", NEAR_MISSES)
def test_no_secret(text: str) -> None:
    assert redact_secrets(text) == (text, Counter())


def test_every_kind_has_a_case() -> None:
    assert {kind.name for kind in KINDS} == {name for name, _ in SECRETS}


def test_what_stands_around_a_secret_stays() -> None:
    text = f"a={'ghp_' + RANDOM[:36]}; b={'hf_' + RANDOM[:34]}, c=3"
    assert redact_secrets(text) == (
        "a=[SECRET]; b=[SECRET], c=3",
        Counter({"GitHub token": 1, "Hugging Face token": 1}),
    )
    assert redact_secrets("before\n" + pem("PRIVATE KEY", BASE64) + "\nafter")[0] == (
        "before\n[SECRET]\nafter"
    )


@pytest.mark.parametrize(
    "piece",
    ["eyJ-", "sk-", "-----BEGIN PRIVATE KEY-----\n", "xoxb-1", "ghp_", "sk-ant-api03", "AKIA"],
)
def test_a_million_near_misses_are_searched_in_linear_time(piece: str) -> None:
    # A quadratic search would not come back within the time that the suite allows.
    text = piece * (1_000_000 // len(piece))
    assert redact_secrets(text)[1] == Counter()
