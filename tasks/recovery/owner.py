"""Which process works on something, written where it can be read when that process is gone."""

import socket

from pydantic import ValidationError

from tasks.servers_file import ProcessIdentity

OWNER_TAG = "orpo.process"
"""Tag of an MLflow run: the process that has it open."""


class Owner(ProcessIdentity):
    """A process of one machine."""

    host: str


def this_process() -> str:
    """The tag's value for this process."""
    identity = ProcessIdentity.of_this_process()
    owner = Owner(pid=identity.pid, started=identity.started, host=socket.gethostname())
    return owner.model_dump_json()


def is_gone(tag: str) -> bool:
    """Whether a tag's process has ended. One of another machine is taken to live."""
    try:
        owner = Owner.model_validate_json(tag)
    except ValidationError:
        return False
    return owner.host == socket.gethostname() and not owner.is_running()
