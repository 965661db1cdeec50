"""What else decides the numbers of a run: versions, the machine, the git commit."""

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

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


def environment() -> dict[str, Any]:
    """Versions (None: not installed), the machine and the git commit."""
    import torch  # slow to import, and commands that only look for a run do not need it

    versions: dict[str, str | None] = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = None
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        **versions,
        "slurm_job": slurm_job(),
        "cpu_threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "cuda_device": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "git_commit": _git_commit(),
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


def slurm_job() -> str | None:
    """The id of this SLURM job, as `scontrol requeue` takes it; None outside SLURM."""
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    if array and task:
        return f"{array}_{task}"
    return os.environ.get("SLURM_JOB_ID") or None


def _git_commit() -> str | None:
    """The commit of firstlight's checkout, with "-dirty" if files differ; None without one."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(Path(__file__).parent), *arguments]
        return subprocess.run(
            command, capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()

    try:
        # Fails if firstlight is installed inside somebody else's checkout.
        git("ls-files", "--error-unmatch", Path(__file__).name)
        return git("describe", "--always", "--abbrev=40", "--dirty")
    except (OSError, subprocess.SubprocessError):
        return None
