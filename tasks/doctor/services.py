"""Servers: those of `up`, and those that the environment or the configuration names."""

import os
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

from schemas.config import RegistryConfig
from schemas.errors import EnvironmentFault, UserError
from schemas.findings import Finding
from tasks.access.login import configured_login
from tasks.prefect_api import fetch
from tasks.servers_file import running_servers
from tasks.tracking_store import SCHEMES, tracking_uri, without_password

SECONDS = 5.0
START = "Start it (`orpo-pipeline up`)"


def check_servers(registry: RegistryConfig, home: Path) -> Iterator[Finding]:
    """What runs, whether it answers, and whether it is of the version that is installed here."""
    servers = running_servers(home)
    if servers is None:
        yield Finding.ok("up", "not running; runs from the command line need no server")
    elif servers.prefect_api is None or servers.mlflow_url is None:
        yield Finding.ok("up", f"process {servers.supervisor.pid} is starting its servers")
    else:
        yield Finding.ok("up", f"process {servers.supervisor.pid}")
    api = os.environ.get("PREFECT_API_URL") or (servers.prefect_api if servers else None)
    if api:
        fix = f"{START}, or `unset PREFECT_API_URL` to run without a server."
        yield _ask("prefect", api, f"{api.rstrip('/')}/admin/version", fix)
    if servers and servers.mlflow_url:
        fix = "See logs/mlflow.log in the state folder, and start `up` again."
        yield _ask("mlflow", servers.mlflow_url, f"{servers.mlflow_url}/version", fix)
    yield from _check_tracking(tracking_uri(registry, home))


def _check_tracking(uri: str) -> Iterator[Finding]:
    shown = without_password(uri)
    if not uri.startswith(SCHEMES):
        error = UserError(
            f"{shown} is no address that MLflow can record in.",
            f"one that starts with {', '.join(SCHEMES)}.",
            "Correct registry.tracking_uri or MLFLOW_TRACKING_URI, or unset both.",
        )
        yield Finding.of("tracking", error)
    elif uri.startswith("http"):
        fix = (
            "Start it, or unset MLFLOW_TRACKING_URI and registry.tracking_uri to record in the "
            "state folder."
        )
        yield _ask("mlflow", uri, f"{uri.rstrip('/')}/version", fix, what="tracking")
    else:
        yield Finding.ok("tracking", f"runs are recorded in {shown}")


def _login(package: str) -> str | None:
    """USER:PASSWORD as that package's own clients would give it here."""
    login = configured_login()
    own = login.client_environment() if login is not None else {}
    given = {**own, **os.environ}
    if package == "prefect":
        return given.get("PREFECT_API_AUTH_STRING")
    user, password = (given.get(f"MLFLOW_TRACKING_{name}") for name in ("USERNAME", "PASSWORD"))
    return f"{user}:{password}" if user and password else None


def _ask(package: str, address: str, url: str, fix: str, what: str = "") -> Finding:
    """Ask a server of a package for its version."""
    what, shown = what or f"{package} server", without_password(address)
    try:
        said = fetch(url, SECONDS, _login(package)).decode("utf-8", "replace").strip()
    except EnvironmentFault as error:
        reason = without_password(error.found)
        return Finding.error(what, f"{shown} does not answer: {reason}", fix)
    found = said.strip('"')  # Prefect's is JSON
    here = version(package)
    if found != here:
        return Finding.warning(
            what,
            f"{shown} answers, and is {package} {found[:40]}; {here} is installed here",
            "Restart the server from this environment, or install its version here.",
        )
    return Finding.ok(what, f"{shown} answers, {package} {found}")
