"""Addresses of MLflow's pages, for people who come from Prefect."""

from pathlib import Path

from tasks.servers_file import running_servers
from tasks.tracking_store import PASSWORD


def mlflow_address(tracking_uri: str, home: Path) -> str | None:
    """Where a browser finds MLflow: the tracking server, or that of `up`; None without one."""
    if tracking_uri.startswith("http"):
        return PASSWORD.sub("//", tracking_uri.rstrip("/"))
    servers = running_servers(home)
    return servers.mlflow_url if servers else None


def run_link(address: str | None, experiment_id: str, run_id: str) -> str:
    """Markdown: a link to the run's page, or its id alone where no server shows it."""
    page = f"#/experiments/{experiment_id}/runs/{run_id}"
    return f"[MLflow run {run_id}]({address}/{page})" if address else f"MLflow run `{run_id}`"


def version_link(address: str | None, model_name: str, version: str) -> str:
    """Markdown: a link to the version's page, or its name alone."""
    page = f"#/models/{model_name}/versions/{version}"
    text = f"{model_name} version {version}"
    return f"[{text}]({address}/{page})" if address else text
