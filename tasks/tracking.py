"""MLflow: one run per logical training, found again by its adapter id, and the model registry.

Run ids are passed explicitly (MLflow's active run is thread-local), and everything can be done
twice without doubling anything.
"""

import logging
import shutil
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

from schemas.config import RegistryConfig, RunConfig
from schemas.errors import UserError
from schemas.plan import TrainingPlan
from schemas.results import PreparedData
from tasks.home import mlflow_store
from tasks.recovery.owner import OWNER_TAG, this_process
from tasks.run_description import config_yaml, parameters, tags
from tasks.stores.artifacts import artifact_location
from tasks.tracking_points import Points
from tasks.tracking_signature import chat_signature
from tasks.tracking_store import (
    require_tracking,
    store_errors,
    store_faults,
    tracking_uri,
    without_password,
)

ADAPTER_TAG = "orpo.adapter_id"
RECORDED_TAG = "orpo.recorded"
"""Set when everything of a run has been logged."""

FAILURE_TAG = "orpo.failure"
"""Why a run is FAILED: the error's own sentences, until the run is opened again."""
FAILURE_LENGTH = 2000

LOSS = "train/loss"

CONFIG = "config.yaml"
"""The whole configuration's place among a run's artifacts."""

log = logging.getLogger(__name__)


@contextmanager
def recorded_run(
    config: RegistryConfig, home: Path, adapter_id: str
) -> Iterator[tuple["Tracker", str]]:
    """The open MLflow run of a logical training: FAILED, or KILLED, when the block raises.

    What MLflow itself raises becomes EnvironmentFault.
    """
    with store_faults(tracking_uri(config, home)):
        tracker = Tracker(config, home)
        run_id = tracker.open_run(adapter_id)
        with tracker.failure_recorded(run_id):
            yield tracker, run_id


class Tracker:
    """The MLflow store of one run configuration."""

    def __init__(self, config: RegistryConfig, home: Path) -> None:
        from mlflow import MlflowClient

        self.config = config
        self.home = home
        self.uri = tracking_uri(config, home)
        require_tracking(config, home)
        self.client = MlflowClient(tracking_uri=self.uri, registry_uri=self.uri)
        self.points = Points(self.client)

    def experiment_id(self) -> str:
        """The experiment, made when it is not there."""
        from mlflow.exceptions import MlflowException

        name = self.config.experiment
        found = self.client.get_experiment_by_name(name)
        if found is not None and found.lifecycle_stage == "deleted":
            raise UserError(
                f"The MLflow experiment {name!r} is deleted.",
                "an experiment that is not in MLflow's trash.",
                f"`mlflow experiments restore -x {found.experiment_id}`, or name another one in "
                "registry.experiment.",
            )
        if found is not None:
            return str(found.experiment_id)
        embedded = self.uri == mlflow_store(self.home)
        location = artifact_location(self.home) if embedded else None
        try:
            return str(self.client.create_experiment(name, artifact_location=location))
        except MlflowException:  # another process made it in between
            found = self.client.get_experiment_by_name(name)
            if found is None:
                raise
            return str(found.experiment_id)

    def find_run(self, adapter_id: str) -> str | None:
        """Id of the run of a logical training, or None."""
        runs = self.client.search_runs(
            [self.experiment_id()],
            f"tags.`{ADAPTER_TAG}` = '{adapter_id}'",
            order_by=["attributes.start_time ASC"],
            max_results=1,
        )
        return str(runs[0].info.run_id) if runs else None

    def open_run(self, adapter_id: str) -> str:
        """The run of a logical training: found and reopened, or made."""
        run_id, owner = self.find_run(adapter_id), this_process()
        if run_id is None:
            self.points.last_step = 0
            tags = {ADAPTER_TAG: adapter_id, OWNER_TAG: owner}
            run = self.client.create_run(self.experiment_id(), tags=tags, run_name=adapter_id[:8])
            return str(run.info.run_id)
        found = self.client.get_run(run_id)
        if found.info.status != "FINISHED":  # that one keeps its end time
            self.client.set_tag(run_id, OWNER_TAG, owner)  # first: `up` closes those of dead ones
            self.client.update_run(run_id, status="RUNNING")
        if FAILURE_TAG in found.data.tags:
            self.client.delete_tag(run_id, FAILURE_TAG)
        history = self.client.get_metric_history(run_id, LOSS)
        self.points.last_step = max((metric.step for metric in history), default=0)
        return run_id

    def describe_run(
        self, run_id: str, config: RunConfig, prepared: PreparedData, plan: TrainingPlan
    ) -> None:
        """Name, parameters, tags and configuration: what went in and what was decided."""
        from mlflow.entities import Param, RunTag
        from mlflow.utils.git_utils import get_git_commit

        commit = get_git_commit(__file__)
        recorded = self.client.get_run(run_id).data.params
        shown = parameters(config, prepared, plan)
        self.client.log_batch(
            run_id,
            params=[Param(key, value) for key, value in shown.items() if key not in recorded],
            tags=[RunTag(key, value) for key, value in tags(prepared, commit).items()],
        )
        self.client.log_text(run_id, config_yaml(config), CONFIG)

    @contextmanager
    def system_metrics(self, run_id: str) -> Iterator[None]:
        """Log `system/*` while the block runs: load of this whole machine, its GPUs included."""
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        monitor = SystemMetricsMonitor(run_id, resume_logging=True, tracking_uri=self.uri)
        monitor.start()
        try:
            yield
        finally:
            monitor.finish()

    @contextmanager
    def failure_recorded(self, run_id: str) -> Iterator[None]:
        """Mark the run FAILED, or KILLED when it was cancelled, if the block raises."""
        try:
            yield
        except BaseException as error:
            failed = isinstance(error, Exception)
            self.close_run(run_id, "FAILED" if failed else "KILLED", str(error) if failed else "")
            raise

    def close_run(self, run_id: str, status: str, because: str = "") -> None:
        """Record FAILED or KILLED. The first error matters: one of MLflow's here is only logged."""
        try:
            if because:
                self.client.set_tag(run_id, FAILURE_TAG, without_password(because)[:FAILURE_LENGTH])
            if self.client.get_run(run_id).info.status != "FINISHED":  # that training stays so
                self.client.set_terminated(run_id, status)
        except store_errors() as error:
            log.warning("MLflow did not record that run %s is %s: %s", run_id, status, error)

    def note(self, run_id: str, tag: str, text: str) -> None:
        """Set a tag that training does not wait for: an error of MLflow's is only logged."""
        try:
            self.client.set_tag(run_id, tag, text)
        except store_errors() as error:
            log.warning("MLflow did not take the tag %s of run %s: %s", tag, run_id, error)

    def log_dataset(self, run_id: str, digest: str) -> None:
        """Link the run to its data set by our digest (MLflow's misses flipped labels)."""
        from mlflow.data.code_dataset_source import CodeDatasetSource
        from mlflow.data.meta_dataset import MetaDataset
        from mlflow.entities import DatasetInput

        dataset = MetaDataset(CodeDatasetSource({}), name="preference pairs", digest=digest)
        self.client.log_inputs(run_id, [DatasetInput(dataset._to_mlflow_entity())])

    def ensure_model(self, name: str) -> None:
        """Make the registered model when it is not there."""
        from mlflow.exceptions import MlflowException

        try:
            self.client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise

    def log_model(
        self,
        run_id: str,
        adapter_files: dict[str, Path],
        texts: dict[str, str],
        packages: Sequence[str],
    ) -> tuple[str, str]:
        """Log adapter, tokenizer and the code that loads them; returns the model's URI and id.

        `texts` are further files beside the adapter, by name.

        `mlflow.transformers` is not used: it corrupts a PEFT model on a local base silently.
        """
        import mlflow

        mlflow.set_tracking_uri(self.uri)
        mlflow.set_registry_uri(self.uri)
        requirements = [f"mlflow=={version('mlflow')}"]
        requirements += [f"{name}=={version(name).split('+')[0]}" for name in packages]
        with (
            TemporaryDirectory() as scratch,
            # It asks for type hints, which would drop the params, and past every filter.
            warnings.catch_warnings(record=True),
            mlflow.start_run(run_id=run_id),
        ):
            adapter = Path(scratch) / "adapter"
            adapter.mkdir()
            for name, path in adapter_files.items():
                if path.is_file():
                    shutil.copy2(path, adapter / name)
            for name, text in texts.items():
                (adapter / name).write_text(text, encoding="utf-8")
            info = mlflow.pyfunc.log_model(
                name="adapter",
                python_model=str(Path(__file__).with_name("chat_model.py")),
                artifacts={"adapter": str(adapter)},
                signature=chat_signature(),
                pip_requirements=requirements,
            )
        return str(info.model_uri), str(info.model_id)

    def download_adapter(self, version: str, folder: Path) -> Path:
        """The adapter of a version of the registered model, copied below `folder`."""
        import mlflow

        mlflow.set_tracking_uri(self.uri)
        mlflow.set_registry_uri(self.uri)
        uri = f"models:/{self.config.model_name}/{version}/artifacts/adapter"
        return Path(mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=str(folder)))

    def finish_run(self, run_id: str) -> None:
        """Mark the run FINISHED, once: its end time is the training's, not of a later look."""
        if self.client.get_run(run_id).info.status != "FINISHED":
            self.client.set_terminated(run_id, "FINISHED")
