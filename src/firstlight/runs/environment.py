"""What else decides the numbers of a run: versions, the machine, the git commit."""

import importlib.metadata
import importlib.util
import os
import platform
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from firstlight.config import TARGETS
from firstlight.errors import ConfigError
from firstlight.packages import package_of

PARTS_FROM = "parts_from"
"""In an environment: the other packages whose classes the run's config names, and their versions.
Runs that name none have no such entry."""
PACKAGES = (
    "firstlight",
    "torch",
    "lightning",
    "hydra-core",
    "omegaconf",
    "tiktoken",
    "tokenizers",
    "numpy",
)
WORKING_FOLDER = "working_folder"
"""In an environment: the folder to which relative paths in the run's config refer."""
BEGUN_IN = "FIRSTLIGHT_BEGUN_IN"
"""Environment variable that sets that folder for the trials of a sweep, which may be resumed from
another one."""


def environment(config: dict[str, Any]) -> dict[str, Any]:
    """Versions (None: not installed), the machine and the git commit, for a run with `config`."""
    import torch  # slow to import, and commands that only look for a run do not need it

    versions: dict[str, str | None] = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = None
    others = parts_from(config)
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        **versions,
        **({PARTS_FROM: others} if others else {}),
        "slurm_job": slurm_job(),
        "cpu_threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "cuda_device": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "git_commit": _git_commit(Path(__file__)),
        # A trial of a sweep that was moved still belongs to the folder in which the sweep was
        # begun.
        WORKING_FOLDER: os.environ.get(BEGUN_IN) or working_folder(),
    }


def working_folder() -> str | None:
    """The folder this process works in; None if it has been removed."""
    try:
        return str(Path.cwd())
    except OSError:
        return None


def check_working_folder(way_out: str) -> None:
    """Refuse a working folder that was removed: Hydra asks for it, whatever the verb.

    `way_out` is how to change to another one.

    Raises:
        ConfigError: it is not available.
    """
    if working_folder() is None:
        raise ConfigError(
            "the working folder is not available (was it removed?); change to another one with"
            f" {way_out}"
        )


def slurm_job() -> str | None:
    """The id of this SLURM job, as `scontrol requeue` takes it; None outside SLURM."""
    # A task of an array is called JOB_TASK; its SLURM_JOB_ID is another number.
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    if array and task:
        return f"{array}_{task}"
    return os.environ.get("SLURM_JOB_ID") or None


def parts_from(config: dict[str, Any]) -> dict[str, str]:
    """The packages whose classes `config` names, beside firstlight, torch and Lightning.

    The value is the version and, if the package is in a checkout, its git commit.
    """
    versions: dict[str, str] = {}
    for target in _targets(config):
        if target.startswith(TARGETS):
            continue
        package = package_of(target)
        module = target.partition(".")[0] if package is None else package.module
        if module not in versions:
            versions[module] = _version_of(module, None if package is None else package.version)
    return versions


def _targets(node: Any) -> Iterator[str]:
    """Yield every `_target_` in a config."""
    if isinstance(node, list):
        for child in node:
            yield from _targets(child)
    if isinstance(node, dict):
        if isinstance(node.get("_target_"), str):
            yield node["_target_"]
        for child in node.values():
            yield from _targets(child)


def _version_of(module: str, version: str | None) -> str:
    """The version of a package, and the commit of its checkout, as far as they are known."""
    if version is None:
        with suppress(importlib.metadata.PackageNotFoundError):
            version = importlib.metadata.version(module)
    origin = None
    with suppress(ImportError, ValueError):  # ValueError: __main__, in a notebook
        origin = getattr(importlib.util.find_spec(module), "origin", None)
    commit = None if origin is None else _git_commit(Path(origin))
    known = ([version] if version else []) + ([f"commit {commit}"] if commit else [])
    return ", ".join(known) or "unknown version"


def _git_commit(file: Path) -> str | None:
    """The commit of the checkout of `file`, with "-dirty" if files differ; None without one."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(file.parent), *arguments]
        return subprocess.run(
            command, capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()

    try:
        # Fails if the package is installed inside somebody else's checkout.
        git("ls-files", "--error-unmatch", file.name)
        return git("describe", "--always", "--abbrev=40", "--dirty")
    except (OSError, subprocess.SubprocessError):
        return None
