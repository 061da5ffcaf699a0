"""The few calls to a Prefect or MLflow server that `up` makes, over plain HTTP.

Importing either takes seconds and memory that a supervisor should not need.
"""

import json
import os
import time
import uuid
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from http import HTTPStatus
from http.client import HTTPException, InvalidURL
from typing import Any
from urllib import request
from urllib.error import HTTPError

from schemas.errors import EnvironmentFault
from tasks.access.login import LOGIN_FILE_VARIABLE, LOGIN_VARIABLE, configured_login

WORK_POOL = "local"
BUSY_WAIT_SECONDS = 0.5
DATA_ARRIVED, DATA_RESOURCE = "orpo.data.arrived", "orpo.data"

# A proxy set for the outside world must not be asked for 127.0.0.1.
_opener = request.build_opener(request.ProxyHandler({}))


def answers(url: str, timeout: float = 2) -> bool:
    """True when a GET is answered with 200 within `timeout` seconds."""
    try:
        with _opener.open(url, timeout=timeout) as response:
            return bool(response.status == 200)
    except (OSError, HTTPException, ValueError):
        # OSError covers URLError, HTTPError and time-outs; ValueError is of what is no URL.
        return False


def fetch(url: str, timeout: float, login: str | None = None) -> bytes:
    """What a GET is answered with; EnvironmentFault when it fails, with the reason alone.

    `login`: USER:PASSWORD of that server.
    """
    message = request.Request(url, headers=_basic(login))
    try:
        with _opener.open(message, timeout=timeout) as response:
            return bytes(response.read())
    except (OSError, HTTPException, ValueError) as error:
        raise EnvironmentFault(f"{error}", "an answer.", "Start the server.") from error


def call(api: str, method: str, path: str, body: Any = None, timeout: float = 60) -> Any:
    """One JSON call; EnvironmentFault when it fails."""
    message = request.Request(
        api + path,
        method=method,
        data=None if body is None else json.dumps(body).encode(),
        headers={"Content-Type": "application/json", **_login_header()},
    )
    try:
        content = _read(message, timeout)
    except HTTPError as error:
        raise _refused(message, error) from error
    except InvalidURL as error:  # whose words may hold a password
        raise EnvironmentFault(
            "The address of the Prefect or MLflow server cannot be used.",
            "http://HOST:PORT/api for Prefect, http://HOST:PORT for MLflow.",
            "Correct it; a login stands in a variable of its own (docs/security.md).",
        ) from error
    except (OSError, HTTPException) as error:
        raise EnvironmentFault(
            f"{_server(message)} failed to answer {method} {path}: {error}.",
            f"an answer within {timeout:.0f} s.",
            "Try again; if that fails too, see the server's log.",
        ) from error
    return json.loads(content) if content else None


def _login_header() -> dict[str, str]:
    """Of the Prefect server, if there is a login."""
    login = configured_login()
    return _basic(
        os.environ.get("PREFECT_API_AUTH_STRING") or (login.text if login is not None else None)
    )


def _basic(login: str | None) -> dict[str, str]:
    """HTTP's basic authentication."""
    return {"Authorization": f"Basic {b64encode(login.encode()).decode()}"} if login else {}


def _server(message: request.Request) -> str:
    """Its host and port, without what an address may hold before them."""
    return f"The server at {message.host.rpartition('@')[2]}"


def _refused(message: request.Request, error: HTTPError) -> EnvironmentFault:
    if error.code == HTTPStatus.UNAUTHORIZED:
        return EnvironmentFault(
            f"{_server(message)} asks for a login, and refused the one given."
            if _login_header()
            else f"{_server(message)} asks for a login, and none is set.",
            f"the USER:PASSWORD that `up` was started with, in {LOGIN_VARIABLE} or "
            f"{LOGIN_FILE_VARIABLE}, and no older one in PREFECT_API_AUTH_STRING.",
            "Set it in this terminal, too; unset PREFECT_API_AUTH_STRING.",
        )
    return EnvironmentFault(
        f"{_server(message)} failed to answer {message.method} {message.selector}: {error}.",
        "an answer of the class 2xx.",
        "Try again; if that fails too, see the server's log.",
    )


def require_access(api: str) -> None:
    """Raise EnvironmentFault when the server asks for a login that we do not have."""
    call(api, "GET", "/admin/version")


def _read(message: request.Request, timeout: float) -> bytes:
    """The answer's body. A server whose SQLite is locked says 503 and is asked again."""
    deadline = time.monotonic() + timeout
    while True:
        try:
            with _opener.open(message, timeout=timeout) as response:
                return bytes(response.read())
        except HTTPError as error:
            if error.code != HTTPStatus.SERVICE_UNAVAILABLE or time.monotonic() > deadline:
                raise
        time.sleep(BUSY_WAIT_SECONDS)


def ensure_work_pool(api: str) -> None:
    """Create the pool for one run at a time: two trainings would share one accelerator's memory.

    An existing pool is left alone, so a limit that somebody raised stays. Its job template is
    filled in by the first worker.
    """
    if call(api, "POST", "/work_pools/filter", {"work_pools": {"name": {"any_": [WORK_POOL]}}}):
        return
    pool = {"name": WORK_POOL, "type": "process", "concurrency_limit": 1}
    call(api, "POST", "/work_pools/", pool)


def worker_seen_since(api: str, worker: str, instant: datetime) -> bool:
    """True when `worker` has reported to the pool after `instant` (with time zone)."""
    beat = last_heartbeat(api, worker)
    return bool(beat and datetime.fromisoformat(beat) > instant)


def last_heartbeat(api: str, worker: str, timeout: float = 60) -> str | None:
    """When a worker of our pool has last reported to it, by the server's clock; None for never."""
    path = f"/work_pools/{WORK_POOL}/workers/filter"
    workers = call(api, "POST", path, {}, timeout)
    beats = [entry["last_heartbeat_time"] for entry in workers if entry["name"] == worker]
    return max(filter(None, beats), default=None)


def announce_data(api: str) -> None:
    """Emit the event that starts `orpo-retrain/orpo-retrain` (its trigger in prefect.yaml)."""
    event = {
        "id": str(uuid.uuid4()),
        "occurred": datetime.now(UTC).isoformat(),
        "event": DATA_ARRIVED,
        "resource": {"prefect.resource.id": DATA_RESOURCE},
    }
    call(api, "POST", "/events", [event])


def _schedules(api: str) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for deployment in call(api, "POST", "/deployments/filter", {}):
        for schedule in deployment["schedules"]:
            name = schedule.get("slug") or json.dumps(schedule["schedule"], sort_keys=True)
            yield deployment["id"], name, schedule


@contextmanager
def activity_kept(api: str) -> Iterator[None]:
    """Deploy inside: schedules stay as somebody has resumed or paused them, also where it fails."""
    before = read_activity(api)
    try:
        yield
    except BaseException:
        with suppress(EnvironmentFault):  # what failed first is what matters
            restore_activity(api, before)
        raise
    restore_activity(api, before)


def read_activity(api: str) -> dict[tuple[str, str], bool]:
    """Which schedules of which deployments are active now."""
    return {(deployment, name): entry["active"] for deployment, name, entry in _schedules(api)}


def restore_activity(api: str, before: dict[tuple[str, str], bool]) -> None:
    """Undo what deploying does to schedules that somebody has resumed or paused since."""
    for deployment, name, schedule in _schedules(api):
        active = before.get((deployment, name), schedule["active"])
        if active != schedule["active"]:
            path = f"/deployments/{deployment}/schedules/{schedule['id']}"
            call(api, "PATCH", path, {"active": active})
