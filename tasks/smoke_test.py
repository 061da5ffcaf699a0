"""Load a registered version in a fresh process, as anybody would, before it becomes the champion.

`python -m tasks.smoke_test JOB RESULT` is that process: it has nothing of the one that trained or
evaluated, so what it finds is what the next user finds.
"""

import os
import subprocess
import sys
import threading
from pathlib import Path
from tempfile import TemporaryDirectory

from orpo_pipeline.adapter_files import WEIGHTS
from schemas.errors import ERRORS_BY_EXIT_CODE, EnvironmentFault, PipelineError, UserError
from schemas.jobs import Failed
from schemas.promotion import FixedPair, SmokeJob, SmokeTest
from schemas.tokens import TokenizedPair
from tasks.stage_process import child_environment
from tasks.tracking_models import ADAPTER, download_version, load_version, version_with_alias
from tasks.versions import require_whole

ANSWER_TOKENS = 16
TIMEOUT_SECONDS = 1800
"""Time to download an adapter, load its base model and answer once."""


def run_smoke_test(job: SmokeJob) -> SmokeTest:
    """Do it in a fresh process; raises what that process raised, with the reason in a sentence."""
    with TemporaryDirectory() as scratch:
        job_file, result = Path(scratch) / "job.json", Path(scratch) / "result.json"
        job_file.write_text(job.model_dump_json(), encoding="utf-8")
        command = [sys.executable, "-m", "tasks.smoke_test", str(job_file), str(result)]
        reader, lifeline = os.pipe()  # it ends when this process does, however that is
        try:
            finished = subprocess.run(
                command,
                stdin=reader,
                capture_output=True,
                text=True,
                env=child_environment(),
                timeout=TIMEOUT_SECONDS,
            )
        except subprocess.TimeoutExpired as error:
            raise _unusable(job, f"it has not answered in {TIMEOUT_SECONDS} s") from error
        finally:
            os.close(reader)
            os.close(lifeline)
        # One that crashes at its end, behind its result, has no exit code of ours either.
        known = {0, *ERRORS_BY_EXIT_CODE}
        if not result.is_file() or finished.returncode not in known:
            reason = finished.stderr.strip().rpartition("\n")[2].strip()
            raise _unusable(job, f"its process ended with {finished.returncode}, saying: {reason}")
        text = result.read_text(encoding="utf-8")
        if finished.returncode == 0:
            return SmokeTest.model_validate_json(text)
        failed = Failed.model_validate_json(text)
        raise ERRORS_BY_EXIT_CODE[failed.exit_code](failed.found, failed.expected, failed.fix)


def smoke_test(job: SmokeJob) -> SmokeTest:
    """Load by alias, compare the adapter's bytes and a pair's log-probs, and answer once.

    Raises UserError when the alias is another version's now; EnvironmentFault for everything that
    makes the version unusable here.
    """
    if job.alias is not None:
        holder = version_with_alias(job.tracking_uri, job.model_name, job.alias)
        if holder != job.version:
            raise UserError(
                f"The alias {job.alias} of {job.model_name} is version {holder}'s now, no longer "
                f"version {job.version}'s.",
                "an alias that stays while its version is promoted.",
                "Give the same command again.",
            )
    with TemporaryDirectory() as scratch:
        suffix = f"@{job.alias}" if job.alias is not None else f"/{job.version}"
        uri = f"models:/{job.model_name}{suffix}"
        folder = download_version(job.tracking_uri, uri, Path(scratch))
        weights = folder / ADAPTER / WEIGHTS
        require_whole(job.model_name, job.version, weights, job.adapter_sha256)
        model = load_version(folder)
        difference = largest_difference(model.unwrap_python_model().model, job.pair)
        if not difference <= job.pair.tolerance:  # NaN is not within it
            raise EnvironmentFault(
                f"Version {job.version} of {job.model_name}, loaded in a fresh process, gives "
                f"other log-probs than its evaluation: {difference:.3g} nats a token away.",
                f"at most {job.pair.tolerance:g}, on the weights it was trained on: "
                f"{job.base_model}.",
                "See that the base model there (or in ORPO_BASE_MODEL) is that one, unchanged. "
                "Nothing was promoted.",
            )
        messages = [{"messages": list(job.pair.prompt)}]
        answer = model.predict(messages, params={"max_new_tokens": ANSWER_TOKENS})[0]
    return SmokeTest(version=job.version, answer=str(answer), difference=difference)


def largest_difference(model: object, pair: FixedPair) -> float:
    """Nats per token between the pair's log-probs by this model and by the evaluation."""
    from orpo_pipeline.evaluation.scoring import score_pairs

    ids = TokenizedPair(pair.prompt_ids, pair.chosen_ids, pair.rejected_ids)
    (score,) = score_pairs(model, [ids], batch_size=1)
    return max(
        abs(score.chosen_logp - pair.chosen_logp) / len(pair.chosen_ids),
        abs(score.rejected_logp - pair.rejected_logp) / len(pair.rejected_ids),
    )


def _unusable(job: SmokeJob, because: str) -> EnvironmentFault:
    return EnvironmentFault(
        f"Version {job.version} of {job.model_name} cannot be used in a fresh process: {because}.",
        f"an adapter that loads on its base model ({job.base_model}) and answers.",
        "Mend what the message names: the tracking server, the artifact store, or the base model "
        "in its place (or in ORPO_BASE_MODEL). Nothing was promoted.",
    )


def main() -> int:
    """The fresh process: a SmokeTest, or the reason why there is none, goes into the result."""
    from orpo_pipeline.worker import watch_lifeline

    job_file, result = map(Path, sys.argv[1:])
    threading.Thread(target=watch_lifeline, daemon=True).start()
    job = SmokeJob.model_validate_json(job_file.read_text(encoding="utf-8"))
    try:
        text, code = smoke_test(job).model_dump_json(), 0
    except PipelineError as error:
        failed = Failed(
            exit_code=error.exit_code, found=error.found, expected=error.expected, fix=error.fix
        )
        text, code = failed.model_dump_json(), error.exit_code
    result.write_text(text, encoding="utf-8")
    return code


if __name__ == "__main__":
    sys.exit(main())
