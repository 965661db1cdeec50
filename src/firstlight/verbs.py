"""Run a verb: options and overrides, help, the composed config, and then the verb's `main`.

Nothing here imports torch, so that help and mistakes are answered at once.
"""

import importlib
from argparse import Namespace
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import hydra
from omegaconf import DictConfig, OmegaConf, open_dict

from firstlight import output, processes
from firstlight.compose.arguments import parse_arguments
from firstlight.compose.chosen import chosen_in
from firstlight.compose.compose import check_single_values, check_trials, compose_config, to_yaml
from firstlight.compose.explain import explained
from firstlight.compose.hydra_calls import command_line, is_about_hydra, settings_of_hydra
from firstlight.compose.mistakes import Mistaken, all_mistakes, values_among
from firstlight.conf_files import conf_dir, using_config_dir
from firstlight.errors import ConfigError, FinishedError, printable_lines
from firstlight.launchers import find_place, several_tasks, torchrun_processes
from firstlight.overrides import command as to_paste

OF_PROCESSES = {"trainer.devices": 1, "trainer.num_nodes": 1, "trainer.timeout": 120}
"""Keys that must be known before the processes of a run meet, with the defaults of `Trainer`."""
PACKAGES = (
    "prepare",
    "verify",
    "sweep",
    "compare",
    "bench",
    "new",
    "plan",
    "lr-find",
    "coord-check",
    "ladder",
    "board",
)
"""Verbs that are packages of their own; the others are modules of `commands`."""


def run(verb: str, purpose: str, words: list[str]) -> None:
    """Run `firstlight VERB WORDS`; `purpose` describes the verb in its help.

    Raises:
        ConfigError: a mistake in the words.
        RunError: the run failed.
    """
    from firstlight.runs.environment import check_working_folder

    check_working_folder("cd")
    try:
        args = parse_arguments(verb, words)
    except Mistaken as error:
        raise all_told(verb, error) from None
    n_processes = torchrun_processes()
    if n_processes > 1 and (verb != "train" or args.multirun):
        raise ConfigError(
            f"torchrun has started {n_processes} processes, and {verb}"
            f"{' -m' if args.multirun else ''} is one command; start it without torchrun"
        )
    if args.multirun and verb != "train":
        raise ConfigError(f"{verb}: -m is for train only; call {verb} once for each value")
    with using_config_dir(args.config_dir):
        if args.help is not None:
            from firstlight.compose.help import help_page
            from firstlight.help_page import show

            show(help_page(verb, purpose, args.overrides, args.config_dir, args.help))
        elif args.info or args.cfg in ("hydra", "all"):
            _let_hydra_show(verb, args)
        elif verb == "train":
            _train(args)
        elif args.cfg:
            _show(composed_config(verb, args.overrides, args.config_dir), args)
        elif verb == "sweep":
            sweep(args.overrides, args.config_dir, args.added)
        elif verb == "ladder":
            asked = asked_of_ladder(args.overrides, args.config_dir)
            again = to_paste("ladder", *args.overrides, config_dir=args.config_dir)
            command("ladder").main(asked, again)
        else:
            with settings_of_hydra(
                composed_config(verb, args.overrides, args.config_dir)
            ) as config:
                command(verb).main(config)


def command(verb: str) -> ModuleType:
    """Import the module of a verb, with its `main`; late, as most of them need torch."""
    if verb in PACKAGES:
        return importlib.import_module(f"firstlight.{verb.replace('-', '_')}.command")
    return importlib.import_module(f"firstlight.commands.{verb}")


def composed_config(verb: str, overrides: list[str], config_dir: str | None) -> DictConfig:
    """Compose the config of a command that is not a sweep, with Hydra's own section.

    Raises:
        ConfigError: `overrides` cannot be composed, or some have several values.
    """
    with _telling_all(verb, config_dir):
        return _composed(verb, overrides, config_dir)


def _composed(verb: str, overrides: list[str], config_dir: str | None) -> DictConfig:
    check_single_values(verb, overrides)
    return compose_config(verb, overrides, config_dir, with_hydra=True)


@contextmanager
def _telling_all(verb: str, config_dir: str | None, *, is_sweep: bool = False) -> Iterator[None]:
    """Within the block, the first mistakes that are found become all of the command line."""
    try:
        yield
    except Mistaken as error:
        options = Namespace(config_dir=config_dir, multirun=is_sweep)
        raise all_told(verb, Mistaken(str(error), error.rest, options)) from None


def all_told(verb: str, error: Mistaken) -> ConfigError:
    """`error`, and what is wrong with the overrides of the command that it leaves, values too."""
    options = error.options
    assert options is not None

    def judge(rest: list[str]) -> None:
        if options.multirun:
            config = _first_trial(rest, options.config_dir)
            with open_dict(config):
                config.pop("sweep")
                config.pop("seeds")
        elif verb == "train":
            config, _ = _run_config(rest, options.config_dir)
        else:
            config = _composed(verb, rest, options.config_dir)
        # Only values need the classes that they are for, and so torch.
        if values_among(rest, options.config_dir):
            with settings_of_hydra(config, with_logging=False) as own:
                command(verb).arguments(own)

    with using_config_dir(options.config_dir):
        return all_mistakes(error, judge, options.config_dir)


def _show(composed: DictConfig, args: Namespace) -> None:
    """Print a composed config, for --cfg job."""
    with settings_of_hydra(composed) as config:
        if "hydra" in composed and chosen_in(composed).get("model") == "same":
            from firstlight.training.start import take_same_model  # late: it imports torch

            take_same_model(config)
        output.write(printable_lines(to_yaml(config, args.package, resolve=args.resolve)))


def _let_hydra_show(verb: str, args: Namespace) -> None:
    """Let Hydra print what only Hydra knows: --info, --cfg hydra."""

    def never_called(config: DictConfig) -> None:
        raise AssertionError("Hydra was to show something, not to run the verb")

    # Options last: --info would take an override that follows for its own argument.
    words = [f"firstlight {verb}", *args.overrides, *args.options]
    with command_line(words), explained(verb, args.overrides, args.config_dir):
        hydra.main(version_base="1.3", config_path=conf_dir(), config_name=verb)(never_called)()


def _train(args: Namespace) -> None:
    """Begin a run or a sweep, resume a run, or print its config."""
    if args.multirun:
        _note_tasks(1)
        planned = plan_sweep(args.overrides, args.config_dir)
        command("sweep").run_sweep(planned, args.overrides)
    elif args.cfg:
        _show(run_config(args.overrides, args.config_dir)[0], args)
    else:
        from firstlight.training.memory.allocation import keep_freed_memory

        # Here and not in `train`: the Python API's process is not ours to tune.
        keep_freed_memory()
        train(args.overrides, args.config_dir)


def run_config(overrides: list[str], config_dir: str | None) -> tuple[DictConfig, list[str]]:
    """The composed config of the run that `overrides` begin or resume.

    Also returns the overrides that remain for it.

    Raises:
        ConfigError: they cannot be composed, or the run to resume does not exist.
    """
    with _telling_all("train", config_dir):
        return _run_config(overrides, config_dir)


def _run_config(overrides: list[str], config_dir: str | None) -> tuple[DictConfig, list[str]]:
    from firstlight.compose.autoresume import autoresume, is_auto
    from firstlight.compose.resumed import resumed_config

    remaining = autoresume(overrides, config_dir) if is_auto(overrides) else overrides
    config = resumed_config(remaining, config_dir)
    if config is None:
        config = _composed("train", remaining, config_dir)
    return config, remaining


def train(overrides: list[str], config_dir: str | None, *, as_guest: bool = False) -> Path:
    """Begin or resume the run that `overrides` ask for; return its folder.

    They are ready for Hydra's grammar. `as_guest` is for a process that is somebody else's: its
    logging stays as it is, and it is not started again for further devices.

    Raises:
        ConfigError: they are not valid.
        RunError: the run failed.
        Stopped: a signal has stopped it.
    """
    from firstlight.compose.autoresume import is_auto

    config, remaining = run_config(overrides, config_dir)
    if as_guest:
        _check_devices(config)
    try:
        with ExitStack() as held:
            peers = None if as_guest else _peers(config, overrides, held)
            if processes.is_further() and not processes.was_launched():
                # Composed again, now that the first process has told which run this is.
                config, remaining = run_config(overrides, config_dir)
            own = [word for word in remaining if not is_about_hydra(word)]
            with settings_of_hydra(config, with_logging=not as_guest) as of_run:
                return command("train").main(of_run, own, _callbacks_of_trial(), peers)
    except FinishedError as error:
        # For a command that is given again and again, a finished run is success.
        if not is_auto(overrides):
            raise
        output.note(str(error).removeprefix("resume: "))
        found = processes.found_run()
        assert found is not None  # it is what has finished
        return found


def _peers(config: DictConfig, overrides: list[str], held: ExitStack) -> Any:
    """The processes of a run of several, which have met; None in a run of one.

    Raises:
        ConfigError: a launcher has started another number of processes.
        RunError: one of them does not come.
    """
    numbers = []
    for key, default in OF_PROCESSES.items():
        value = _unchecked(config, key)
        numbers.append(value if isinstance(value, int | float) else default)
    devices, num_nodes, timeout = numbers
    place = find_place(max(1, int(devices)), max(1, int(num_nodes)))
    processes.take(place)
    _note_tasks(1 if place is None else place.world_size)
    if place is None:
        return None
    from firstlight.training.peers import Peers  # late: it imports torch

    peers = Peers(place, timeout=max(1.0, float(timeout)), words=overrides)
    held.enter_context(peers)
    held.enter_context(peers.failing())
    peers.meet()
    return peers


def _unchecked(config: DictConfig, key: str) -> Any:
    """The value of `key`, or None: what is wrong with it is said when the whole config is
    checked."""
    return OmegaConf.select(config, key, throw_on_resolution_failure=False)


def _note_tasks(world_size: int) -> None:
    """Warn if a launcher seems to have started this command several times, for nothing."""
    if warning := several_tasks(world_size):
        output.note(warning)


def _check_devices(config: DictConfig) -> None:
    """Refuse several processes, which Lightning starts with the program and the words of this one.

    Raises:
        ConfigError: the run has several.
    """
    for key in ("trainer.devices", "trainer.num_nodes"):
        number = _unchecked(config, key)
        if isinstance(number, int) and number > 1:
            raise ConfigError(
                f"{key} ({number}): a run of several processes begins on the command line:"
                f" firstlight train {key}={number} ..."
            )


def _callbacks_of_trial() -> dict[str, Any]:
    """The callbacks that a run has in addition if it is a trial of a sweep."""
    trial = processes.trial()
    if trial is None:
        return {}
    from firstlight.sweep.pruning import Pruning  # late: only trials need Optuna

    return {"pruning": Pruning(trial)}


def plan_sweep(overrides: list[str], config_dir: str | None) -> Any:
    """Plan the sweep that `overrides`, ready for Hydra's grammar, ask for.

    The result is what `run_sweep` of sweep/command.py takes.

    Raises:
        ConfigError: it is not valid.
    """
    from firstlight.sweep.launchers import check_launcher

    # Misspelt words are found here, without torch.
    with _telling_all("train", config_dir, is_sweep=True):
        first = _first_trial(overrides, config_dir)
    check_launcher(first.hydra)
    return command("sweep").plan(overrides, config_dir)


def _first_trial(overrides: list[str], config_dir: str | None) -> DictConfig:
    """The config of the first trial of a sweep, all of whose choices can be composed."""
    from firstlight.sweep.settings import only_in_some

    # Keys that only some trials have are checked when the sweep is planned.
    conditional = tuple(f"{key}=" for key in only_in_some(overrides, config_dir))
    in_all = [word for word in overrides if not word.startswith(conditional)]
    return check_trials("train", in_all, config_dir)


def sweep(
    overrides: list[str],
    config_dir: str | None,
    added: Sequence[str] = (),
    *,
    as_guest: bool = False,
) -> None:
    """Show a sweep, or make the trials that are left, as `overrides` ask for.

    They and what is `added` to the sweep are ready for Hydra's grammar; `as_guest` is as for
    `train`.

    Raises:
        ConfigError: they are not valid, or the sweep does not exist.
        RunError: trials have failed.
        Stopped: a signal has stopped it.
    """
    from firstlight.sweep.launchers import check_launcher

    of_sweeps, composed = command("sweep"), composed_config("sweep", overrides, config_dir)
    check_launcher(composed.hydra)
    with settings_of_hydra(composed, with_logging=not as_guest) as config:
        planned = of_sweeps.main(config, list(added))
    # Outside the block: `hydra.main` takes the settings of the launcher from a config of its own.
    if planned is not None:
        of_sweeps.run_sweep(planned, overrides, with_logging=not as_guest)


def asked_of_ladder(
    overrides: list[str], config_dir: str | None, *, with_logging: bool = True
) -> Any:
    """The ladder that `overrides`, ready for Hydra's grammar, ask for.

    The result is what ladder/command.py takes. Without `with_logging` Python's logging stays as it
    is.

    Raises:
        ConfigError: they are not valid.
    """
    from firstlight.sweep.launchers import check_launcher

    composed = composed_config("ladder", overrides, config_dir)
    check_launcher(composed.hydra)
    # As for `sweep`: Hydra makes the runs with settings of its own.
    with settings_of_hydra(composed, with_logging=with_logging) as config:
        return command("ladder").asked(config, overrides, config_dir)
