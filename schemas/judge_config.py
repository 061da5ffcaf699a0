"""The configuration's section `evaluation.judge`."""

from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from schemas.section import Section

RequestField = bool | int | float | str

SHORT_AND_GREEDY: dict[str, RequestField] = {"temperature": 0, "max_tokens": 16}


class JudgeConfig(Section):
    """A chat model that compares answers, behind any OpenAI-compatible endpoint. Prompts and
    answers are sent to it."""

    base_url: str = Field(json_schema_extra={"pattern": r"^https?://[^@?#]+$"})
    """The endpoint up to and without `/chat/completions`, such as `http://127.0.0.1:8000/v1`."""

    model: str = Field(min_length=1)
    """The judge's name at the endpoint. Verdicts are kept by it: pin a dated version."""

    key_variable: str | None = Field(default=None, pattern=r"^[A-Z_][A-Z0-9_]*$")
    """NAME of the environment variable that holds the key, never the key. Unset: no key is sent."""

    max_questions: int = Field(default=200, ge=1, le=4000)
    """Compare the answers to the first so many of the `generations` prompts."""

    concurrency: int = Field(default=8, ge=1)
    """Requests under way at a time."""

    timeout: float = Field(default=60.0, gt=0)
    """Seconds until a reply must be complete."""

    retries: int = Field(default=3, ge=0)
    """Further tries after a timeout, a broken connection, HTTP 408, 409, 429 or 5xx."""

    max_failed_share: float = Field(default=0.05, ge=0, lt=1)
    """Share of questions that may stay without a verdict. With more there is no win rate, and the
    rest is not asked."""

    template: Literal["pairwise-1"] = "pairwise-1"
    """Version of the judge's instructions."""

    request: dict[str, RequestField] = Field(default_factory=lambda: dict(SHORT_AND_GREEDY))
    """Fields of the request beside model and messages. A reasoning model needs other ones, such as
    `{max_completion_tokens: 2000}`."""

    @field_validator("base_url")
    @classmethod
    def _require_plain_address(cls, url: str) -> str:
        parts = urlsplit(url)
        _ = parts.port  # raises ValueError for one that is none
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("the address must begin with http:// or https:// and name a host")
        if parts.username or parts.password or parts.query or parts.fragment:
            raise ValueError(
                "the address is recorded with the run, so it may hold no user, password, query or "
                "fragment; put the key into the environment variable that key_variable names"
            )
        return url.rstrip("/")

    @field_validator("request")
    @classmethod
    def _leave_ours(cls, fields: dict[str, RequestField]) -> dict[str, RequestField]:
        ours = sorted({"model", "messages", "stream", "n"} & fields.keys())
        if ours:
            raise ValueError(f"{', '.join(ours)} cannot be set here")
        return fields
