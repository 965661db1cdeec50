"""What measures a checkpoint: its text, cut as in training, and a trainer that evaluates."""

from contextlib import suppress
from typing import Any

import lightning.pytorch as pl
from lightning.fabric.utilities.exceptions import MisconfigurationException

from firstlight.checkpoints.checkpoint import Checkpoint
from firstlight.config import blame, build, check_node
from firstlight.data.files import MissingFileError
from firstlight.data.order import SeededOrder
from firstlight.data.token_data import TokenDataModule
from firstlight.errors import ConfigError, one_line
from firstlight.interpolation import as_values, from_environment, given_again
from firstlight.model.base import LanguageModel
from firstlight.runs.places import MOVED, data_with_files, is_there, run_of
from firstlight.runs.run_folder import RunFolder
from firstlight.training.cluster import OwnProcesses
from firstlight.training.same_text import OtherTextError, check_same, fingerprint_of
from firstlight.training.trainer import quiet, refusal


def text_of(
    loaded: Checkpoint, model: LanguageModel, split: str, data: dict[str, Any] | None = None
) -> TokenDataModule:
    """The text to measure `model` on, in windows.

    It is that of the section `data`, or for None that of its training; the split "all" is
    uncut.

    A section without a `_target_` says where its own text is now. Its own text is checked to be the
    same.

    Raises:
        OtherTextError: its own text has changed.
        ConfigError: it is not available, has no such split, or its windows are too long.
    """
    given = data or {}
    is_own = "_target_" not in given
    section = own_data(loaded) | given if is_own else given
    # Only if the section has none: a run may have trained on shorter windows than its model takes.
    section = {"context_length": model.context_length, **section}
    check_node("data", section, TokenDataModule)

    def cut(stage: str | None) -> TokenDataModule:
        text: TokenDataModule = build(section, "data")(
            tokenizer=loaded.build_tokenizer(), order=SeededOrder(seed=0)
        )
        text.setup(stage)
        return text

    try:
        text = cut("all" if split == "all" else None)
        if is_own:
            known = fingerprint_of(loaded.path)
            if known is None:
                text.notes.append(
                    f"whether this is the text that {loaded.path} was trained on is not known"
                )
            else:
                check_same(cut(None) if split == "all" else text, known, loaded.path)
        if split not in text.windows:
            raise ValueError(
                "the text has no test split: train with data.test_ratio=0.1, or give it with"
                " data=..."
            )
        if text.context_length > model.context_length:
            raise ValueError(
                f"context_length must not be above the model's ({model.context_length})"
            )
    except MissingFileError as error:
        raise ConfigError(f"data: {error}{MOVED if data is None else ''}") from error
    except OtherTextError:
        raise
    except (ValueError, TypeError, OSError) as error:
        raise blame("data", error) from error
    return text


def own_data(loaded: Checkpoint) -> dict[str, Any]:
    """The data section of the config it was trained with, with its files where they are now."""
    section = loaded.config.get("data")
    if not isinstance(section, dict):
        raise ConfigError(
            f"checkpoint ({loaded.path}) does not say what it was trained on; choose one with"
            " data=..."
        )
    for key, text in from_environment(section, "data."):
        raise ConfigError(
            f"{key}: came from the environment ({text}) when {loaded.path} was trained; choose the"
            f" text with data=..., e.g. data=text {given_again('data.path', text)}"
        )
    run = run_of(loaded.path)
    if run is None:
        return as_values(section)
    newer: Any = None
    with suppress(ConfigError):  # damaged: the checkpoint has its own
        newer = RunFolder(run).config.get("data")
    # The config of the run is newer than its checkpoints: since then it may have been resumed with
    # data.path=...
    told = data_with_files(as_values(newer), run) if isinstance(newer, dict) else {}
    paths = {
        key: value
        for key, value in told.items()
        if isinstance(section.get(key), str | list) and key[0] != "_"
    }
    found = data_with_files(as_values(section), run)
    return found | {key: value for key, value in paths.items() if is_there(value)}


def evaluation_trainer(accelerator: str, precision: str) -> pl.Trainer:
    """One device, and nothing but an evaluation on it.

    Raises:
        ConfigError: the device is not available, or does not support the precision.
    """
    quiet()
    if precision == "int8":
        if accelerator not in ("auto", "cpu"):
            raise ConfigError(
                f"precision=int8 is for the CPU, not {accelerator}: give accelerator=cpu"
            )
        accelerator, precision = "cpu", "32-true"
    try:
        # Lightning's own: ours wants a length and a run folder.
        return pl.Trainer(
            accelerator=accelerator,
            precision=precision,  # type: ignore[arg-type]
            devices=1,
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=False,
            plugins=[OwnProcesses()],
        )
    except (ValueError, RuntimeError, MisconfigurationException, ImportError) as error:
        words = refusal(error, "accelerator") or one_line(error)
        raise ConfigError(
            f"accelerator ({accelerator}), precision ({precision}): {words}"
        ) from error
