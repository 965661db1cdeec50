"""Is a text the one that a run was trained on? Every checkpoint keeps a fingerprint of it."""

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from firstlight.checkpoints.find import checkpoints_of
from firstlight.checkpoints.manifest import read_manifest
from firstlight.data.token_data import CUT_BY, TokenDataModule
from firstlight.errors import ConfigError, shorten
from firstlight.runs.places import MOVED, run_of
from firstlight.runs.run_folder import RunFolder

SHA256 = "sha256"
"""In a fingerprint: of the tokens."""


class OtherTextError(ConfigError):
    """The text that was found is not the one that a run was trained on."""


def check_same(text: TokenDataModule, known: dict[str, int | str], checkpoint: Path) -> None:
    """Refuse a text whose fingerprint is not `known`, that of the text of `checkpoint`.

    Raises:
        OtherTextError: it is a different one.
    """
    if known.get(SHA256) == text.fingerprint()[SHA256]:
        return
    earlier = " (earlier versions read them, too: list them in data.path)"
    left_out = f"; left out are {text.left_out}{earlier}" if text.left_out else ""
    raise OtherTextError(
        f"{text.setting()}: this is not the text that {checkpoint} was trained on (its sha256"
        f" differs){MOVED}{left_out}"
    )


def fingerprint_of(checkpoint: Path) -> dict[str, int | str] | None:
    """The fingerprint of the text of a checkpoint or a run; None if none is stored."""
    run = run_of(checkpoint)
    for folder in (checkpoint, *(reversed(checkpoints_of(run)) if run is not None else ())):
        # Not a checkpoint folder, or a damaged one: the run's others have the same fingerprint.
        with suppress(ConfigError):
            return read_manifest(folder).fingerprint
    return None


def check_text_of_sweep(
    text: TokenDataModule, config: dict[str, Any], others: Iterable[Path]
) -> None:
    """Refuse a text that has changed since one of `others`, of the same sweep, was trained.

    Raises:
        ConfigError: it has.
    """
    for run in others:
        try:
            theirs = RunFolder(run).config
        except ConfigError:
            # Its folder is being made, or is damaged, which is not this trial's mistake.
            continue
        if _tokens_by(theirs) != _tokens_by(config) or (known := fingerprint_of(run)) is None:
            continue
        if known.get(SHA256) != text.fingerprint()[SHA256]:
            raise ConfigError(
                f"{text.setting()}: the text has changed since {shorten(str(run))}, of the same"
                " sweep, was trained on it (its sha256 differs): put that text back, then"
                " firstlight sweep retry"
            )
        return


def _tokens_by(config: dict[str, Any]) -> tuple[Any, ...]:
    """All of a composed config that decides which tokens its text becomes."""
    # How tokens are cut may differ between trials, which have the same tokens nevertheless.
    data = {key: value for key, value in config["data"].items() if key not in CUT_BY}
    return data, config["tokenizer"], config.get("init_from")
