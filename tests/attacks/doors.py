"""Every way into firstlight for a file of somebody else's, and what the attacks leave behind if
they succeed.
"""

import os
from collections.abc import Callable
from pathlib import Path

MARKER = Path("marker")
TOUCH = f"touch {MARKER}"
"""A command that leaves the marker in the current folder."""

TRAIN = (
    "data=text", "data.path=text.txt", "tokenizer=bytes", "model.context_length=16", "model.emb_dim=16",
    "model.n_heads=2", "model.n_layers=1", "data.batch_size=8", "scheduler=constant", "trainer.max_steps=2",
    "trainer.eval_every_n_steps=2", "trainer.accelerator=cpu", "callbacks.sample_generation.max_new_tokens=1",
    "callbacks.throughput.peak_flops=1e9", "~callbacks.plots", "~callbacks.progress",
)  # fmt: skip
"""A run of a second."""

DOORS: dict[str, Callable[[object], list[str]]] = {
    "generate": lambda name: [
        "generate",
        f"checkpoint={name}",
        "prompt=a",
        "max_new_tokens=1",
        "accelerator=cpu",
    ],
    "evaluate": lambda name: ["evaluate", f"checkpoint={name}", "accelerator=cpu"],
    "export": lambda name: ["export", f"checkpoint={name}", "out=out"],
    "train": lambda name: ["train", *TRAIN, "output_dir=next", f"init_from={name}"],
}
"""The command lines that build the model of a checkpoint, by its name."""
INFO = lambda name: ["info", f"checkpoint={name}", "check=true"]  # noqa: E731
"""The one that only looks at it."""
RESUME = ("trainer.max_steps=4",)
"""What makes it worth to continue the trained run."""


class Call:
    """Pickled as a call of `function`."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.call


CODE = Call(os.system, TOUCH)
