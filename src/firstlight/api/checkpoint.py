"""A checkpoint measured, and written for other programs."""

from pathlib import Path
from typing import Any

from firstlight.api import words
from firstlight.api.call import command
from firstlight.api.composed import composed


@command
def evaluate(checkpoint: words.Path, *overrides: str, **settings: Any) -> dict[str, float]:
    """The metrics of a checkpoint on a text, or its results on tasks.

    `checkpoint` is a run or what else `firstlight.load` takes; `settings` are the keys of
    `firstlight evaluate`, e.g. `split="test"`.

    Raises:
        Error: no such checkpoint, split or text.
    """
    # Late, here and below: `from firstlight import evaluate` must not import torch.
    from firstlight.commands.evaluate import arguments, measured

    given = {"checkpoint": words.path_text("checkpoint", checkpoint), **settings}
    with composed("evaluate", overrides, given) as config:
        return measured(arguments(config))


@command
def export(checkpoint: words.Path, out: words.Path, *overrides: str, **settings: Any) -> Path:
    """Write a checkpoint for other programs; return the path of what was written.

    `format="hf"` writes a folder for transformers, `format="safetensors"` a file.

    Raises:
        Error: no such checkpoint, the format cannot hold it, or `out` exists.
    """
    # Not `from ... import export`, which is the name of this function.
    from firstlight.commands import export as verb

    places = {"checkpoint": checkpoint, "out": out}
    given = {name: words.path_text(name, place) for name, place in places.items()} | settings
    with composed("export", overrides, given) as config:
        return verb.export(**verb.arguments(config))
