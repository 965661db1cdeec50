"""What the words of a command ask for: the ladder's settings, and what its runs have in common."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from firstlight.commands import train
from firstlight.compose.hydra_calls import is_about_hydra
from firstlight.config import check_config, take
from firstlight.data.files import user_path
from firstlight.errors import ConfigError
from firstlight.ladder.settings import LadderSettings, seeds_of
from firstlight.overrides import key_of
from firstlight.runs.run_config import RunConfig

DECIDED = {
    "trainer.max_steps": "ladder.budgets",
    "trainer.max_epochs": "ladder.budgets",
    "trainer.max_tokens": "ladder.budgets",
    "trainer.eval_every_n_steps": "it evaluates each run once, when it ends",
    "trainer.eval_first_step": "it evaluates each run once, when it ends",
    "optimizer.lr": "ladder.rates",
    "output_dir": "ladder.out",
    "resume": "the same command again resumes it",
}
"""Keys of its runs that a ladder decides, and by which of its own."""


@dataclass(frozen=True)
class Asked:
    """A ladder as a command asks for it."""

    own: list[str]
    """The overrides that all runs have, ready for Hydra's grammar."""
    of_hydra: list[str]
    settings: LadderSettings
    n_seeds: int
    run: RunConfig
    config_dir: str | None

    @property
    def folder(self) -> Path:
        return user_path(self.settings.out)


def asked(config: DictConfig, words: list[str], config_dir: str | None) -> Asked:
    """The ladder of a composed config, whose `words` are ready for Hydra's grammar.

    Raises:
        ConfigError: it is not valid, or a word sets what the ladder decides.
    """
    own, of_hydra = _own(words)
    run, settings, n_seeds = arguments(config)
    return Asked(own, of_hydra, settings, n_seeds, run, config_dir)


def arguments(config: DictConfig) -> tuple[RunConfig, LadderSettings, int]:
    """Check the composed config: a run's, the settings of the ladder, and how many seeds.

    Raises:
        ConfigError: it is not valid.
    """
    seeds: Any = take(config, "seeds")
    run, sections = train.arguments_with(config, {"ladder": LadderSettings})
    n_seeds = check_config(DictConfig({"seeds": seeds}), seeds_of)["seeds"]
    return run, LadderSettings(**sections["ladder"]), n_seeds


def _own(words: list[str]) -> tuple[list[str], list[str]]:
    """The words that are of the runs, and those that are about Hydra.

    Raises:
        ConfigError: one sets what the ladder decides.
    """
    own: list[str] = []
    of_hydra: list[str] = []
    for word in words:
        check_not_decided(word)
        key = key_of(word)
        if is_about_hydra(word):
            of_hydra.append(word)
        elif key != "seeds" and key.partition(".")[0] != "ladder":
            own.append(word)
    return own, of_hydra


def check_not_decided(word: str) -> None:
    """Refuse a word that sets what the ladder decides.

    Raises:
        ConfigError: it does.
    """
    key = key_of(word)
    if key in DECIDED:
        raise ConfigError(f"{key}: the ladder decides it ({DECIDED[key]}); leave it out")
