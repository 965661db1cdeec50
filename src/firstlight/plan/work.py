"""What a run asks of devices that are not here."""

from collections.abc import Callable
from typing import Any

import torch

from firstlight.config import argument, build, takes
from firstlight.errors import ConfigError
from firstlight.model.base import LanguageModel
from firstlight.plan.cluster import Work
from firstlight.runs.run_config import RunConfig
from firstlight.training.experiment import Experiment
from firstlight.training.forecast import Forecast
from firstlight.training.memory.estimate import DTYPES
from firstlight.training.memory.step import pass_memory
from firstlight.training.plan import Plan

ON_A_GPU = {"drop_rate": 0.0, "dropout": "torch"}
"""Settings of a model whose passes keep what they keep on a GPU: no fast masks of a CPU, and no
attention weights, which dropout would have them keep."""

SOME = 8
"""Windows whose memory is counted, and that of twice as many."""


def elsewhere(run: RunConfig) -> RunConfig:
    """The run as it would be on the GPUs of a cluster: one device here, bfloat16 for auto.

    Raises:
        ConfigError: it has several devices already.
    """
    trainer = run.plain["trainer"]
    for key in ("devices", "num_nodes"):
        if argument(trainer, key) != 1:
            raise ConfigError(
                f"trainer.{key} ({argument(trainer, key)}) must be 1: the devices of a cluster are"
                " cluster.devices"
            )
    changes: dict[str, Any] = {"accelerator": "cpu"}
    if argument(trainer, "precision") == "auto":
        changes["precision"] = "bf16-mixed"
    return run.changed({"trainer": changes})


def work_of(run: RunConfig, plan: Plan, told: Forecast, experiment: Experiment) -> Work:
    """What the step of a run takes, whoever makes it.

    Raises:
        ConfigError: the memory of its model cannot be told from shapes.
    """
    section, precision = run.plain["trainer"], str(argument(run.plain["trainer"], "precision"))
    if told.flops_per_token is None:
        raise ConfigError("model: its operations cannot be counted; leave cluster out")
    # Not of one and two windows: with so few, what the gradient of the embedding takes may be the
    # most, and that does not grow with the windows.
    found = pass_memory(
        experiment.network_of(_on_a_gpu(run.plain["model"])),
        experiment.training_loss,
        precision=precision,
        context_length=plan.data.context_length,
        n_windows=(SOME, 2 * SOME),
        activation_checkpointing=plan.trainer.activation_checkpointing,
    )
    if found is None:
        raise ConfigError(
            "model: the memory of its passes cannot be told from shapes, as it or its loss looks at"
            " numbers; leave cluster out"
        )
    some, twice = found
    blocks = plan.network.repeated_blocks
    in_blocks = sum(p.numel() for block in blocks for p in block.parameters())
    micro = argument(section, "micro_batch_size")
    return Work(
        n_parameters=plan.sizes.n_parameters,
        n_trained=plan.sizes.n_trained,
        n_optimizer=plan.sizes.n_optimizer,
        n_blocks=len(blocks),
        n_in_blocks=in_blocks,
        bytes_per_number=DTYPES.get(precision, torch.float32).itemsize,
        flops_per_token=told.flops_per_token,
        context_length=plan.data.context_length,
        batch_size=plan.data.batch_size,
        n_batches=plan.trainer.accumulate_grad_batches,
        max_steps=told.steps,
        micro_batch_size=micro if isinstance(micro, int) else None,
        virtual_shards=plan.trainer.virtual_shards,
        bytes_per_window=max((twice - some) // SOME, 1),
        bytes_of_a_pass=max(2 * some - twice, 0),
        is_elementwise=plan.sizes.is_elementwise,
    )


def _on_a_gpu(section: dict[str, Any]) -> Callable[[], LanguageModel]:
    changes = {key: value for key, value in ON_A_GPU.items() if takes(section, key, value)}
    return build(section | changes)
