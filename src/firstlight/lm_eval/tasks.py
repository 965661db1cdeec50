"""Run tasks of lm-eval: find and load them, measure, and give the results as one flat dict."""

import contextlib
import os
import random
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from lightning.pytorch.utilities.seed import isolate_rng
from lm_eval.api.model import LM  # pyright: ignore[reportMissingImports]
from lm_eval.defaults import (  # pyright: ignore[reportMissingImports]
    DEFAULT_OTHER_SEED,
    DEFAULT_RANDOM_SEED,
)
from lm_eval.evaluator import evaluate  # pyright: ignore[reportMissingImports]
from lm_eval.tasks import TaskManager  # pyright: ignore[reportMissingImports]
from lm_eval.tasks._yaml_loader import load_yaml  # pyright: ignore[reportMissingImports]

from firstlight.data.files import is_hidden, leads_to, read_text, user_path
from firstlight.errors import ConfigError, did_you_mean, one_line
from firstlight.lm_eval.adapter import decoding_of
from firstlight.runs.plain_yaml import yaml_problem

BOOTSTRAP = 1000
"""Resamples behind the standard error of a perplexity or an F1 score: lm-eval's 100,000 take
minutes."""


def run_tasks(
    lm: LM, tasks: Sequence[str], *, num_fewshot: int | None, limit: int | None
) -> dict[str, float]:
    """Measure `lm` on `tasks`: names of tasks, groups or tags, YAML files, or folders of them.

    Seeds and examples are those of lm-eval's own `simple_evaluate`, which would also spend seconds
    on a description of the machine. A YAML file can name Python functions (`!function`) beside it,
    which are run: whoever gives a file trusts it. Data sets with code of their own, and tasks that
    run what the model writes, are refused.

    Raises:
        ConfigError: a task does not exist, is damaged, is not for a model of text, or its data is
            not available.
    """
    # No processes: so few resamples do not need them, and a fork of a process with torch's threads
    # may hang.
    os.environ.setdefault("DISABLE_MULTIPROC", "1")
    with contextlib.redirect_stdout(sys.stderr), isolate_rng():  # only the result belongs on stdout
        random.seed(DEFAULT_RANDOM_SEED)
        np.random.seed(DEFAULT_OTHER_SEED)
        torch.manual_seed(DEFAULT_OTHER_SEED)
        loaded = _load(tasks)
        for name, task in loaded["tasks"].items():
            _set_fewshot(name, task, num_fewshot)
        found: Any = evaluate(lm, loaded, limit=limit, bootstrap_iters=BOOTSTRAP, log_samples=False)
    return flat_results(found["results"])


def flat_results(results: dict[str, dict[str, Any]]) -> dict[str, float]:
    """`{"task": {"acc,none": 0.5}}` as `{"task/acc": 0.5}`.

    A filter other than "none" stays in the name.

    `task/examples` is how many were measured. What is not a number (a standard error of "N/A") is
    left out.
    """
    flat: dict[str, float] = {}
    for task, values in results.items():
        for key, value in values.items():
            if "," in key and isinstance(value, int | float):
                flat[f"{task}/{key.removesuffix(',none')}"] = float(value)
        if values.get("sample_len"):
            flat[f"{task}/examples"] = values["sample_len"]
    return flat


def _load(tasks: Sequence[str]) -> Any:
    """What `evaluate` takes; every mistake in a task is found here, before anything is measured."""
    # A task or file, and what lm-eval is asked for: of a file with a group, the group's name.
    specs: list[tuple[str, str]] = []
    folders = []
    needs_defaults = False
    for task in tasks:
        if not _is_path(task):
            specs.append((task, task))
            needs_defaults = True
            continue
        for file in _files(task):
            group = _group(file)
            specs.append((file, group or file))
            if group:
                folders.append(Path(file).parent)
                needs_defaults = True
    # The index of lm-eval's own tasks takes many seconds: a file needs it only if it names others.
    manager = TaskManager(include_path=folders, include_defaults=needs_defaults)
    loaded: dict[str, dict[str, Any]] = {"tasks": {}, "groups": {}, "group_map": {}}
    for spec, name in specs:
        part = _load_one(manager, spec, name)
        for task_name, task in part["tasks"].items():
            if task_name in loaded["tasks"]:
                raise ConfigError(f"tasks ({spec}): '{task_name}' is already among the tasks")
            _check_task(spec, task_name, task)
        for kind, found in loaded.items():
            found |= part[kind]
    return loaded


def _load_one(manager: TaskManager, spec: str, name: str) -> Any:
    """Load the task, file or group `name`, which `spec` stands for."""
    if not _is_path(name) and name not in manager.task_index:
        folder = f" (the folder is ./{name})" if leads_to(Path(name), Path.is_dir) else ""
        raise ConfigError(
            f"tasks: lm-eval has no task '{name}'{did_you_mean(name, manager.all_tasks)}{folder}"
        )
    try:
        return manager.load([name])
    except ConnectionError as error:
        raise ConfigError(
            f"tasks ({spec}): its data has to be downloaded, once: {one_line(error)}"
        ) from error
    except Exception as error:  # anything: the functions that the file names are run
        reason = f"{type(error).__name__}: {one_line(error)}"
        raise ConfigError(f"tasks ({spec}): lm-eval cannot load it: {reason}") from error


def _set_fewshot(name: str, task: Any, num_fewshot: int | None) -> None:
    own = task.get_config("num_fewshot")
    if own is None:
        task.set_config("num_fewshot", num_fewshot or 0)
    # A task that says 0 keeps it: its text contains the examples.
    elif own != 0 and num_fewshot is not None:
        task.set_config("num_fewshot", num_fewshot)
    task.set_fewshot_seed(DEFAULT_OTHER_SEED)
    try:
        # A trial: missing examples are noticed now, not after an hour of measuring.
        task.build_all_requests(limit=1)
    except Exception as error:  # anything: the functions of the task are run
        shots = task.get_config("num_fewshot")
        raise ConfigError(
            f"tasks: {name}, with num_fewshot {shots}: {type(error).__name__}: {one_line(error)}"
        ) from error
    task.set_fewshot_seed(DEFAULT_OTHER_SEED)  # the trial has drawn


def _check_task(spec: str, name: str, task: Any) -> None:
    if getattr(task, "UNSAFE_CODE", False):
        raise ConfigError(
            f"tasks ({spec}): {name} runs the code that a model writes; firstlight does not"
        )
    if getattr(task, "MULTIMODAL", False):
        raise ConfigError(f"tasks ({spec}): {name} is not for a model of text alone")
    try:
        decoding_of(task.get_config("generation_kwargs") or {})
    except ConfigError as error:
        raise ConfigError(f"tasks ({spec}): {error}") from None


def _is_path(task: str) -> bool:
    return "/" in task or task.endswith((".yaml", ".yml"))


def _files(path: str) -> list[str]:
    """The file `path`, or the YAML files in the folder.

    Raises:
        ConfigError: no such file or folder, or no YAML file in it.
    """
    place = user_path(path)
    if leads_to(place, Path.is_file):
        return [str(place.resolve())]
    if not leads_to(place, Path.is_dir):
        raise ConfigError(f"tasks ({path}): no such file or folder")
    files = sorted(str(file.resolve()) for file in place.glob("*.yaml") if not is_hidden(file.name))
    if not files:
        raise ConfigError(f"tasks ({path}): no YAML file in the folder")
    return files


def _group(file: str) -> str | None:
    """The name of the group of tasks that a YAML file describes; None if it is a task."""
    try:
        read_text(Path(file))  # refuses other encodings, which lm-eval would guess
        # resolve_func=False: functions that the file names are not imported.
        return load_yaml(file, resolve_func=False).get("group")
    except yaml.MarkedYAMLError as error:
        reason = yaml_problem(error)
    except Exception as error:  # anything: lm-eval does not say what it raises
        reason = one_line(error)
    raise ConfigError(f"tasks ({file}): damaged, or not a task: {reason}")
