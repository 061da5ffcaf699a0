"""The champion: has somebody the alias, and are its files whole?"""

import os
from pathlib import Path
from tempfile import TemporaryDirectory

from orpo_pipeline.adapter_files import check_lora
from orpo_pipeline.inference.loading import BASE_VARIABLE
from schemas.config import RegistryConfig
from schemas.errors import PipelineError
from schemas.findings import Finding
from tasks.home import mlflow_database, mlflow_store
from tasks.promotion import lost_champion
from tasks.promotion_history import read_history
from tasks.stores.database import MLFLOW, configured_database
from tasks.stores.postgresql import is_new
from tasks.tracking_models import registry
from tasks.tracking_store import tracking_uri
from tasks.version_tags import CHAMPION
from tasks.versions import fetch_version, find_aliases, find_version


def check_champion(config: RegistryConfig, home: Path) -> Finding:
    """Fetch its adapter as a run does, and look at every weight. Nothing is made or mended."""
    what, name = "champion", config.model_name
    try:
        if tracking_uri(config, home) == mlflow_store(home) and not _has_tables(home):
            return Finding.ok(what, f"{name} is not registered yet")
        with registry(config, home) as tracker, TemporaryDirectory() as scratch:
            aliases = find_aliases(tracker)
            if aliases is None:
                return Finding.ok(what, f"{name} is not registered yet")
            lost = lost_champion(tracker, read_history(tracker))
            if lost is not None:
                raise lost
            if CHAMPION not in aliases:
                return Finding.ok(what, f"no version of {name} has the alias yet")
            version = find_version(tracker, CHAMPION)
            folder, settings = fetch_version(tracker, version, Path(scratch))
            check_lora(folder, f"champion (version {version.number})")
    except PipelineError as error:
        return Finding.of(what, error)
    base = os.environ.get(BASE_VARIABLE) or settings.base_model
    found = f"{name} {version.label}: its adapter is whole"
    if settings.base_is_local and not Path(base).is_dir():
        return Finding.warning(
            what,
            f"{found}, but its base model {settings.base_name} is not at {base}",
            f"Set {BASE_VARIABLE} to a folder with these weights, to serve or promote it.",
        )
    return Finding.ok(what, f"{found}, its base model is {base}")


def _has_tables(home: Path) -> bool:
    """Whether the store is there. Opening it would make it."""
    database = configured_database()
    if database is None:
        return mlflow_database(home).is_file()
    return not is_new(database, MLFLOW)
