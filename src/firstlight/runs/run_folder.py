"""What a run folder holds. Each file is read when it is asked for, and reading needs no torch."""

import csv
import io
import json
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from firstlight.data.files import CONFIG, ENVIRONMENT, leads_to, read_limited
from firstlight.errors import ConfigError, printable, reason_of
from firstlight.metrics.splits import is_final
from firstlight.runs.plain_yaml import read_plain_yaml
from firstlight.runs.samples_file import parse_samples

OVERRIDES = CONFIG.with_name("overrides.yaml")
EVENT_FILES = "events.out.tfevents.*"
"""TensorBoard's."""
METRICS = "metrics.csv"
SAMPLES = "samples.txt"
SPIKES = "spikes.jsonl"
"""Steps with a loss far above the others', if there were any."""
MODEL = "model.safetensors"
"""The model of a run, without optimizer state: the last file that it writes."""
EMA_MODEL = "ema.safetensors"
"""The average of the weights, if callbacks.ema keeps one."""
MAX_METRICS_BYTES = 2**28
"""A row has some 150 bytes, so this is more than a million steps."""
AUTO = "auto"
"""A value of `resume`: the same command starts the run in `output_dir` and, given again, resumes
it."""


@dataclass(frozen=True)
class RunFolder:
    """A run folder, which may not exist yet or may be damaged.

    `key` is the setting that names it, for messages.
    """

    path: Path
    key: str = "resume"

    @property
    def is_run(self) -> bool:
        """Whether a run has started here: a new folder's config is written last."""
        return (self.path / CONFIG).is_file()

    @property
    def why_no_run(self) -> str:
        """Why `is_run` is false, for a message."""
        if not leads_to(self.path):
            return "no such folder"
        return f"not a run folder, it has no {CONFIG}"

    @property
    def is_finished(self) -> bool:
        """Whether the run has taken all its steps, and has written its model."""
        return (self.path / MODEL).is_file()

    @property
    def config(self) -> dict[str, Any]:
        """The composed config.

        Raises:
            ConfigError: this is not a run folder, or its config is damaged.
        """
        where = f"{self.key} ({printable(str(self.path))})"
        try:
            config = read_plain_yaml(self.path / CONFIG)
        except FileNotFoundError:
            raise ConfigError(f"{where}: {self.why_no_run}") from None
        except (OSError, ValueError) as error:
            raise ConfigError(f"{where}: not a run folder ({CONFIG}: {reason_of(error)})") from None
        if not isinstance(config, dict):
            raise ConfigError(f"{where}: {CONFIG} is not a composed config")
        return config

    @property
    def overrides(self) -> list[str]:
        """The overrides of the commands that started and resumed the run; empty if unknown.

        Raises:
            ConfigError: the file is damaged.
        """
        return self._record(OVERRIDES, list, "a list of overrides")

    @property
    def environment(self) -> dict[str, Any]:
        """Versions, machine and git commit when the run started; empty if not recorded.

        Raises:
            ConfigError: the file is damaged.
        """
        return self._record(ENVIRONMENT, dict, "versions and settings by name")

    def _record(self, name: Path | str, kind: type[Any], expected: str) -> Any:
        file, reason = self.path / name, ""
        if not file.exists():
            return kind()
        try:
            content = read_plain_yaml(file)  # JSON is YAML, too
            if isinstance(content, kind):
                return content
        except (OSError, ValueError) as error:
            reason = f" ({reason_of(error)})"
        raise ConfigError(
            f"{file} is damaged{reason}: it should hold {expected}; restore it from a copy, or"
            " remove it: the run can be resumed without it"
        )

    @property
    def rows(self) -> list[dict[str, str]]:
        """The rows of `metrics.csv`, in order; empty without the file.

        A last row that was cut short is left out.

        Raises:
            ValueError: the file is not what firstlight writes.
            OSError: it cannot be read, or is larger than any that firstlight writes.
        """
        file = self.path / METRICS
        if not file.is_file():
            return []
        content = read_limited(file, MAX_METRICS_BYTES)
        # A kill can cut the last row short, even within a character.
        whole = content[: content.rfind(b"\n") + 1].decode("utf-8")
        # Not split at newlines: a quoted name may contain one.
        rows = csv.DictReader(io.StringIO(whole, newline=""))
        try:
            return [row for row in rows if None not in row and None not in row.values()]
        except csv.Error as error:
            raise ValueError(str(error)) from None

    @property
    def final_metrics(self) -> dict[str, float]:
        """What the test split was scored with at the end; empty if it was not.

        Raises:
            ValueError: the file is not what firstlight writes.
            OSError: it cannot be read.
        """
        rows = self.rows if self.is_finished else []
        last = rows[-1] if rows else {}
        return {name: float(text) for name, text in last.items() if is_final(name) and text}

    @property
    def spikes(self) -> list[dict[str, Any]]:
        """The lines of `spikes.jsonl`, in order; empty without the file.

        A line that was cut short, or is not what firstlight writes, is left out.

        Raises:
            OSError: the file cannot be read, or is larger than any that firstlight writes.
        """
        file = self.path / SPIKES
        if not file.is_file():
            return []
        found: list[dict[str, Any]] = []
        for line in read_limited(file, MAX_METRICS_BYTES).split(b"\n"):
            try:
                spike = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if isinstance(spike, dict) and isinstance(spike.get("step"), int):
                found.append(spike)
        return found

    def samples(self, steps: Collection[int]) -> dict[int, str]:
        """The samples by step; empty if there are none.

        `steps` are those after which the run was evaluated.

        Raises:
            OSError: the file cannot be read, or is larger than any that firstlight writes.
        """
        file = self.path / SAMPLES
        if not file.is_file():
            return {}
        # Decoded by hand: read_text would turn a carriage return, which a model may write, into a
        # newline.
        return parse_samples(read_limited(file).decode("utf-8", errors="replace"), steps)
