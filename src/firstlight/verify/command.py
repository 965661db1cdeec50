"""`firstlight verify`: is a run of this config the same after it was killed and resumed?"""

import logging
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from rich import box
from rich.table import Table

from firstlight.commands import train
from firstlight.config import build
from firstlight.console import SafeConsole
from firstlight.data.files import user_path
from firstlight.errors import ConfigError, VerificationError, without_hidden
from firstlight.files import replace_text
from firstlight.output import say
from firstlight.runs.new_folder import new_folder
from firstlight.runs.run_config import RunConfig
from firstlight.training.process import start_server
from firstlight.verify.checks import CheckResult, check
from firstlight.verify.settings import VerifySettings, check_verifiable, verify_changes

TRAINING = (
    "firstlight.cli",
    "firstlight.verbs",
    "firstlight.commands.train",
    "firstlight.verify.runs",
)
COMPILER = ("torch._dynamo", "torch._inductor.compile_fx")
"""Modules that take seconds to import: a server imports them once, for all processes."""
HELD = {True: "yes", False: "NO", None: "-"}


def arguments(config: DictConfig) -> tuple[RunConfig, VerifySettings]:
    """The composed config as the config of a short run, and the settings.

    Raises:
        ConfigError: it is not valid, or its runs cannot be verified.
    """
    run, values = train.arguments_with(config, {"verify": VerifySettings})
    settings = VerifySettings(**values["verify"])
    check_verifiable(run.plain)
    build(run.plain)  # raises what the constructors refuse
    return run.changed(verify_changes(run.plain, settings)), settings


def main(config: DictConfig) -> None:
    """Make the checks; print the findings.

    Raises:
        VerificationError: a check did not hold; the runs are kept.
    """
    run, settings = arguments(config)
    # TensorBoard warns of every curve of a resumed run.
    logging.getLogger("tensorboard").setLevel(logging.ERROR)
    console = SafeConsole(width=None if sys.stdout.isatty() else 120)
    began = time.perf_counter()
    with _work_folder(user_path(run.plain["output_dir"]), keep=settings.keep) as work:
        run = run.changed({"output_dir": str(work / "run")})
        preloaded = [*TRAINING, *modules(run.plain)]
        if run.plain["compile"]:
            preloaded += COMPILER
        with console.status("training, killing, comparing"):
            # Only now, with all modules known: the server forks processes that have imported
            # everything.
            start_server(preloaded)
            results = list(check(run, settings, work))
        console.print(_table(run.plain["name"], settings, results))
        wrong = [f"{result.check}: {result.found}" for result in results if result.held is False]
        if wrong:
            raise VerificationError(
                "\n".join(["this config does not hold what was checked", *wrong])
            )
    console.print(f"verified in {time.perf_counter() - began:.0f} s")


@contextmanager
def _work_folder(wanted: Path, *, keep: bool) -> Iterator[Path]:
    """A new folder beside the run folder `wanted`; kept if something fails in it.

    It is on the disk of the user's runs, whose file system is part of what is verified.
    """
    with new_folder(wanted.parent / f"verify_{wanted.name}", "output_dir") as folder:
        work = folder.absolute()
        try:
            yield work
        except (ConfigError, KeyboardInterrupt):  # nothing to look into
            keep = False
            raise
        except Exception:
            keep = True
            raise
        finally:
            if keep:
                # A process may print what was looked up in the environment, which is not kept.
                for log in work.glob("*.log"):
                    replace_text(
                        log, without_hidden(log.read_text(encoding="utf-8", errors="replace"))
                    )
                say(f"the runs are kept in {work}", stderr=True)
            else:
                shutil.rmtree(work, ignore_errors=True)


def modules(node: Any) -> Iterator[str]:
    """The modules of everything that a config names."""
    children = []
    if isinstance(node, dict):
        children = node.values()
        if "_target_" in node:
            yield node["_target_"].rpartition(".")[0]
    elif isinstance(node, list):
        children = node
    for child in children:
        yield from modules(child)


def _table(name: str, settings: VerifySettings, results: list[CheckResult]) -> Table:
    title = (
        f"{name}: runs of {settings.steps} steps, evaluated every {settings.eval_every_n_steps}, "
        f"saved every {settings.save_every_n_steps}"
    )
    table = Table(title=title, title_justify="left", title_style="", box=box.SIMPLE_HEAD)
    for column in ("check", "what was done", "holds", "what was found"):
        table.add_column(column)
    for result in results:
        table.add_row(result.check, result.done, HELD[result.held], result.found)
    return table
