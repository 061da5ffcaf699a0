"""Every question in both orders, several at a time; kept verdicts first."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from orpo_pipeline.evaluation.judge.endpoint import Endpoint, Reply
from orpo_pipeline.evaluation.judge.questions import Question, build_messages
from orpo_pipeline.evaluation.judge.verdict_store import VerdictStore, verdict_key
from schemas.judgement import Verdict

NOT_ASKED = "not asked"


@dataclass(frozen=True, slots=True)
class Answered:
    """One question's two verdicts, or why there are none.

    `candidate_first` is the verdict when the candidate's answer was shown first. Answers that are
    the same text have two ties without being asked.
    """

    candidate_first: Verdict | None = None
    reference_first: Verdict | None = None
    failure: str | None = None
    replies: int = 0
    """Verdicts and failures that came from the endpoint now."""
    prompt_tokens: int = 0
    completion_tokens: int = 0


class Asking:
    """Asks an endpoint and keeps its verdicts."""

    def __init__(self, endpoint: Endpoint, store: VerdictStore) -> None:
        self.endpoint = endpoint
        self.store = store

    async def ask_all(
        self, questions: Sequence[Question], progress: Callable[[int, int], None]
    ) -> list[Answered]:
        """Answers in the order of `questions`.

        Once more than `max_failed_share` has failed, the win rate is missing whatever follows: the
        questions that are left are not asked.
        """
        config = self.endpoint.config
        may_fail = config.max_failed_share * len(questions)
        slots = asyncio.Semaphore(config.concurrency)
        failed = done = 0

        async def ask(question: Question) -> Answered:
            nonlocal failed, done
            async with slots:
                if failed > may_fail:
                    return Answered(failure=NOT_ASKED)
                answered = await self._ask_both_orders(question)
            failed += answered.failure is not None
            done += 1
            progress(done, len(questions))
            return answered

        return await asyncio.gather(*(ask(question) for question in questions))

    async def _ask_both_orders(self, question: Question) -> Answered:
        if question.candidate == question.reference:
            return Answered(Verdict.TIE, Verdict.TIE)
        texts = (question.candidate, question.reference)
        first, asked = await self._verdict(question.prompt, *texts)
        replies, spent = [first], int(asked)
        if first.failure is None:  # else the second would be paid for nothing
            second, asked = await self._verdict(question.prompt, *reversed(texts))
            replies.append(second)
            spent += asked
        return Answered(
            candidate_first=first.verdict,
            reference_first=replies[-1].verdict if len(replies) == 2 else None,
            failure=replies[-1].failure,
            replies=spent,
            prompt_tokens=sum(reply.usage.prompt_tokens for reply in replies),
            completion_tokens=sum(reply.usage.completion_tokens for reply in replies),
        )

    async def _verdict(self, prompt: str, first: str, second: str) -> tuple[Reply, bool]:
        """The reply, and whether the endpoint was asked for it now."""
        config = self.endpoint.config
        messages = build_messages(config.template, prompt, first, second)
        key = verdict_key(config, messages)
        kept = self.store.find(key)
        if kept is not None:
            return Reply(kept[0], None, kept[1]), False
        reply = await self.endpoint.ask(messages)
        if reply.verdict is not None:
            self.store.keep(key, reply.verdict, reply.usage)
        return reply, True
