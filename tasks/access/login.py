"""`ORPO_AUTH`: the user and password that both servers ask for, and that our clients give."""

import os
from dataclasses import dataclass, field
from pathlib import Path

from schemas.errors import EnvironmentFault, UserError

LOGIN_VARIABLE, LOGIN_FILE_VARIABLE = "ORPO_AUTH", "ORPO_AUTH_FILE"
SHORTEST = 12
"""Characters of a password. Nothing slows down who guesses one over a network."""


@dataclass(frozen=True)
class Login:
    """One account, an administrator of both servers."""

    user: str
    password: str = field(repr=False)

    @property
    def text(self) -> str:
        """USER:PASSWORD, as HTTP's basic authentication has it."""
        return f"{self.user}:{self.password}"

    def client_environment(self) -> dict[str, str]:
        """`client_settings`, where the environment has no others."""
        return {
            name: os.environ.get(name) or value for name, value in self.client_settings().items()
        }

    def client_settings(self) -> dict[str, str]:
        """Of Prefect's and MLflow's clients, but for one with a token of its own."""
        settings = {}
        if "PREFECT_API_KEY" not in os.environ:
            settings["PREFECT_API_AUTH_STRING"] = self.text
        if "MLFLOW_TRACKING_TOKEN" not in os.environ:
            settings["MLFLOW_TRACKING_USERNAME"] = self.user
            settings["MLFLOW_TRACKING_PASSWORD"] = self.password
        return settings


def configured_login() -> Login | None:
    """The login of `ORPO_AUTH`, or in the file of `ORPO_AUTH_FILE`; None without either.

    Raises UserError for one that is too easy to guess or cannot be sent.
    """
    text = os.environ.get(LOGIN_VARIABLE) or _read_file(os.environ.get(LOGIN_FILE_VARIABLE))
    if not text:
        return None
    user, _, password = text.partition(":")
    usable = user and text.isascii() and text.isprintable() and " " not in text
    if usable and len(password) >= SHORTEST and user.lower() not in password.lower():
        return Login(user, password)
    raise UserError(
        f"The login in {LOGIN_VARIABLE} or {LOGIN_FILE_VARIABLE} cannot be used.",
        f"USER:PASSWORD in ASCII without spaces, the password of at least {SHORTEST} characters "
        "and without the user's name in it.",
        f'For example export {LOGIN_VARIABLE}="$USER:$(openssl rand -hex 16)".',
    )


def _read_file(name: str | None) -> str | None:
    if not name:
        return None
    try:
        return Path(name).read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        raise EnvironmentFault(
            f"The file of {LOGIN_FILE_VARIABLE} cannot be read: {error}.",
            "a file with USER:PASSWORD in one line.",
            f"Correct {LOGIN_FILE_VARIABLE}.",
        ) from error
