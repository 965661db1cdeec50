"""A plan, for reading."""

from collections.abc import Sequence
from typing import Any

from rich.filesize import decimal

from firstlight.data.leakage import Leakage
from firstlight.errors import counted, duration
from firstlight.training.report import leaked, short

MOST_PARTS = 12
"""Parts of a model that are listed one by one."""


def as_text(found: dict[str, Any]) -> str:
    """Write what `planned` has found: lines with a word in front, then warnings."""
    told = found["forecast"]
    lines = [*_size_lines(found, told), *_run_lines(told)]
    if "outlook" in found:
        lines += ["", *_cluster_lines(found)]
    else:
        lines += [*_memory_lines(found), *_time_lines(found["time"], told)]
    lines += [f"warning: {warning}" for warning in found["warnings"]]
    return "\n".join(lines) + "\n"


def _size_lines(found: dict[str, Any], told: dict[str, Any]) -> list[str]:
    parts = list(told["parameters"].items())
    trained = ""
    if told["n_trained"] < told["n_parameters"]:
        trained = f", {told['n_trained']:,} of them trained"
    scaling = f", {found['parametrization']}" if found["parametrization"] else ""
    lines = [f"model      {found['model']}, {told['n_parameters']:,} parameters{trained}{scaling}"]
    for name, number in parts[:MOST_PARTS]:
        lines.append(
            f"             {name:<22} {number:>15,}  {number / told['n_parameters']:>4.0%}"
        )
    if others := parts[MOST_PARTS:]:
        rest = sum(number for _, number in others)
        lines.append(f"             {counted(len(others), 'other part'):<22} {rest:>15,}")
    return lines


def _run_lines(told: dict[str, Any]) -> list[str]:
    """The length of a run, its work, its phases, its evaluations and its checkpoints."""
    warmup, decay = told["warmup"], told["decay"]
    disk = f"checkpoints need {decimal(told['checkpoint_bytes'])}"
    if told["free_bytes"] is not None:
        disk += f" of the {decimal(told['free_bytes'])} that are free"
    work = "not known: the operations of this model cannot be counted"
    if told["flops"] is not None:
        work = f"{told['flops_per_token']:.3g} FLOPs a token, {told['flops']:.3g} in all"
    n_windows = counted(told["validation_windows"], "validation window")
    return [
        f"length     {counted(told['steps'], 'step')} of {told['tokens_per_step']:,} tokens ="
        f" {told['tokens']:,} tokens, {short(told['tokens_per_parameter'])} a parameter,"
        f" {short(told['passes'])} passes over the text",
        f"work       {work}",
        f"schedule   warm-up {_phase(warmup)}; decay {_phase(decay)}",
        f"evaluation {counted(told['evaluations'], 'time')}, {told['evaluated_tokens']:,} tokens"
        f" each ({n_windows}): {told['evaluation_share']:.0%} of the arithmetic",
        f"disk       {disk}",
        f"leakage    {_leakage(told['leakage'])}",
    ]


def _leakage(found: dict[str, Any] | None) -> str:
    if found is None:
        return "not looked for: the texts are too long to do it at once"
    return leaked(Leakage(**found))


def _phase(phase: dict[str, Any]) -> str:
    if phase["steps"] == 0:
        return "none"
    return f"{counted(phase['steps'], 'step')} ({phase['share']:.0%}, {phase['tokens']:,} tokens)"


def _memory_lines(found: dict[str, Any]) -> list[str]:
    memory = found["memory"]
    if memory is None:
        return ["memory     not known: the model, loss or optimizer looks at numbers"]
    parts = ", ".join(f"{name} {decimal(size)}" for name, size in memory["parts"].items() if size)
    return [
        f"memory     about {decimal(memory['total'])} of the {decimal(memory['available'])} of"
        f" {memory['of']}, with {counted(memory['windows_at_once'], 'window')} at once in"
        f" {found['precision']}",
        f"             {parts}",
    ]


def _time_lines(time: dict[str, Any] | None, told: dict[str, Any]) -> list[str]:
    if time is None:
        return []
    return [
        f"time       about {duration(time['total'])}: {time['tokens_per_second']:,.0f} tokens/s,"
        f" {time['step']:.3g} s a step; evaluation takes {time['evaluation_share']:.0%} of it,"
        f" samples {time['samples_share']:.0%}, saving {time['save_share']:.0%}",
    ]


def _cluster_lines(found: dict[str, Any]) -> list[str]:
    cluster = found["cluster"]
    title = (
        f"on {cluster['per_machine']} devices a machine, {cluster['tflops']:g} TFLOP/s and"
        f" {cluster['memory_gb']:g} GB each, in {found['precision']}; ranges are from the worse to"
        " the better end"
    )
    heading = (
        f"{'devices':>8} {'with':<6} {'windows':>10} {'memory':>9} {'sent/step':>10}"
        f" {'step (s)':>15} {'tokens/s':>15} {'efficiency':>11} {'hours':>15}"
    )
    return [title, "", heading, *map(_outlook_line, found["outlook"])]


def _outlook_line(row: dict[str, Any]) -> str:
    first = f"{row['devices']:>8} {row['strategy']:<6}"
    if row["problem"]:
        return f"{first}   {row['problem']}"
    windows = f"{row['windows_at_once']} x {row['n_parts']}"
    worse, better = row["efficiency"]
    text = (
        f"{first} {windows:>10} {row['memory_gb']:>6.1f} GB {row['traffic_gb']:>7.2f} GB"
        f" {_range(row['step_seconds']):>15} {_range(row['tokens_per_second']):>15}"
        f" {f'{worse:.0%}-{better:.0%}':>11} {_range(row['hours']):>15}"
    )
    return f"{text}  {row['note']}" if row["note"] else text


def _range(ends: Sequence[float]) -> str:
    worse, better = (short(end) for end in ends)
    return worse if worse == better else f"{worse}-{better}"
