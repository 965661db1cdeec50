"""What a ladder keeps in its folder: what it is made of, and what it has predicted."""

import hashlib
import json
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError

from firstlight import __version__
from firstlight.config import FinitePositive
from firstlight.errors import ConfigError, RunError, one_line, reason_of, shorten
from firstlight.files import replace_text, temporary_of
from firstlight.ladder.asked import Asked
from firstlight.ladder.rungs import Rung
from firstlight.ladder.settings import Seeds
from firstlight.lock import files_of
from firstlight.runs.later_keys import lacking, without
from firstlight.runs.plain_yaml import dump_plain_yaml, read_plain_yaml
from firstlight.statistics.means import Interval
from firstlight.statistics.scaling import Ladder
from firstlight.sweep.plan import difference

RECORD, LOCK = "ladder.yaml", ".ladder.lock"


def check_same(asked: Asked) -> None:
    """Write what the ladder is made of into its folder, or check that it is what is there.

    Raises:
        ConfigError: the folder holds another ladder, or something else.
        RunError: it cannot be written.
    """
    file = asked.folder / RECORD
    now = {
        "version": __version__,
        "config": asked.run.stored | {"output_dir": "", "resume": None},
        "config_dir": asked.config_dir,
    }
    if not file.exists():
        # A process that was killed may have left the file that it was about to write.
        known = files_of(asked.folder / LOCK) | {temporary_of(file).name}
        if any(entry.name not in known for entry in asked.folder.iterdir()):
            raise ConfigError(
                f"ladder.out ({shorten(str(asked.folder))}) holds something else already; give"
                " another one"
            )
        _written(file, dump_plain_yaml(now))
        return
    try:
        was = read_plain_yaml(file)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{file}: cannot be read ({reason_of(error)})") from None
    is_record = isinstance(was, dict) and set(was) == set(now)
    if not is_record or not isinstance(was["config"], dict):
        raise ConfigError(f"{file}: not what firstlight writes")
    now["config"] = _as_then(now["config"], was["config"])
    for key in ("config", "config_dir"):
        if was[key] != now[key]:
            change = difference(key, was[key], now[key])
            raise ConfigError(
                f"ladder.out ({shorten(str(asked.folder))}) holds another ladder: {change}; give"
                " another one"
            )


def _as_then(config: dict[str, Any], was: dict[str, Any]) -> dict[str, Any]:
    """`config` without what the version that began the ladder did not know, where it means the
    same."""
    same: list[str] = []
    for key, value in lacking(was).items():
        section, _, name = key.partition(".")
        if (config[section][name] if name else config.get(section)) == value:
            same.append(key)
    return without(config, same)


@dataclass(frozen=True)
class Prediction:
    """What was said of a run before it was trained."""

    made: Annotated[str, Field(max_length=40)]
    """When, in UTC."""
    fingerprint: Annotated[str, Field(pattern="^[0-9a-f]{16}$")]
    """Of the losses that it was made from."""
    budget: FinitePositive
    size: str
    """As in `ladder.sizes`."""
    parameters: FinitePositive
    tokens: FinitePositive
    n_seeds: Seeds
    confidence: float
    loss: Interval
    best_parameters: Interval
    """Where the best size for the budget was expected."""


def predicted(rung: Rung, fit: Ladder, n_seeds: int) -> Prediction:
    """The prediction of a rung, from the fit of those below it."""
    return Prediction(
        made=datetime.now(UTC).isoformat(timespec="seconds"),
        fingerprint=fingerprint(fit),
        budget=rung.budget,
        size=rung.size.text,
        parameters=rung.size.parameters,
        tokens=rung.tokens,
        n_seeds=n_seeds,
        confidence=fit.confidence,
        loss=fit.predict(rung.size.parameters, rung.tokens, n_seeds),
        best_parameters=fit.best_parameters(rung.budget),
    )


def fingerprint(fit: Ladder) -> str:
    """A short hash of all losses that a fit was made from."""
    rungs: list[Any] = []
    for one in fit.rungs:
        rung = one.rung
        rungs.append([rung.compute, rung.parameters, rung.tokens, rung.rates, rung.losses])
    return hashlib.sha256(json.dumps(rungs).encode()).hexdigest()[:16]


def prediction_file(folder: Path, budget: float) -> Path:
    return folder / f"prediction-{budget:.6g}.json"


def read_prediction(folder: Path, budget: float) -> Prediction | None:
    """The prediction for a budget that was written down before; None if none was.

    Raises:
        ConfigError: the file is not what firstlight writes.
    """
    file = prediction_file(folder, budget)
    try:
        return TypeAdapter(Prediction).validate_json(file.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read ({reason_of(error)})") from None
    except ValidationError as error:
        raise ConfigError(f"{file}: not what firstlight writes ({one_line(error)})") from None


def write_prediction(folder: Path, prediction: Prediction) -> None:
    """Write a prediction down.

    Raises:
        RunError: it cannot be written.
    """
    text = json.dumps(asdict(prediction), indent=1) + "\n"
    _written(prediction_file(folder, prediction.budget), text)


def _written(file: Path, text: str) -> None:
    try:
        replace_text(file, text)
    except OSError as error:
        raise RunError(f"{file}: cannot be written: {reason_of(error)}") from None
