"""Is an optimizer one that trains a model, and continues exactly where it was saved?"""

import copy
import io
from collections.abc import Callable, Collection

import torch
from torch import Tensor
from torch.optim import Optimizer

from firstlight.errors import with_article
from firstlight.model.base import LanguageModel
from firstlight.model.construction import without_weights
from firstlight.model.gpt import GPT
from firstlight.optim.base import OptimizerFactory
from firstlight.testing.properties import Broken, Property, check_all


def check_optimizer(
    make: OptimizerFactory,
    *,
    model: Callable[[], LanguageModel] | None = None,
    skip: Collection[str] = (),
) -> dict[str, str]:
    """Check that `make(model)` keeps the contract of an optimizer; `model` makes one, None a GPT.

    Returns what became of each property.

    Raises:
        AssertionError: a property does not hold.
    """
    case = _Case(make, model or _tiny_gpt)
    properties = [
        Property("contract", case.contract, "Return a torch.optim.Optimizer, made of the model."),
        Property(
            "every parameter",
            case.every_parameter,
            "Give each parameter of model.parameters() to the optimizer, in one group.",
        ),
        Property(
            "without memory",
            case.without_memory,
            "The size of a run is found with a model on the meta device: look at shapes, not at"
            " values.",
        ),
        Property(
            "descent", case.descent, "A step must lower the loss of the batch it was made of."
        ),
        Property(
            "learning rate",
            case.learning_rate,
            "Schedules write group['lr'] before each step: read it in step(), keep no copy.",
        ),
        Property(
            "save and load",
            case.save_and_load,
            "Keep what a step needs in self.state or in the groups, which state_dict saves.",
        ),
        Property(
            "determinism", case.determinism, "A step draws nothing from torch's global generator."
        ),
    ]
    return check_all(getattr(make, "__name__", "optimizer"), properties, skip)


def _tiny_gpt() -> LanguageModel:
    return GPT(vocab_size=17, context_length=8, emb_dim=12, n_heads=3, n_layers=1, drop_rate=0.0)


class _Case:
    def __init__(self, make: OptimizerFactory, model: Callable[[], LanguageModel]) -> None:
        self.make, self.make_model = make, model

    def begun(self, steps: int = 0) -> tuple[LanguageModel, Optimizer]:
        """The same model and its optimizer, after some steps."""
        # Seeded each time, so that `one` and `other` below begin alike.
        torch.manual_seed(0)
        model = self.make_model()
        optimizer = self.make(model)
        for number in range(steps):
            step(model, optimizer, number)
        return model, optimizer

    def contract(self) -> None:
        _, optimizer = self.begun()
        if not isinstance(optimizer, Optimizer):
            raise Broken(f"it returns {with_article(type(optimizer).__name__)}")
        for number, group in enumerate(optimizer.param_groups):
            if not float(group.get("lr", 0)) > 0:
                raise Broken(f"group {number} has no lr above zero")

    def every_parameter(self) -> None:
        model, optimizer = self.begun()
        given: list[Tensor] = []
        for group in optimizer.param_groups:
            given += group["params"]
        # By identity: == on tensors compares their numbers.
        ids = [id(parameter) for parameter in given]
        for name, parameter in model.named_parameters():
            if parameter.requires_grad and ids.count(id(parameter)) != 1:
                raise Broken(f"it has {name} {ids.count(id(parameter))} times")

    def without_memory(self) -> None:
        self.make(without_weights(self.make_model))

    def descent(self) -> None:
        model, optimizer = self.begun()
        # The same batch: on others a loss may rise even for a good step.
        losses = [float(step(model, optimizer, 0)) for _ in range(21)]
        if not losses[-1] < losses[0]:
            raise Broken(
                f"20 steps on one batch took its loss from {losses[0]:.4g} to {losses[-1]:.4g}"
            )

    def learning_rate(self) -> None:
        model, optimizer = self.begun(steps=1)
        before = [parameter.detach().clone() for parameter in model.parameters()]
        for group in optimizer.param_groups:
            # Written by hand, as a schedule does it.
            group["lr"] = 0.0
        step(model, optimizer, 1)
        for (name, parameter), was in zip(model.named_parameters(), before, strict=True):
            if not torch.equal(parameter, was):
                raise Broken(f"a step with a rate of zero changed {name}")

    def save_and_load(self) -> None:
        model, optimizer = self.begun(steps=3)
        stream = io.BytesIO()
        # Through a file of plain data, as a checkpoint is: what needs code to load is refused.
        torch.save(optimizer.state_dict(), stream)
        stream.seek(0)
        # Other first weights, which must all come from the state dict.
        torch.manual_seed(1)
        twin = self.make_model()
        twin.load_state_dict(copy.deepcopy(model.state_dict()))
        resumed = self.make(twin)
        resumed.load_state_dict(torch.load(stream, weights_only=True))
        for number in range(3, 6):
            step(model, optimizer, number)
            step(twin, resumed, number)
        must_be_equal(twin, model, "three steps after it was loaded")

    def determinism(self) -> None:
        one, _ = self.begun(steps=3)
        other, optimizer = self.begun(steps=2)
        state = torch.get_rng_state()
        step(other, optimizer, 2)
        if not torch.equal(torch.get_rng_state(), state):
            raise Broken("a step draws random numbers")
        must_be_equal(other, one, "made twice, after three steps")


def step(model: LanguageModel, optimizer: Optimizer, number: int) -> Tensor:
    """An optimizer step on batch `number`; its loss before."""
    generator = torch.Generator().manual_seed(number)
    n_tokens = min(model.context_length, 16)
    ids = torch.randint(model.vocab_size, (4, n_tokens), generator=generator)
    logits = model.eval()(ids[:, :-1] if n_tokens > 1 else ids)  # no dropout
    targets = ids[:, 1:] if n_tokens > 1 else ids
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.detach()


def must_be_equal(model: LanguageModel, twin: LanguageModel, when: str) -> None:
    """Compare the parameters of two models bit for bit.

    Raises:
        Broken: some differ.
    """
    for (name, parameter), other in zip(model.named_parameters(), twin.parameters(), strict=True):
        if not torch.equal(parameter, other):
            apart = float((parameter - other).abs().max())
            raise Broken(f"{when}, {name} differs (largest difference {apart:.2g})")
