"""Links to MLflow's pages: the server that was named, the one that runs here, or none."""

from pathlib import Path

from tasks.home import mlflow_store
from tasks.links import mlflow_address, run_link, version_link
from tasks.servers_file import ProcessIdentity, ServersFile


def test_a_tracking_server_is_its_own_address_without_its_password(tmp_path: Path) -> None:
    address = mlflow_address("http://me:planted@127.0.0.1:5001/", tmp_path)
    assert address == "http://127.0.0.1:5001"


def test_a_local_store_is_shown_by_the_server_that_runs(tmp_path: Path) -> None:
    assert mlflow_address(mlflow_store(tmp_path), tmp_path) is None
    servers = ServersFile(
        supervisor=ProcessIdentity.of_this_process(),
        prefect_api="http://127.0.0.1:4200/api",
        mlflow_url="http://127.0.0.1:5000",
    )
    servers.write(tmp_path)
    assert mlflow_address(mlflow_store(tmp_path), tmp_path) == "http://127.0.0.1:5000"


def test_links() -> None:
    assert run_link("http://h", "1", "r") == "[MLflow run r](http://h/#/experiments/1/runs/r)"
    assert run_link(None, "1", "r") == "MLflow run `r`"
    assert version_link("http://h", "m", "2") == "[m version 2](http://h/#/models/m/versions/2)"
    assert version_link(None, "m", "2") == "m version 2"
