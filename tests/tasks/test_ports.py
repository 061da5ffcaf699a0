"""Whether a server can listen: ports that are taken or none, and hosts of other machines."""

import os
import socket

import pytest

from schemas.errors import EnvironmentFault, UserError
from tasks.ports import require_free


def test_a_taken_port_is_said_with_its_owner() -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        with pytest.raises(EnvironmentFault, match=f"Port {port} .* process {os.getpid()} "):
            require_free(port, "MLflow", "--mlflow-port")
    require_free(port, "MLflow", "--mlflow-port")


@pytest.mark.parametrize("port", [-1, 0, 65536])
def test_a_number_that_is_no_port_is_refused(port: int) -> None:
    with pytest.raises(UserError, match=f"--mlflow-port {port} is no port"):
        require_free(port, "MLflow", "--mlflow-port")


def test_the_address_of_another_machine_is_not_blamed_on_the_port() -> None:
    host = "192.0.2.1"  # reserved for documentation, so it is nobody's
    with pytest.raises(UserError, match=f"--host {host} is no address of this machine"):
        require_free(4200, "Prefect", "--prefect-port", host)
