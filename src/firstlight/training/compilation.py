"""`compile: true`: torch.compile of the model, for the passes of training and of evaluation."""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor

from firstlight.data.token_data import share_of
from firstlight.errors import shorten
from firstlight.output import tell
from firstlight.training.callbacks.base import Callback
from firstlight.training.module import PretrainingModule
from firstlight.training.trainer import Trainer

if TYPE_CHECKING:  # a plan has this callback in it
    from firstlight.training.plan import Plan

LOSS_DEVICES = ("cuda",)
"""Types of devices on which the loss is compiled, too."""


def check_compiler(device: torch.device) -> None:
    """Compile a sum of two numbers.

    Raises:
        ValueError: torch.compile does not work here, which is nearly always a compiler that is not
            installed.
    """
    try:
        # The smallest that goes through the whole chain: tracing, code, a C++ compiler or Triton.
        torch.compile(torch.add)(torch.ones(2, device=device), 1)
    except Exception as error:  # whatever the compilers of this device raise
        reason = shorten((str(error).splitlines() or [type(error).__name__])[0], 120)
        raise ValueError(
            f"torch.compile does not work here ({reason}); install a C++ compiler (g++, or one that"
            " CXX names), or train with compile=false"
        ) from error


class Compilation(Callback):
    """Compiles the model's hidden states when training begins, and on a GPU the loss.

    Parameters keep their names. Decoding calls the model itself, which is not compiled.

    Every shape of a batch gets kernels of its own. Which ones a run uses then does not depend on
    the order in which it meets the shapes, which changes when it is resumed. With
    `fullgraph` torch refuses what it cannot compile; without, parts of the run would silently not
    be. The last, shorter window of a text, which comes once in an evaluation, is not compiled.
    """

    def check(self, plan: "Plan") -> None:
        check_compiler(plan.trainer.strategy.root_device)

    def on_train_start(self, trainer: Trainer, pl_module: PretrainingModule) -> None:
        began, data = time.perf_counter(), pl_module.data
        torch.compiler.reset()  # of another run in this process, whose shapes count against a limit

        def compiled(function: Callable[[Tensor], Any]) -> Callable[[Tensor], Any]:
            fast = torch.compile(function, fullgraph=True, dynamic=False)

            def run(ids: Tensor) -> Any:
                is_whole = ids.shape[1] == data.context_length
                return fast(ids) if is_whole else function(ids)

            return run

        # Functions of the module, not model.compile(): the names of the parameters stay as they
        # are.
        pl_module.hidden = compiled(pl_module.model.hidden)
        pl_module.training_pass = compiled(pl_module.model.hidden_and_auxiliary_loss)
        # The logits of a step are gigabytes: on a GPU each operation less is a pass less over them.
        if pl_module.device.type in LOSS_DEVICES:
            pl_module.loss.compile()
        first = torch.arange(min(data.batch_size, len(data.windows["train"])))
        batch = data.windows["train"][share_of(first, *pl_module.training_share)]
        batch = pl_module.transfer_batch_to_device(batch, pl_module.device, 0)
        # Isolated: dropout must draw in training as if nothing had been drawn here.
        with isolate_rng(), trainer.precision_plugin.forward_context():
            shapes = {len(part[0]): part for part in pl_module.training_parts(batch, 0)}
            for part in shapes.values():  # of one shape or two
                pl_module.mean_loss(part).backward()
        pl_module.zero_grad(set_to_none=True)
        pl_module.compile_seconds = time.perf_counter() - began
        if trainer.is_global_zero:
            tell(f"compiled in {pl_module.compile_seconds:.1f} s")
