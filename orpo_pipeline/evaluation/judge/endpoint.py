"""An OpenAI-compatible chat endpoint: one question, one reply or one reason why not."""

import asyncio
import random
import time
from dataclasses import dataclass
from email.utils import parsedate_to_datetime

import httpx
from pydantic import BaseModel, Field, ValidationError

from orpo_pipeline.evaluation.judge.questions import Messages, read_verdict
from schemas.judge_config import JudgeConfig
from schemas.judgement import Verdict

RETRIED = {408, 409, 425, 429}  # and everything from 500
FIRST_WAIT = 0.5  # seconds before the second try; twice as long before each further one
LONGEST_WAIT = 60.0  # seconds, also where Retry-After asks for more
CONTENT_FILTER = "content_filter"


class Usage(BaseModel):
    """Tokens of a call, as the endpoint counts them."""

    prompt_tokens: int = Field(default=0, ge=0)
    completion_tokens: int = Field(default=0, ge=0)


class Message(BaseModel):
    content: str | None = None
    refusal: str | None = None


class ReplyChoice(BaseModel):
    message: Message
    finish_reason: str | None = None


class Completion(BaseModel):
    """The part of a chat completion that is read."""

    choices: list[ReplyChoice] = Field(min_length=1)
    usage: Usage | None = None


@dataclass(frozen=True, slots=True)
class Reply:
    """A verdict or the reason why there is none, and what it cost.

    Nothing else of what the endpoint sent is kept: it could hold the key.
    """

    verdict: Verdict | None
    failure: str | None
    usage: Usage
    retry_after: float | None = None
    """Seconds after which the endpoint may be asked again; None: asking again will not help."""


class Endpoint:
    """The judge's endpoint. An async context manager: connections are kept while it is open."""

    def __init__(self, config: JudgeConfig, key: str | None) -> None:
        self.config = config
        self.url = f"{config.base_url}/chat/completions"
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        limits = httpx.Limits(max_connections=config.concurrency)
        # The time for a whole reply is limited below; httpx knows only the time between bytes.
        self.client = httpx.AsyncClient(headers=headers, limits=limits, timeout=None)

    async def __aenter__(self) -> "Endpoint":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.client.aclose()

    async def ask(self, messages: Messages) -> Reply:
        """The reply to the last try; its usage is that of all tries."""
        spent = Usage()
        for attempt in range(self.config.retries + 1):
            reply = await self._try(messages)
            spent = Usage(
                prompt_tokens=spent.prompt_tokens + reply.usage.prompt_tokens,
                completion_tokens=spent.completion_tokens + reply.usage.completion_tokens,
            )
            if reply.retry_after is None or attempt == self.config.retries:
                break
            backoff = FIRST_WAIT * 2**attempt * random.uniform(1, 1.5)
            await asyncio.sleep(min(max(reply.retry_after, backoff), LONGEST_WAIT))
        return Reply(reply.verdict, reply.failure, spent)

    async def _try(self, messages: Messages) -> Reply:
        body = {**self.config.request, "model": self.config.model, "messages": messages}
        try:
            async with asyncio.timeout(self.config.timeout):
                response = await self.client.post(self.url, json=body)
        except TimeoutError:
            return _failed("timeout", retry_after=0.0)
        except httpx.HTTPError:
            return _failed("connection", retry_after=0.0)
        return _read(response)


def _read(response: httpx.Response) -> Reply:
    status = response.status_code
    if status in RETRIED or status >= 500:
        return _failed(f"http {status}", retry_after=_retry_after(response))
    if status == 400 and CONTENT_FILTER in response.text:  # Azure's way to refuse
        return _failed("refusal")
    if status != 200:
        return _failed(f"http {status}")
    try:
        completion = Completion.model_validate_json(response.content)
    except ValidationError:
        return _failed("unparseable")
    usage = completion.usage or Usage()
    choice = completion.choices[0]
    if choice.message.refusal or choice.finish_reason == CONTENT_FILTER:
        return Reply(None, "refusal", usage)
    verdict = read_verdict(choice.message.content or "")
    return Reply(verdict, None if verdict else "unparseable", usage)


def _failed(why: str, retry_after: float | None = None) -> Reply:
    return Reply(None, why, Usage(), retry_after)


def _retry_after(response: httpx.Response) -> float:
    """Seconds that the header asks to wait, given as a number or as a date; else 0."""
    header = response.headers.get("Retry-After", "")
    try:
        return max(float(header), 0.0)
    except ValueError:
        pass
    try:
        return max(parsedate_to_datetime(header).timestamp() - time.time(), 0.0)
    except ValueError:
        return 0.0
