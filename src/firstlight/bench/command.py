"""`firstlight bench`: how fast this config trains here, and what would be faster."""

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from firstlight.bench.figure import ladder_figure
from firstlight.bench.findings import (
    OwnSpeed,
    advice,
    findings_data,
    ladder_table,
    machine_table,
    own_table,
)
from firstlight.bench.ladder import Ladder, suggestions
from firstlight.bench.machine import describe_machine
from firstlight.bench.runs import FailedError, measure, peak_bytes, reset_peak_memory
from firstlight.bench.settings import BenchSettings, bench_changes
from firstlight.commands import train
from firstlight.commands.short_run import check_new
from firstlight.config import build
from firstlight.console import SafeConsole
from firstlight.data.files import user_path
from firstlight.errors import RunError
from firstlight.files import replace_text, replacing
from firstlight.output import as_json
from firstlight.runs.new_folder import new_folder
from firstlight.runs.run_config import RunConfig
from firstlight.training.memory.allocation import keep_freed_memory

FINDINGS_FILE, FIGURE_FILE = "bench.json", "bench.png"


def arguments(config: DictConfig) -> tuple[RunConfig, BenchSettings]:
    """The composed config as the config of a short run, and the settings.

    Raises:
        ConfigError: it is not valid, or its runs cannot be measured.
    """
    run, values = train.arguments_with(config, {"bench": BenchSettings})
    settings = BenchSettings(**values["bench"])
    check_new(run.plain, "bench")
    build(run.plain)  # raises what the constructors refuse
    return run.changed(bench_changes(run.plain, settings)), settings


def main(config: DictConfig) -> None:
    """Measure; print the findings and write them to a new folder.

    Raises:
        RunError: the config itself cannot be measured.
    """
    run, settings = arguments(config)
    keep_freed_memory()  # as train does
    # `file` is given because sys.stdout is redirected while a run is measured.
    console = SafeConsole(width=None if sys.stdout.isatty() else 140, file=sys.stdout)
    # Where the user's runs are, so that the speed of this disk is measured, too.
    with new_folder(user_path(run.plain["output_dir"]), "output_dir") as folder:
        runs = tempfile.TemporaryDirectory(prefix="runs_", dir=folder, ignore_cleanup_errors=True)
        with runs as work, console.status("this config") as status:
            own, machine, ladder = _measure_all(run, settings, Path(work), console, status.update)
        suggestion, larger = suggestions(ladder)
        console.print(ladder_table(ladder))
        for rung in ladder.rungs:
            if rung.problem:
                console.print(f"not measured: {rung.name} ({rung.problem})", soft_wrap=True)
        for step in ladder.left_out:
            console.print(f"left out: {step.name} ({step.left_out})")
        console.print(f"\n{advice(suggestion, larger, settings.tolerance)}\n", soft_wrap=True)
        title = f"{own.name}: training on {machine['device']}, {machine['threads']} threads"
        data = as_json(findings_data(machine, own, ladder, suggestion, larger), indent=2)
        # The findings have been printed by now: minutes of measuring are not lost with a full disk.
        try:
            replace_text(folder / FINDINGS_FILE, f"{data}\n")
            with replacing(folder / FIGURE_FILE, "wb") as file:
                ladder_figure(ladder.measured, title).savefig(file, dpi=150, format="png")
        except OSError as error:
            raise RunError(
                f"the findings cannot be written to {folder}: {error.strerror}"
            ) from error
        console.print(f"{folder / FINDINGS_FILE}\n{folder / FIGURE_FILE}", soft_wrap=True)


def _measure_all(
    run: RunConfig,
    settings: BenchSettings,
    work: Path,
    console: SafeConsole,
    tell: Callable[[str], None],
) -> tuple[OwnSpeed, dict[str, Any], Ladder]:
    """Measure the config as it is, the machine, and the ladder."""
    # The config comes first, while nothing else has taken memory.
    reset_peak_memory()
    try:
        first = measure(run, settings.warmup_steps, work / "own")
        peak = peak_bytes(first.timing.device)
        # A second run: timing the parts slows the steps down, and must not change the speed.
        in_parts = measure(run, settings.warmup_steps, work / "parts", in_parts=True)
    except FailedError as error:
        raise FailedError(f"this config cannot be measured: {error}") from None
    timing = first.timing
    tell("the machine")
    machine = describe_machine(timing.device, timing.dtype)
    rate = machine["flops_per_second"][machine["training_dtype"]]
    own = OwnSpeed(
        name=run.plain["name"],
        precision=timing.precision,
        tokens_per_step=timing.tokens_per_step,
        tokens_per_second=timing.tokens_per_second,
        mfu=timing.tokens_per_second * timing.flops_per_token / rate if rate else None,
        loss=first.loss,
        peak_memory_bytes=peak,
        step_milliseconds=in_parts.timing.breakdown(),
    )
    console.print(machine_table(machine))
    console.print(own_table(own, timing.device))
    ladder = Ladder(run, settings, device=timing.device, peak=peak, work=work, tell=tell)
    ladder.climb()
    return own, machine, ladder
