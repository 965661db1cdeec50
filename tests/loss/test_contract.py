"""What every loss of conf/loss promises, one that was just added included."""

from pathlib import Path

import pytest
import torch

from firstlight.compose.compose import compose_config
from firstlight.conf_files import conf_dir
from firstlight.config import build, check_node, to_plain
from firstlight.loss.base import Loss

OPTIONS = sorted(file.stem for file in Path(conf_dir(), "loss").glob("*.yaml"))
N, C, V = 12, 8, 31


@pytest.mark.parametrize("option", OPTIONS)
def test_a_loss_of_conf_gives_each_token_a_loss_of_its_own_with_a_gradient(option):
    section = to_plain(compose_config("train", [f"loss={option}"]))["loss"]
    loss: Loss = build(check_node("loss", section, Loss), "loss")
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(N, C, generator=generator).requires_grad_()
    weight = torch.randn(V, C, generator=generator).requires_grad_()
    targets = torch.randint(0, V, (N,), generator=generator)
    for step in (0, 9):
        loss.begin_step(step, max_steps=10)
        losses = loss(hidden, weight, targets)
        assert losses.shape == (N,) and losses.dtype == torch.float32
        half = loss(hidden[: N // 2], weight, targets[: N // 2])
        # A batch may be computed in parts: the loss of a token does not depend on the others.
        torch.testing.assert_close(losses[: N // 2], half)
        for gradient in torch.autograd.grad(losses.mean(), (hidden, weight)):
            assert bool(gradient.isfinite().all()) and bool((gradient != 0).any())
