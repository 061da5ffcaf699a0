"""A process that promotes, and may be killed before its k-th write into the registry.

`python promoting.py JSON`: {"uri", "home", "from", "to", "stop_before"}. It prints the state of its
promotion, or the error's sentence with its exit code.
"""

import json
import os
import signal
import sys
import uuid
from pathlib import Path
from typing import Any

from schemas.config import RegistryConfig
from schemas.errors import PipelineError
from schemas.promotion import Promotion, PromotionKind, SmokeTest
from tasks.promotion import commit, repair, who_asks
from tasks.promotion_history import last_counted, now_utc
from tasks.tracking import Tracker
from tasks.tracking_models import registry

WRITES = (
    *("create_registered_model", "create_model_version", "set_model_version_tag"),
    *("set_registered_model_alias", "delete_registered_model_alias"),
)


class Killed:
    """Counts a client's writes and ends the process, as kill -9 does, before the k-th."""

    def __init__(self, client: Any, stop_before: int) -> None:
        self.client, self.left = client, stop_before

    def __getattr__(self, name: str) -> Any:
        if name in WRITES:
            self.left -= 1
            if self.left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
        return getattr(self.client, name)


def intended(tracker: Tracker, run_id: str, before: str | None, to: str) -> Promotion:
    """A promotion that has passed its smoke test, following the last one that is known."""
    last = last_counted(repair(tracker))
    made = a_promotion(follows=last.number if last else 0)
    fields = {
        "model_name": tracker.config.model_name,
        "run_id": run_id,
        "from_version": before,
        "to_version": to,
    }
    return made.model_copy(update=fields)


def a_promotion(follows: int) -> Promotion:
    return Promotion(
        id=uuid.uuid4().hex,
        follows=follows,
        model_name="tiny",
        kind=PromotionKind.GATE,
        from_version="1",
        to_version="2",
        who=who_asks(),
        when=now_utc(),
        because="better",
        decision=None,
        run_id="none",
        dataset_id=None,
        smoke_test=SmokeTest(version="2", answer="Hello", difference=0.0),
    )


def main() -> int:
    job = json.loads(sys.argv[1])
    config = RegistryConfig(tracking_uri=job["uri"], model_name=job["model"])
    try:
        with registry(config, Path(job["home"])) as tracker:
            promotion = intended(tracker, job["run_id"], job["from"], job["to"])
            print("ready", flush=True)
            sys.stdin.readline()
            tracker.client = Killed(tracker.client, job["stop_before"])  # type: ignore[assignment]
            print(commit(tracker, promotion).state.value)
    except PipelineError as error:
        print(error)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
