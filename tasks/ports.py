"""Are ports of 127.0.0.1 free, and if not, who has them."""

import socket

import psutil

from schemas.errors import EnvironmentFault, UserError
from tasks.process_group import owner_of

HOST = "127.0.0.1"


def require_free(port: int, server: str, option: str) -> None:
    """Raise EnvironmentFault, naming the port and its owner, unless a server can listen on it."""
    with socket.socket() as probe:
        # Without this, connections that closed a moment ago would count as "in use".
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise EnvironmentFault(
                f"Port {port} cannot be used for {server}: {error.strerror}; {_listener(port)}.",
                f"a free port on {HOST}.",
                f"Stop what uses it, or give another port with {option}.",
            ) from None


def require_two(prefect_port: int, mlflow_port: int) -> None:
    """Raise UserError when both servers were given the same port."""
    if prefect_port == mlflow_port:
        raise UserError(
            f"Both servers were given port {prefect_port}.",
            "two different ports.",
            "Change --prefect-port or --mlflow-port.",
        )


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
