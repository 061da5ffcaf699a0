"""Who asks for a promotion: the gate after a run, a person, or a rollback."""

from dataclasses import replace
from pathlib import Path

from orpo_pipeline.evaluation.decision_page import Subject, render_decision
from orpo_pipeline.evaluation.gate import decide
from schemas.config import RegistryConfig
from schemas.errors import UserError
from schemas.figures import Figure
from schemas.gate_config import GateConfig
from schemas.gate_decision import GateDecision, Verdict
from schemas.promotion import PromotionEntry, PromotionKind, PromotionResult, PromotionState
from schemas.results import EvaluationReport, RegisteredVersion
from tasks.evidence import read_evidence, require_version, store_decision
from tasks.promotion import (
    PromotionRequest,
    lost_champion,
    promote_version,
    repair,
)
from tasks.tracking import Tracker
from tasks.tracking_models import registry
from tasks.version_tags import BASE_MODEL_TAG, CHALLENGER, CHAMPION, DATASET_TAG, PREVIOUS
from tasks.versions import command_about, read_aliases

VERDICT_TAG = "orpo.verdict"
DECISION_TAG = "orpo.decision"


def promote_if_better(
    tracker: Tracker, gate: GateConfig, candidate: RegisteredVersion, evaluation: EvaluationReport
) -> PromotionResult:
    """Make the version the challenger, ask the gate, and promote it when the gate says so.

    A version that is the champion, or once was, is not up for decision: what a person has rolled
    back does not come back by itself. Raises UserError when the champion's alias was deleted or
    moved meanwhile.
    """
    history = repair(tracker)
    lost = lost_champion(tracker, history)
    if lost is not None:
        raise lost
    champion = read_aliases(tracker).get(CHAMPION)
    name, version = candidate.model_name, candidate.version
    known = _earlier(history, name, version, champion)
    if known is not None:
        return _result(tracker, version, None, None, known)
    tracker.client.set_registered_model_alias(name, CHALLENGER, version)
    judged = (Figure.JUDGE_WIN_RATE,) if evaluation.judgement is not None else ()
    decision = decide(evaluation.comparisons, gate, champion, evaluation.identity, judged)
    page = render_decision(decision, evaluation, gate, _subject(tracker, candidate))
    # Before anything moves, so that a kill or a failed smoke test leaves no promotion without it.
    store_decision(tracker, candidate.run_id, decision, page)
    tracker.client.set_model_version_tag(name, version, DECISION_TAG, decision.because)
    tracker.client.set_model_version_tag(name, version, VERDICT_TAG, decision.verdict.value)
    if decision.verdict is not Verdict.PROMOTE:
        return _result(tracker, version, decision, None, decision.because)
    request = PromotionRequest(
        kind=PromotionKind.GATE,
        version=version,
        champion=champion,
        because=decision.because,
        alias=CHALLENGER,
        decision=decision,
    )
    try:
        entry = promote_version(tracker, request)
    except UserError:
        if not _finish_equal_run_s(tracker, version):
            raise
        return _result(tracker, version, decision, None, f"version {version} is the champion")
    return _result(tracker, version, decision, entry, decision.because)


def _finish_equal_run_s(tracker: Tracker, version: str) -> bool:
    """Finish the promotion by a faster run of the same configuration; False if there was none."""
    repair(tracker)
    aliases = read_aliases(tracker)
    if aliases.get(CHAMPION) != version:
        return False
    if aliases.get(CHALLENGER) == version:
        tracker.client.delete_registered_model_alias(tracker.config.model_name, CHALLENGER)
    return True


def decision_about(config: RegistryConfig, home: Path, version: str) -> GateDecision | None:
    """What the gate said about a version; None when it never decided on it."""
    with registry(config, home) as tracker:
        return read_evidence(tracker, version).decision


def promote_by_hand(
    config: RegistryConfig, home: Path, version: str, because: str
) -> PromotionEntry | None:
    """Promote a version, whatever the gate said; None when it is the champion already.

    Raises UserError without a reason, and for a version that is not there.
    """
    _require_reason(because)
    with registry(config, home) as tracker:
        require_version(tracker, version)
        repair(tracker)
        champion = read_aliases(tracker).get(CHAMPION)
        if champion == version:
            return None
        request = PromotionRequest(PromotionKind.MANUAL, version, champion, because)
        return promote_version(tracker, request)


def roll_back(
    config: RegistryConfig, home: Path, because: str, request_id: str | None = None
) -> PromotionEntry:
    """Make `previous` the champion again, and the champion `previous`: a second one undoes it.

    Asked again with the `request_id` of one that is completed (a flow run that was cut off and is
    continued), it returns that one.

    Raises UserError when there is no champion or no previous version.
    """
    _require_reason(because)
    with registry(config, home) as tracker:
        same = [e for e in repair(tracker) if request_id and e.promotion.id == request_id]
        for entry in same:
            if entry.state is PromotionState.COMPLETED:
                return entry
        aliases = read_aliases(tracker)
        if CHAMPION not in aliases or PREVIOUS not in aliases:
            missing = CHAMPION if CHAMPION not in aliases else PREVIOUS
            raise UserError(
                f"{config.model_name} cannot be rolled back: nobody has the alias {missing}.",
                f"versions with the aliases {CHAMPION} and {PREVIOUS}; there is none before the "
                "second promotion.",
                f"{command_about(config.model_name, 'promotions')} shows what there was; "
                f"{command_about(config.model_name, 'promote VERSION --because ...')} promotes any "
                "version.",
            )
        request = PromotionRequest(
            PromotionKind.ROLLBACK, aliases[PREVIOUS], aliases[CHAMPION], because, alias=PREVIOUS
        )
        if request_id and not same:  # one that was not completed keeps its id
            request = replace(request, id=request_id)
        return promote_version(tracker, request)


def history_and_aliases(
    config: RegistryConfig, home: Path
) -> tuple[list[PromotionEntry], dict[str, str]]:
    """All promotions, the last one finished if a killed process left it, and version by alias."""
    with registry(config, home) as tracker:
        read_aliases(tracker)  # says so when there is no such model
        return repair(tracker), read_aliases(tracker)


def _earlier(
    history: list[PromotionEntry], name: str, version: str, champion: str | None
) -> str | None:
    """Why a version is not up for decision, or None when it is."""
    if champion == version:
        return f"version {version} is the champion"
    done = [e for e in history if e.state is PromotionState.COMPLETED]
    replaced = [e for e in done if e.promotion.from_version == version]
    if not replaced:
        return None
    by = replaced[-1]
    return (
        f"version {version} has been the champion until promotion {by.number} "
        f"({by.promotion.kind.value} by {by.promotion.who}: {by.promotion.because}); "
        f"{command_about(name, f'promote {version} --because ...')} would bring it back"
    )


def _subject(tracker: Tracker, candidate: RegisteredVersion) -> Subject:
    tags = require_version(tracker, candidate.version).tags
    return Subject(
        model_name=candidate.model_name,
        version=candidate.version,
        run_id=candidate.run_id,
        dataset_id=tags.get(DATASET_TAG, "not recorded"),
        base_model=tags.get(BASE_MODEL_TAG, "not recorded"),
    )


def _require_reason(because: str) -> None:
    if not because.strip():
        raise UserError(
            "No reason is given.",
            "a sentence that the next person can understand.",
            '--because "..."',
        )


def _result(
    tracker: Tracker,
    version: str,
    decision: GateDecision | None,
    entry: PromotionEntry | None,
    because: str,
) -> PromotionResult:
    aliases = read_aliases(tracker)
    held = tuple(sorted(alias for alias, holder in aliases.items() if holder == version))
    return PromotionResult(decision=decision, promotion=entry, aliases=held, because=because)
