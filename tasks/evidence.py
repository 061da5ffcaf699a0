"""What speaks for a version, stored with its run: whoever has the store can promote it."""

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import polars as pl

from orpo_pipeline.adapter_files import WEIGHTS
from orpo_pipeline.data.prepared_files import EVAL, read_pairs
from orpo_pipeline.stages import file_sha256
from schemas.errors import EnvironmentFault, UserError
from schemas.gate_decision import GateDecision
from schemas.plan import TrainingPlan
from schemas.promotion import FixedPair, SmokeJob
from schemas.results import EvaluationReport, PreparedData, TrainedAdapter
from tasks.tracking import Tracker
from tasks.version_tags import BASE_MODEL_TAG, BASE_REVISION_TAG, DATASET_TAG, SHA256_TAG
from tasks.versions import Version, list_versions, require_unpruned

FOLDER = "promotion"
PAIR = "fixed_pair.json"
DECISION = "gate.json"
PAGE = "gate.html"
"""The decision's place among a run's artifacts, for people."""


TOLERANCE = {"float32": 1e-3, "bfloat16": 0.05, "float16": 0.02}
"""Nats per token. Batching, kernels and devices round differently; a wrong adapter or base model
is off by tenths of nats."""


@dataclass(frozen=True)
class Evidence:
    """All that a promotion needs to know of a version."""

    version: str
    run_id: str
    dataset_id: str | None
    adapter_sha256: str
    base_model: str
    pair: FixedPair
    decision: GateDecision | None


def fixed_pair(
    prepared: PreparedData, plan: TrainingPlan, evaluation: EvaluationReport
) -> FixedPair:
    """The shortest held-out pair with the candidate's log-probs of it."""
    scores = pl.read_parquet(evaluation.path / "pairs.parquet", glob=False)
    rows = read_pairs(prepared.path, EVAL).join(scores, on="row_id", how="inner")
    length = pl.sum_horizontal(pl.col("prompt_ids", "chosen_ids", "rejected_ids").list.len())
    row = rows.sort(length, "row_id").row(0, named=True)
    return FixedPair(
        prompt=tuple({"role": t["role"], "content": t["content"]} for t in row["prompt"]),
        prompt_ids=row["prompt_ids"],
        chosen_ids=row["chosen_ids"],
        rejected_ids=row["rejected_ids"],
        chosen_logp=row["candidate_chosen_logp"],
        rejected_logp=row["candidate_rejected_logp"],
        tolerance=TOLERANCE[str(plan.dtype.value)],
    )


def store_evidence(
    tracker: Tracker, run_id: str, version: str, adapter: TrainedAdapter, pair: FixedPair
) -> None:
    """Keep what a copy of the version is held against, once it is registered."""
    name = tracker.config.model_name
    tracker.client.log_text(run_id, pair.model_dump_json(indent=1), f"{FOLDER}/{PAIR}")
    sha256 = file_sha256(adapter.path / WEIGHTS)
    tracker.client.set_model_version_tag(name, version, SHA256_TAG, sha256)


def store_decision(tracker: Tracker, run_id: str, decision: GateDecision, page: str) -> None:
    """Keep the gate's newest answer about the run's version, and its page."""
    tracker.client.log_text(run_id, decision.model_dump_json(indent=1), f"{FOLDER}/{DECISION}")
    tracker.client.log_text(run_id, page, PAGE)


def read_evidence(tracker: Tracker, version: str) -> Evidence:
    """UserError when there is no such version, it was registered without evidence, or pruned.

    EnvironmentFault when its evidence cannot be read.
    """
    found = require_version(tracker, version)
    require_unpruned(found)
    files = _read_folder(tracker, found.run_id) if found.run_id else {}
    sha256 = found.tags.get(SHA256_TAG)
    if found.run_id is None or PAIR not in files or sha256 is None:
        raise UserError(
            f"Version {version} of {tracker.config.model_name} has no evidence to be tested "
            "against.",
            f"the tag {SHA256_TAG}, and {FOLDER}/{PAIR} in its run.",
            "Run its configuration again: registering it anew stores both.",
        )
    try:
        pair = FixedPair.model_validate_json(files[PAIR])
        decision = GateDecision.model_validate_json(files[DECISION]) if DECISION in files else None
    except ValueError as error:
        raise EnvironmentFault(
            f"The evidence of version {version} of {tracker.config.model_name} cannot be read: "
            f"{' '.join(str(error).split())}",
            f"{FOLDER}/{PAIR} and {FOLDER}/{DECISION} in run {found.run_id}, as this project wrote "
            "them.",
            "Run its configuration again: registering it anew stores both.",
        ) from error
    return Evidence(
        version=version,
        run_id=found.run_id,
        dataset_id=found.tags.get(DATASET_TAG),
        adapter_sha256=sha256,
        base_model=f"{found.tags.get(BASE_MODEL_TAG)} {found.tags.get(BASE_REVISION_TAG)}",
        pair=pair,
        decision=decision,
    )


def require_version(tracker: Tracker, version: str) -> Version:
    """The version of that number; UserError that lists those that are there."""
    known = {one.number: one for one in list_versions(tracker)}
    if version not in known:
        raise UserError(
            f"{tracker.config.model_name} has no version {version}.",
            f"one of its versions: {', '.join(sorted(known, key=int)) or 'none'}.",
            "Name one of them; registry.model_name says which model is meant.",
        )
    return known[version]


def smoke_job(tracker: Tracker, evidence: Evidence, alias: str | None) -> SmokeJob:
    """The smoke test of a version, loaded by its alias or by its number."""
    return SmokeJob(
        tracking_uri=tracker.uri,
        model_name=tracker.config.model_name,
        version=evidence.version,
        alias=alias,
        adapter_sha256=evidence.adapter_sha256,
        base_model=evidence.base_model,
        pair=evidence.pair,
    )


def _read_folder(tracker: Tracker, run_id: str) -> dict[str, str]:
    """The evidence files of a run, by name."""
    listed = [Path(a.path).name for a in tracker.client.list_artifacts(run_id, FOLDER)]
    with TemporaryDirectory() as scratch:
        paths = {
            name: tracker.client.download_artifacts(run_id, f"{FOLDER}/{name}", scratch)
            for name in listed
        }
        return {name: Path(path).read_text(encoding="utf-8") for name, path in paths.items()}
