"""From a command line to a composed config, with mistakes found before Hydra writes anything."""

import argparse
import functools
import math
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, NoReturn

import yaml
from hydra import compose, initialize_config_dir
from hydra._internal.utils import get_args_parser
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, IntervalSweep, Override
from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from firstlight.data.files import is_hidden, user_path
from firstlight.errors import ConfigError, did_you_mean, one_line, shorten
from firstlight.interpolation import UNUSED, as_data, as_typed, from_environment, given_again
from firstlight.overrides import MOST_PARTS, conf_dir, is_quoted, quoted, ready, setting, text_keys
from firstlight.processes import is_further

POSITIONALS: dict[str, tuple[str, ...]] = {"sweep": ("action", "folder"), "compare": ("runs",)}
"""Keys of a verb that may be given as words alone: `firstlight sweep status DIR`, `firstlight compare RUN RUN`."""
TEXT_MAY_HAVE_MOVED = ("evaluate", "compare")
"""Verbs with no section `data` of their own, to which data.path=... says where the text of a run is now."""

LONGEST_KEY = 200
"""Bytes of a key; Hydra looks for a folder of that name, which has 255 at most."""
MOST_VALUES = 1000
"""Of one key in a sweep, and of jobs: each is composed before the first begins, in a third of a second."""

CHANGEABLE = (
    *("trainer.max_", "trainer.eval_", "trainer.log_", "trainer.accelerator", "trainer.devices", "data.num_workers"),
    *("trainer.micro_batch_size", "callbacks.", "logger.", "metrics.", "on_nan"),
)
"""What may be changed when a run is resumed; the rest would change what has already happened."""


def parse_arguments(verb: str, rest: list[str]) -> argparse.Namespace:
    """Hydra's own arguments; `options` as they were typed, `overrides` ready for Hydra's grammar.

    Raises:
        ConfigError: an option that Hydra does not have, or a word that is not `key=value`.
    """
    for word in rest:
        if any("\ud800" <= character <= "\udfff" for character in word):  # bytes that Python could not decode
            raise ConfigError(f"{shorten(ascii(word))}: this is not UTF-8")
    parser = get_args_parser()

    def refuse(message: str) -> NoReturn:
        raise ConfigError(f"{message} (settings are written key=value, e.g. optimizer.lr=3e-4)")

    parser.error = refuse  # type: ignore[method-assign]
    args, more = parser.parse_known_args(rest)
    if unknown := [word for word in more if word.startswith("-")]:
        refuse(f"there is no option {unknown[0]}")
    if args.config_name or args.config_path:
        raise ConfigError("--config-name, --config-path: a verb has a config of its own; --config-dir can add to it")
    if sum(map(bool, (args.run, args.multirun, args.cfg, args.info, args.shell_completion))) > 1:
        raise ConfigError("--run, --multirun, --cfg, --info and --shell-completion exclude each other")
    args.overrides += more  # argparse takes no overrides after an option: firstlight train a=1 -m b=2,3
    args.options = [word for word in rest if word not in args.overrides]
    args.overrides = _named(verb, args.overrides)
    for word in args.overrides:
        if "=" not in word and not word.startswith("~"):
            raise ConfigError(f"'{word}' is not a setting: write key=value (firstlight {verb} --help lists the keys)")
        is_given = not is_further()  # Lightning starts further processes with a run.dir of its own
        if word.startswith("hydra.mode="):
            raise ConfigError(f"{word}: a sweep is asked for with -m")
        if is_given and word.startswith(("hydra.run.dir=", "hydra.sweep.dir=")) and verb == "train":
            raise ConfigError(f"{word}: the folder of a run is output_dir=... here")
    prepare = functools.partial(ready, config_dir=args.config_dir, multirun=args.multirun)
    args.overrides = [listed(prepare(word), args.config_dir) for word in args.overrides]
    if verb in TEXT_MAY_HAVE_MOVED and not any(word.startswith("data=") for word in args.overrides):
        texts = tuple(f"{key}=" for key in text_keys(args.config_dir) if key.startswith("data."))
        args.overrides = [f"+{word}" if word.startswith(texts) else word for word in args.overrides]
    if args.config_dir is not None and not Path(args.config_dir).is_dir():
        raise ConfigError(f"--config-dir {args.config_dir}: there is no such folder")
    return args


def compose_config(
    verb: str, overrides: list[str], config_dir: str | None = None, *, with_hydra: bool = False
) -> DictConfig:
    """Compose `conf/<verb>.yaml` with `overrides`.

    Raises:
        ConfigError: one line that names the override, what is wrong and what may have been meant.
    """
    with explained(verb, overrides, config_dir), _hydra():
        return compose(verb, [*overrides, *_searchpath(config_dir)], return_hydra_config=with_hydra)


def _searchpath(config_dir: str | None) -> list[str]:
    return [f"hydra.searchpath=[{quoted(f'file://{Path(config_dir).resolve()}')}]"] if config_dir else []


@contextmanager
def _hydra() -> Iterator[None]:
    """Hydra, reading conf/; also within a sweep, which it runs itself."""
    outer = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(conf_dir(), version_base="1.3"):
            yield
    finally:
        GlobalHydra.instance().hydra = outer


@contextmanager
def explained(verb: str, overrides: list[str], config_dir: str | None = None) -> Iterator[None]:
    """Say in one line, with the likely intent, what Hydra refuses to compose of `overrides` inside."""
    try:
        yield
    except MissingConfigException as error:
        raise ConfigError(_missing_choice(error)) from None
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(_explain(verb, overrides, config_dir, error)) from None
    except YAMLError as error:
        raise ConfigError(f"this is no YAML that can be read: {one_line(error)}") from None
    except RecursionError:
        raise ConfigError("this cannot be composed: a config that contains itself, or is nested too deeply") from None
    except ValueError as error:  # what Hydra itself does not expect: model=3, =3
        raise ConfigError(f"this cannot be composed: {one_line(error)}") from None


@contextmanager
def command_line(words: list[str]) -> Iterator[None]:
    """Within the block `words` are the command line that Hydra reads.

    Errors come back from it, for `main` to know a user's mistake from a defect: Hydra would print both its own way.
    """
    before, sys.argv = sys.argv, words
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        yield
    except HydraException as error:  # a sweeper or launcher that cannot be had
        raise ConfigError(one_line(error)) from None
    finally:
        sys.argv = before


def check_overrides(verb: str, overrides: list[str], *, multirun: bool, config_dir: str | None) -> list[DictConfig]:
    """Refuse overrides that Hydra's grammar refuses; of a sweep return a config for every value, composed.

    Raises:
        ConfigError: the first mistake; a sweep makes its folder before it composes, so it is composed here first.
    """
    trials = list(_trials(overrides, multirun))
    return [compose_config(verb, trial, config_dir) for trial in trials] if multirun else []


def swept_keys(overrides: list[str]) -> list[str]:
    """The keys that have several values."""
    return [o.get_key_element() for o in parse_overrides(overrides) if o.is_sweep_override()]


def to_yaml(config: DictConfig) -> str:
    """What `--cfg job` prints of a composed config."""
    return as_typed(OmegaConf.to_yaml(config))


def parse_overrides(overrides: list[str]) -> list[Override]:
    """Overrides as Hydra understands them.

    Raises:
        ConfigError: one that Hydra's grammar refuses.
    """
    parser = OverridesParser.create()
    parsed = []
    for text in overrides:
        is_long = sum(map(text.count, "[]{}(), ")) > MOST_PARTS
        if is_long and not is_quoted(text.partition("=")[2]):
            raise ConfigError(f"{shorten(text)}: too long: more than {MOST_PARTS} brackets, commas and spaces")
        try:
            override = parser.parse_override(text)
            if not override.is_sweep_override():
                OmegaConf.create([override.value()])  # references (${...}) have a grammar of their own
        except (HydraException, OmegaConfBaseException, ValueError) as error:
            reason = str(error).splitlines()[0].removeprefix(f"Error parsing override '{text}'").strip() or "not valid"
            raise ConfigError(f"{shorten(text)}: {reason} (Hydra's grammar; quote what is text)") from None
        except RecursionError:
            raise ConfigError(f"{shorten(text)}: too many brackets inside each other") from None
        key, value = override.key_or_group, None if override.is_delete() else override.value()
        if not key:
            raise ConfigError(f"{text}: write key=value")
        if len(key.encode()) > LONGEST_KEY:
            raise ConfigError(f"{shorten(key)}: there is no such key")
        names = value if isinstance(value, list) else [value]
        is_choice = override.is_delete() or override.is_sweep_override() or all(isinstance(n, str) for n in names)
        is_base = "base" in names and Path(conf_dir(), key, "base.yaml").is_file()  # what the others are made from
        if _choices(key) and (is_base or not is_choice):
            raise ConfigError(f"{text}: {key} is a group: give the name of a choice ({', '.join(_choices(key))})")
        parsed.append(override)
    return parsed


def resumed_config(overrides: list[str], config_dir: str | None = None) -> DictConfig | None:
    """The composed config of the run that an override `resume=RUN` names, with the other overrides; None without one.

    `resume=auto`, which is still there where there is no run yet, names none.

    Raises:
        ConfigError: there is no such run, or an override would change what has already happened.
    """
    parsed = parse_overrides(overrides)
    names = [override.value() for override in parsed if override.key_or_group == "resume" and not override.is_delete()]
    from firstlight.runs.run_folder import AUTO, RunFolder

    if not names or names[-1] in (None, AUTO):
        return None
    if not isinstance(names[-1], str) or not names[-1]:
        raise ConfigError(f"resume: expected the folder of one run, or last, got {shorten(repr(names[-1]))}")
    from firstlight.checkpoints.find import checkpoints_of, newest_run

    with explained("train", overrides):
        name = str(OmegaConf.create({"resume": names[-1]}).resume)
    folder = newest_run() if name == "last" else user_path(name)
    stored = RunFolder(folder).config
    config, known = DictConfig(as_data(stored)), list(_keys(stored))
    unused = UNUSED if checkpoints_of(folder) else [key for key in UNUSED if key != "init_from"]
    again = {key: text for key, text in from_environment(stored) if key not in unused}
    for override in parsed:
        key = override.key_or_group
        if key == "resume":
            continue
        if is_further() and key not in again:  # the first process has put the others into the config
            continue
        if override.is_sweep_override():
            raise ConfigError(f"{key}: one run is resumed at a time, with one value")
        is_text = key.startswith("data.") and key in text_keys(config_dir)  # moved; fit checks that it is the same
        if not key.startswith(CHANGEABLE) and key not in again and not is_text:
            if _is_as_it_was(override, stored):
                continue
            allowed = ", ".join(f"{start}*" if start[-1] in "._" else start for start in CHANGEABLE)
            raise ConfigError(
                f"{key}: cannot be changed when resuming; only {allowed} can, and data.path, if the text has moved"
            )
        if key not in known and not override.is_add():
            raise ConfigError(f"{key}: the run has no such key{did_you_mean(key, known)}")
        if override.is_delete():
            parent, _, last = key.rpartition(".")
            OmegaConf.select(config, parent).pop(last)
        else:
            value = _absolute(override.value()) if is_text else override.value()
            OmegaConf.update(config, key, value, force_add=True)
    given = [override.key_or_group for override in parsed]
    if lost := {key: again[key] for key in again if not any(f"{key}.".startswith(f"{other}.") for other in given)}:
        when = "when the run began; give it again"
        lines = (f"{k}: came from the environment ({text}) {when}: {given_again(k, text)}" for k, text in lost.items())
        raise ConfigError("\n".join(lines))
    config.resume = names[-1] if "${" in str(names[-1]) else str(folder)
    return config


def _is_as_it_was(override: Override, stored: dict[str, Any]) -> bool:
    """Does an override give a key of a stored config the value that it has, or would have had?"""
    from firstlight.runs.later_keys import lacking

    key = override.key_or_group
    if override.is_delete():
        return key not in stored
    value = override.value()
    known = OmegaConf.select(DictConfig(as_data(stored)), key, default=lacking(stored).get(key))
    return value is not None and type(known) is type(value) and known == value


def _absolute(value: Any) -> Any:
    """Paths from here as paths from everywhere; what is no path to something stays as it is."""
    if isinstance(value, list):
        return [_absolute(element) for element in value]
    try:
        is_path = isinstance(value, str) and "${" not in value and user_path(value).exists()
    except (OSError, ValueError):  # no name for a file
        return value
    return str(user_path(value).absolute()) if is_path else value


def _trials(overrides: list[str], multirun: bool) -> Iterator[list[str]]:
    parsed = parse_overrides(overrides)
    choices: list[list[str]] = []
    for text, override in zip(overrides, parsed, strict=True):
        if not override.is_sweep_override():
            choices.append([text])
        elif not multirun:
            raise ConfigError(f"{text}: several values make a sweep; add -m, or quote the value ('key=\"a,b\"')")
        else:
            choices.append(_values(text, override))
    if math.prod(map(len, choices)) > MOST_VALUES:
        keys = ", ".join(swept_keys(overrides))
        raise ConfigError(f"a sweep has at most {MOST_VALUES:,} jobs; give fewer values to {keys}")
    first = [values[0] for values in choices]
    yield first
    for position, values in enumerate(choices):
        for value in values[1:]:
            yield [*first[:position], value, *first[position + 1 :]]


def _values(text: str, override: Override) -> list[str]:
    """An override for each value of a sweep's; of too many one more than there may be."""
    try:
        interval = override.value()
        if isinstance(interval, IntervalSweep):
            return [f"{override.get_key_element()}={interval.start}"]
        values = list(islice(override.sweep_string_iterator(), MOST_VALUES + 1))
    except (HydraException, ValueError, AttributeError) as error:  # range(1, 5, 0)
        raise ConfigError(f"{text}: these are no values to sweep over: list them ({_first_line(error)})") from None
    if not values:
        raise ConfigError(f"{text}: there is no value in it")
    return [f"{override.get_key_element()}={value}" for value in values]


def _named(verb: str, words: list[str]) -> list[str]:
    """`words` with the keys of those that are given without one."""
    if verb not in POSITIONALS:
        return words
    keys = POSITIONALS[verb]
    alone = [word for word in words if _is_alone(verb, word)]
    rest = [word for word in words if word not in alone]
    if verb == "compare" and len(alone) > 1:
        return [f"runs=[{','.join(map(quoted, alone))}]", *rest]
    pairs = zip(keys, alone, strict=False)
    return [*(setting(key, value) for key, value in pairs), *alone[len(keys) :], *rest]


def _is_alone(verb: str, word: str) -> bool:
    """Is this a word without a key? A path may have `=` in it, where there is something of that name."""
    key, equals, _ = word.partition("=")
    if not equals or key in yaml.safe_load(Path(conf_dir(), f"{verb}.yaml").read_text(encoding="utf-8")):
        return not equals
    try:
        return user_path(word).exists()
    except OSError:  # a name too long for a file
        return False


def listed(text: str, config_dir: str | None) -> str:
    """`text`, with the options of a group that a glob(...) fits in its place.

    Raises:
        ConfigError: it fits none.
    """
    if not re.match(r"[^=]*=\s*(tag\(.*)?glob\(", text):
        return text
    [override] = parse_overrides([text])
    glob = override.value()
    if not isinstance(glob, Glob):
        return text
    known = _choices(override.key_or_group, config_dir)
    if not (names := glob.filter(known)):
        of = f"of {override.key_or_group} ({', '.join(known)})" if known else f"as {override.key_or_group} is no group"
        raise ConfigError(f"{text}: fits no option {of}")
    return f"{override.get_key_element()}={','.join(names)}"


def _missing_choice(error: MissingConfigException) -> str:
    group, _, choice = str(error.missing_cfg_file).rpartition("/")
    options = [str(option) for option in error.options or _choices(group) if option != "base"]
    if not group:
        return f"{choice}: {_first_line(error)}"
    return f"{group}={choice}: no such choice{did_you_mean(choice, options)} ({group} is one of: {', '.join(options)})"


def _choices(group: str, config_dir: str | None = None) -> list[str]:
    folders = [Path(folder) / group for folder in (conf_dir(), config_dir) if folder is not None]
    files = [file for folder in folders for file in folder.glob("*.yaml") if not is_hidden(file.name)]
    return sorted({file.stem for file in files} - {"base"})


def _explain(verb: str, overrides: list[str], config_dir: str | None, error: Exception) -> str:
    text = _first_line(error)
    if twice := re.search(r"(\w+)/(\w+) appears more than once", text):
        return f"{twice[1]}: '{twice[2]}' is chosen twice; a choice may already contain it, as default does"
    key = re.search(r"Could not (?:override|append to config|delete from config)[^']*'([^']+)'", text)
    if key is None:
        cause = error.__cause__
        return _first_line(cause) if isinstance(cause, OmegaConfBaseException) else one_line(error)
    wanted = re.split(r"[=@]", key[1])[0]
    chosen = [*_chosen(overrides, wanted, config_dir), *_searchpath(config_dir)]
    known = _known_keys(verb, chosen)
    if wanted in known:
        return f"{wanted}: {one_line(error)}"
    if chosen and wanted in _known_keys(verb, []):  # decoding=greedy decoding.top_k=5, ~logger logger.csv=null
        group = wanted.split(".")[0]
        return f"{wanted}: the {group} that is chosen here has no such key; another choice of {group} has"
    typed_keys = [k for k in known if not k.endswith("_")]  # not _target_, _partial_
    if owner := {k.split(".")[-1]: k for k in typed_keys}.get(wanted.split(".")[-1]):  # lr=3e-4, for optimizer.lr
        return f"{wanted}: there is no such key; did you mean '{owner}'?"
    return f"{wanted}: there is no such key{did_you_mean(wanted, typed_keys)} (firstlight {verb} --help lists them all)"


def _chosen(overrides: list[str], refused: str, config_dir: str | None) -> list[str]:
    """Those of `overrides` that decide which keys there are, but for what Hydra has `refused`."""
    others = [override for override in parse_overrides(overrides) if override.key_or_group != refused]
    return [
        str(override.input_line)
        for override in others
        if override.is_delete()
        or override.key_or_group == "hydra.searchpath"
        or _choices(override.key_or_group, config_dir)
    ]


def _known_keys(verb: str, chosen: list[str]) -> list[str]:
    """What may be overridden where `chosen` are; where those cannot be composed themselves, by default."""
    with _hydra():
        try:
            config = compose(verb, chosen)
        except HydraException:
            config = compose(verb)
        return list(_keys(OmegaConf.to_container(config, resolve=False)))


def _keys(node: Any, path: str = "") -> Iterator[str]:
    if isinstance(node, dict):
        for key, child in node.items():
            yield f"{path}{key}"
            yield from _keys(child, f"{path}{key}.")


def _first_line(error: BaseException | None) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def slug(text: str) -> str:
    """A folder name from the overrides of a sweep's job: lr=1e-3,seed=1 is lr-1e-3_seed-1."""
    name = re.sub(r"[^\w.+-]+", "_", text.replace("=", "-"))
    return name.encode()[:120].decode(errors="ignore")  # a file system counts bytes


OmegaConf.register_new_resolver("slug", slug, replace=True)
