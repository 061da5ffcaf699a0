"""Where the servers of `up` listen, and by which names they are reached."""

import os
import re
import socket
from dataclasses import dataclass
from ipaddress import ip_address

import psutil

from schemas.errors import UserError
from tasks.access.login import LOGIN_FILE_VARIABLE, LOGIN_VARIABLE, configured_login
from tasks.ports import HOST

EVERYWHERE = "0.0.0.0"
ADDRESS = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?")


@dataclass(frozen=True)
class Listening:
    """A host (name or IPv4 address of this machine, 0.0.0.0 for all) and the two ports."""

    prefect_port: int = 4200
    mlflow_port: int = 5000
    host: str = HOST

    @property
    def reached_at(self) -> str:
        """The host that this machine's own clients ask."""
        return HOST if self.host == EVERYWHERE else self.host

    def page(self, port: int) -> str:
        """A server's address for people, who may sit elsewhere."""
        host = socket.gethostname() if self.host == EVERYWHERE else self.host
        return f"http://{host}:{port}"

    @property
    def prefect_api(self) -> str:
        """What PREFECT_API_URL must be on this machine."""
        return f"http://{self.reached_at}:{self.prefect_port}/api"

    @property
    def mlflow_url(self) -> str:
        return f"http://{self.reached_at}:{self.mlflow_port}"

    def environment(self) -> dict[str, str]:
        """Settings of the servers; what the user has set already wins where names are listed."""
        settings = {
            "PREFECT_SERVER_API_HOST": self.host,
            "PREFECT_SERVER_API_PORT": str(self.prefect_port),
        }
        if _is_local(self.host):
            return settings
        names = self._names()
        # A browser may come by any of the names: its page must ask where it came from.
        named = {
            "PREFECT_SERVER_UI_API_URL": "/api",
            "MLFLOW_SERVER_ALLOWED_HOSTS": ",".join(f"{n}:{self.mlflow_port}" for n in names),
            "MLFLOW_SERVER_CORS_ALLOWED_ORIGINS": ",".join(
                f"http://{n}:{self.mlflow_port}" for n in names
            ),
        }
        return settings | {name: os.environ.get(name, value) for name, value in named.items()}

    def _names(self) -> list[str]:
        if self.host != EVERYWHERE:
            return [self.host]
        own = [
            address.address
            for addresses in psutil.net_if_addrs().values()
            for address in addresses
            if address.family == socket.AF_INET
        ]
        return sorted({"localhost", HOST, socket.gethostname(), socket.getfqdn(), *own})

    def require_safe(self) -> None:
        """Raise UserError for equal ports, no host, or one that others reach without a login."""
        if self.prefect_port == self.mlflow_port:
            raise UserError(
                f"Both servers were given port {self.prefect_port}.",
                "two different ports.",
                "Change --prefect-port or --mlflow-port.",
            )
        if not _is_local(self.host) and configured_login() is None:
            raise UserError(
                f"--host {self.host} lets other machines in, and the servers would ask nobody who "
                "he is: whoever reaches them can run code here.",
                f"a login in {LOGIN_VARIABLE} or {LOGIN_FILE_VARIABLE}.",
                f'For example export {LOGIN_VARIABLE}="$USER:$(openssl rand -hex 16)"; or leave '
                "out --host and use a tunnel (docs/security.md).",
            )


def _is_local(host: str) -> bool:
    """Whether only this machine reaches it. Raises UserError when it is no IPv4 host."""
    try:
        if not ADDRESS.fullmatch(host):
            raise ValueError("no name and no IPv4 address")
        found = {entry[4][0] for entry in socket.getaddrinfo(host, None, socket.AF_INET)}
    except (OSError, ValueError) as error:
        raise UserError(
            f"--host {host!r} cannot be used: {error}.",
            "a name or an IPv4 address of this machine, or 0.0.0.0 for all of them.",
            "Correct --host.",
        ) from None
    return all(ip_address(address).is_loopback for address in found)
