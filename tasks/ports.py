"""Is a port free, and if not, who has it."""

import errno
import socket

import psutil

from schemas.errors import EnvironmentFault, UserError
from tasks.process_group import owner_of

HOST = "127.0.0.1"


def require_free(port: int, server: str, option: str, host: str = HOST) -> None:
    """Raise EnvironmentFault, naming the port and its owner, unless a server can listen on it.

    UserError for a number that is no port, and for a host that is not this machine.
    """
    if not 0 < port < 1 << 16:
        raise UserError(
            f"{option} {port} is no port.", "a number from 1 to 65535.", f"Correct {option}."
        )
    with socket.socket() as probe:
        # Without this, connections that closed a moment ago would count as "in use".
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno == errno.EADDRNOTAVAIL:
                raise UserError(
                    f"--host {host} is no address of this machine.",
                    "a name or an IPv4 address of this machine, or 0.0.0.0 for all of them.",
                    "Correct --host.",
                ) from None
            raise EnvironmentFault(
                f"Port {port} cannot be used for {server}: {error.strerror}; {_listener(port)}.",
                f"a free port on {host}.",
                f"Stop what uses it, or give another port with {option}.",
            ) from None


def _listener(port: int) -> str:
    """Who has the port, as far as this user may know."""
    try:
        for connection in psutil.net_connections("tcp"):
            address = connection.laddr
            if connection.status == psutil.CONN_LISTEN and address and address.port == port:
                return _describe(connection.pid)
    except psutil.Error:
        pass
    return "what has it could not be found out"


def _describe(pid: int | None) -> str:
    if pid is None:
        return "it belongs to another user's process"
    process = psutil.Process(pid)
    owner = owner_of(process)
    whose = f", of the `up` on {owner[1]}" if owner else ""
    return f"it belongs to process {pid} ({process.name()}{whose})"
