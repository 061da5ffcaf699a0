"""MLflow's login: its account settings, in the state folder and without the password."""

import os
import secrets
from importlib.util import find_spec
from pathlib import Path

from schemas.errors import UserError
from tasks.access.login import LOGIN_VARIABLE, Login, configured_login
from tasks.home import make_folder, mlflow_database

ACCOUNTS = """\
[mlflow]
default_permission = NO_PERMISSIONS
database_uri = sqlite:///{database}
authorization_function = mlflow.server.auth:authenticate_request_basic_auth
grant_default_workspace_access = false
# One server process checks every login, so a cached one is never out of date. Without it each
# request hashes the password anew, which is slow by intention.
auth_cache_ttl_seconds = 60
"""


def prepare_accounts(home: Path) -> None:
    """Write MLflow's account settings, readable by this user only, if there is a login.

    MLflow would keep the password of its first start for ever. So its accounts are made anew: the
    administrator of now, and nobody else.
    """
    if configured_login() is None:
        return
    if find_spec("flask_wtf") is None:
        raise UserError(
            f"{LOGIN_VARIABLE} is set, and what MLflow's login needs is not installed.",
            "the package Flask-WTF.",
            "`pip install 'orpo-pipeline[auth]'`.",
        )
    file = _accounts_file(home)
    make_folder(file.parent)
    database = file.with_suffix(".db")
    for old in (file, database, *file.parent.glob(f"{database.name}-*")):
        old.unlink(missing_ok=True)
    settings = ACCOUNTS.format(database=str(database).replace("%", "%%"))
    with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as output:
        output.write(settings)
    database.touch(0o600)


def login_environment(home: Path, login: Login) -> dict[str, str]:
    """Settings that make the servers of `up` ask for it. The password is in no file."""
    return {
        "PREFECT_SERVER_API_AUTH_STRING": login.text,
        "MLFLOW_AUTH_CONFIG_PATH": str(_accounts_file(home)),
        "MLFLOW_AUTH_ADMIN_USERNAME": login.user,
        "MLFLOW_AUTH_ADMIN_PASSWORD": login.password,
        "MLFLOW_FLASK_SERVER_SECRET_KEY": secrets.token_hex(32),
    }


def _accounts_file(home: Path) -> Path:
    return mlflow_database(home).with_name("accounts.ini")
