"""Weights & Biases: Lightning's logger; a resumed run stays the same run there."""

import secrets
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any, Literal

from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.loggers import WandbLogger as LightningWandbLogger
from matplotlib.figure import Figure

from firstlight.data.files import read_limited
from firstlight.files import replace_text
from firstlight.runs.run_folder import RunFolder
from firstlight.training.lightning import begin_again, leave_out_anonymous, writer_of
from firstlight.training.loggers.board import GIVEN_BY_FIT, require

RUN_ID = ".wandb_run"
"""File of the run folder: the id of its run at Weights & Biases."""

FOLDER = "wandb"
"""Where wandb writes, in the run folder."""


class WandbLogger(LightningWandbLogger):
    """Lightning's logger, with its files in `<run folder>/wandb`.

    Its group is the folder that holds the run folder: a sweep's trials are a group.

    `mode`: "offline" sends nothing; `wandb sync <run folder>/wandb/offline-run-*` does so later.
    The key of an account is never a setting: `wandb login` keeps it, or the environment
    (WANDB_API_KEY). `purge_step`: of a run that is resumed; what was logged before is not logged
    again, since it cannot be taken back.
    """

    not_in_config = GIVEN_BY_FIT

    def __init__(
        self,
        *,
        save_dir: str,
        purge_step: int | None = None,
        project: str = "firstlight",
        entity: str | None = None,
        mode: Literal["offline", "online"] = "offline",
        tags: list[str] | None = None,
    ) -> None:
        self.wandb = require("wandb")
        if mode == "online" and not self._has_key():
            raise ValueError(
                "mode=online needs an account's key: run wandb login first, or set WANDB_API_KEY"
            )
        folder = Path(save_dir).absolute()
        self.id_file = folder / RUN_ID
        has_begun = self.id_file.is_file()
        run_id = read_limited(self.id_file).decode().strip() if has_begun else secrets.token_hex(4)
        super().__init__(
            name=folder.name,
            group=folder.parent.name,
            save_dir=save_dir,
            project=project,
            entity=entity,
            mode=mode,
            tags=tags,
            id=run_id,
            settings=self.wandb.Settings(console="off", quiet=True),  # the terminal is the run's
        )
        leave_out_anonymous(self)
        self.logged_step = -1
        if purge_step is not None and has_begun:
            for row in RunFolder(folder).rows:
                self.logged_step = int(row["step"])
        self.failure: Exception | None = None

    def _has_key(self) -> bool:
        try:
            return self.wandb.login(prompt=False)
        except self.wandb.Error:
            # There is a key, but the server is out of reach or refuses it: reported when the run
            # begins.
            return True

    @property
    def experiment(self) -> Any:
        """wandb's run.

        One that cannot begin is tried once, not for each row: without a network a try may
        take minutes.
        """
        if self.failure is None:
            try:
                if writer_of(self) is None and super().experiment and rank_zero_only.rank == 0:  # type: ignore[attr-defined]
                    replace_text(self.id_file, f"{self.version}\n")
                return super().experiment
            except Exception as error:
                self.failure = error
        # Lightning asks with hasattr, where no failure of a logger is expected
        raise AttributeError(f"the run could not be begun: {self.failure}") from self.failure

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        if step is None or step > self.logged_step:
            super().log_metrics(metrics, step)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """End this process's part of the run: another run of this process is one of its own."""
        run = writer_of(self)
        if run is not None:
            run.finish(exit_code=0 if status == "success" else 1)
            begin_again(self)

    def show_text(self, tag: str, text: str, step: int) -> None:
        self._show(tag, self.wandb.Html(f"<pre>{escape(text)}</pre>", inject=False), step)

    def show_figure(self, tag: str, figure: Figure, step: int) -> None:
        self._show(tag, self.wandb.Image(figure), step)

    def _show(self, tag: str, shown: Any, step: int) -> None:
        if step > self.logged_step:
            self.experiment.log({tag: shown, "trainer/global_step": step})
