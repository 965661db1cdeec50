"""MLflow: metrics, settings, samples and figures; a resumed run stays the same run there.

Lightning's own logger makes the database when it is constructed, before the run is known to be one.
"""

import logging
import time
from argparse import Namespace
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.loggers.logger import Logger
from matplotlib.figure import Figure

from firstlight.data.files import read_limited, user_path
from firstlight.files import locked, replace_text
from firstlight.runs.flat_config import hyperparameters
from firstlight.training.loggers.board import GIVEN_BY_FIT, require

RUN_ID = ".mlflow_run"
"""File of the run folder: the id of its run in MLflow."""
SQLITE = "sqlite:///"
STATUS = {"success": "FINISHED", "failed": "FAILED"}
MOST_PARAMS = 100
"""That MLflow takes at once."""


class MLFlowLogger(Logger):
    """Logs to `tracking_uri`, a database (sqlite:///FILE) or a server, in `experiment_name`.

    Texts and figures lie below `artifacts`, a folder, or where the server says if it is None.
    `purge_step`: of a run that is resumed; what was logged before is not logged again, since it
    cannot be taken back.

    Raises:
        ValueError: the package is not installed, or `tracking_uri` is a folder.
    """

    not_in_config = GIVEN_BY_FIT

    def __init__(
        self,
        *,
        save_dir: str,
        purge_step: int | None = None,
        tracking_uri: str = "sqlite:///outputs/mlflow.db",
        experiment_name: str = "firstlight",
        artifacts: str | None = None,
    ) -> None:
        super().__init__()
        if "://" not in tracking_uri or tracking_uri.startswith("file:"):
            raise ValueError(
                f"tracking_uri ({tracking_uri}) must be a database or a server, MLflow refuses to"
                f" log into folders; give {SQLITE}outputs/mlflow.db, for example"
            )
        self.mlflow = require("mlflow")
        # Nothing is made here: the constructor is called once before the run is known to be sound
        # (plan.py).
        self.folder = Path(save_dir).absolute()
        self.tracking_uri, self.experiment_name, self.artifacts = (
            tracking_uri,
            experiment_name,
            artifacts,
        )
        self.run_id, self.logged_step = "", -1
        self._client: Any = None
        self.failure: Exception | None = None

    @property
    def name(self) -> str:
        return self.experiment_name

    @property
    def version(self) -> str:
        return self.run_id

    @property
    def client(self) -> Any:
        """MLflow's client, once the run has begun.

        A run that cannot begin is tried once, not for each row: a try may take minutes.
        """
        if self.failure is not None:
            raise RuntimeError(f"the run could not be begun: {self.failure}")
        if self._client is None:
            try:
                self._client = self._connect()
            except Exception as error:
                self.failure = error
                raise
        return self._client

    def _connect(self) -> Any:
        for package in ("mlflow", "alembic"):
            # They report each table that they make.
            logging.getLogger(package).setLevel(logging.WARNING)
        lock = nullcontext()
        if self.tracking_uri.startswith(SQLITE):
            database = Path(self.tracking_uri.removeprefix(SQLITE))
            database.parent.mkdir(parents=True, exist_ok=True)
            # The first trial of a sweep makes the tables; the others wait.
            lock = locked(Path(f"{database}.lock"), timeout=-1)
        with lock:
            client = self.mlflow.MlflowClient(self.tracking_uri)
            self._begin(client)
        return client

    def _begin(self, client: Any) -> None:
        file = self.folder / RUN_ID
        if file.is_file():
            self.run_id = read_limited(file).decode().strip()
            client.update_run(self.run_id, status="RUNNING")
            self.logged_step = max(
                (m.step for m in client.get_metric_history(self.run_id, "tokens")), default=-1
            )
            return
        if experiment := client.get_experiment_by_name(self.experiment_name):
            experiment_id = experiment.experiment_id
        else:
            place = user_path(self.artifacts).absolute().as_uri() if self.artifacts else None
            experiment_id = client.create_experiment(self.experiment_name, artifact_location=place)
        name = f"{self.folder.parent.name}/{self.folder.name}"
        self.run_id = client.create_run(
            experiment_id, run_name=name, tags={"folder": str(self.folder)}
        ).info.run_id
        # Only after the run exists there: an id without a run could never be resumed.
        replace_text(file, f"{self.run_id}\n")

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        client = self.client
        if step is None or step > self.logged_step:
            # MLflow wants milliseconds. One batch for a row is one request to the server.
            now, metric = int(1000 * time.time()), self.mlflow.entities.Metric
            client.log_batch(
                self.run_id, [metric(k, float(v), now, step or 0) for k, v in metrics.items()]
            )

    @rank_zero_only
    def log_hyperparams(
        self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any
    ) -> None:
        """The composed config, flat."""
        config = params if isinstance(params, dict) else vars(params)
        values = [
            self.mlflow.entities.Param(key, str(value))
            for key, value in hyperparameters(config).items()
        ]
        for first in range(0, len(values), MOST_PARAMS):
            self.client.log_batch(self.run_id, params=values[first : first + MOST_PARAMS])

    @rank_zero_only
    def finalize(self, status: str) -> None:
        if self.run_id:
            self.client.set_terminated(self.run_id, STATUS.get(status, "KILLED"))

    def show_text(self, tag: str, text: str, step: int) -> None:
        self.client.log_text(self.run_id, text, f"{tag}/step_{step}.txt")

    def show_figure(self, tag: str, figure: Figure, step: int) -> None:
        self.client.log_figure(self.run_id, figure, f"{tag}/step_{step}.png")
