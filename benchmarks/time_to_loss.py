"""Measure the tokens and seconds that recipes take to reach a validation loss.

The recipes: GPT-2 with AdamW, the modern model with AdamW and with Muon, nanoGPT. They have about
1.3M parameters (see `--width`), train on bytes, and take 16 windows of 128 tokens a step. Learning
rates are tuned on the stories that come with firstlight. Then each recipe is trained on Python's
documentation, on which none was tuned, with three seeds. The target is the mean of the best
validation losses of GPT-2 with AdamW there; seconds are those of training alone. nanoGPT (a clone
of https://github.com/karpathy/nanoGPT) is its own model and optimizer in its own loop, and trains
for as long as the modern model with Muon.

    .venv/bin/python benchmarks/time_to_loss.py --nanogpt ~/nanoGPT      # half an hour on two cores
"""

import contextlib
import io
import json
import math
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from options import described, nanogpt_clone, positive
from peers import load_nanogpt
from rich.console import Console
from rich.table import Table

from firstlight.cli import main
from firstlight.data.datamodule import TextDataModule
from firstlight.data.lamplighters import LamplightersData
from firstlight.data.order import SeededOrder
from firstlight.data.pydoc import PydocData
from firstlight.data.tokenizers.bytes import BytesTokenizer
from firstlight.runs.run_folder import RunFolder

LAYERS, HEAD_DIM, CONTEXT, BATCH = 4, 32, 128, 16
EVALUATE_EVERY, EVAL_BATCHES = 20, 12
SETTINGS = [
    f"model.n_layers={LAYERS}", f"model.context_length={CONTEXT}", "model.drop_rate=0",
    "tokenizer=bytes", f"data.batch_size={BATCH}", f"data.eval_batches={EVAL_BATCHES}",
    f"trainer.eval_every_n_steps={EVALUATE_EVERY}", "trainer.log_every_n_steps=10", "trainer.accelerator=cpu",
    "logger=[csv]", "callbacks=[throughput]", "callbacks.throughput.peak_flops=1e12", "data.test_ratio=0",
]  # fmt: skip
COSINE = [
    "scheduler=warmup_cosine",
    "scheduler.warmup_steps=20",
    "scheduler.initial_lr=0",
    "scheduler.min_lr=0",
]
STABLE = ["scheduler=warmup_stable_decay", "scheduler.warmup_steps=20", "scheduler.decay_ratio=0.5"]


@dataclass(frozen=True)
class Recipe:
    """Overrides, and the learning rates to choose from."""

    overrides: list[str]
    rates: tuple[float, ...]


RECIPES = {
    "GPT-2, AdamW, cosine": Recipe(
        ["model=nano", "optimizer=adamw", *COSINE], (1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2)
    ),
    "modern, AdamW, cosine": Recipe(
        ["model=modern_nano", "model.n_kv_heads=null", "optimizer=adamw", *COSINE],
        (5e-4, 1e-3, 2e-3, 4e-3, 8e-3),
    ),
    "modern, Muon, stable-decay": Recipe(
        ["model=modern_nano", "model.n_kv_heads=null", "optimizer=muon", *STABLE],
        (3e-3, 6e-3, 1.2e-2, 2.4e-2),
    ),
}
BASE = "GPT-2, AdamW, cosine"


@dataclass(frozen=True)
class Curve:
    """Validation losses in nats per byte, with the tokens and seconds of training until then."""

    tokens: list[int]
    seconds: list[float]
    losses: list[float]

    @property
    def best(self) -> float:
        return min(self.losses)

    def until(self, loss: float) -> tuple[float, float] | None:
        """Return the tokens and seconds until the loss was first `loss` or less, or None."""
        reached = [i for i, value in enumerate(self.losses) if value <= loss]
        return (self.tokens[reached[0]], self.seconds[reached[0]]) if reached else None


def train(recipe: Recipe, width: int, rate: float, seed: int, data: str, steps: int) -> Curve:
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        sizes = [
            f"model.emb_dim={width}",
            f"model.n_heads={width // HEAD_DIM}",
            f"trainer.max_steps={steps}",
        ]
        settings = [*SETTINGS, *sizes, f"optimizer.lr={rate}", f"seed={seed}", f"data={data}"]
        assert main(["train", *recipe.overrides, *settings, f"output_dir={folder}/run"]) == 0
        rows = RunFolder(Path(folder) / "run").rows
    seconds, tokens, curve = 0.0, 0, Curve([], [], [])
    for row in rows:
        if row.get("tokens_per_second"):
            seconds += (int(row["tokens"]) - tokens) / float(row["tokens_per_second"])
            tokens = int(row["tokens"])
        if row.get("val/loss"):
            curve.tokens.append(int(row["tokens"]))
            curve.seconds.append(seconds)
            curve.losses.append(float(row["val/loss"]))
    return curve


def train_nanogpt(
    nanogpt: Any, width: int, rate: float, seed: int, data: type[TextDataModule], budget: float
) -> Curve:
    """Train with nanoGPT's loop (its train.py) for `budget` seconds.

    Windows at random, bf16 autocast, warm-up and a cosine to a tenth of the rate, clipping at 1.
    """
    text = data(
        tokenizer=BytesTokenizer(),
        order=SeededOrder(seed=0),
        context_length=CONTEXT,
        batch_size=BATCH,
    )
    text.setup()
    ids = text.ids["train"].long()
    sizes = {"block_size": CONTEXT, "n_layer": LAYERS, "n_head": width // HEAD_DIM, "n_embd": width}
    config = nanogpt.GPTConfig(vocab_size=257, dropout=0.0, bias=False, **sizes)

    def begin() -> tuple[Any, torch.optim.Optimizer, torch.Generator]:
        torch.manual_seed(seed)
        with contextlib.redirect_stdout(io.StringIO()):
            model = nanogpt.GPT(config)
            optimizer = model.configure_optimizers(1e-1, rate, (0.9, 0.99), "cpu")
        return model, optimizer, torch.Generator().manual_seed(seed)

    def step() -> None:
        starts = torch.randint(len(ids) - CONTEXT, (BATCH,), generator=generator)
        windows = torch.stack([ids[i : i + CONTEXT + 1] for i in starts])
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(windows[:, :-1].contiguous(), windows[:, 1:].contiguous())[1]
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    @torch.no_grad()
    def evaluate() -> float:
        losses = []
        indices = torch.arange(min(EVAL_BATCHES * BATCH, len(text.windows["val"])))
        for chosen in indices.split(BATCH):
            inputs, targets = text.windows["val"][chosen]
            with torch.autocast("cpu", torch.bfloat16):
                loss = float(model(inputs, targets.contiguous())[1])
            # Every window has the same weight, also those of a smaller last batch.
            losses += [loss] * len(chosen)
        return statistics.mean(losses)

    # The schedule needs the number of steps that the budget allows: measure them in another run.
    model, optimizer, generator = begin()
    for _ in range(5):
        step()
    started = time.perf_counter()
    for _ in range(20):
        step()
    steps = max(int(budget / ((time.perf_counter() - started) / 20)), 40)
    model, optimizer, generator = begin()
    curve, seconds = Curve([], [], []), 0.0
    for n in range(steps):
        started = time.perf_counter()
        share = (n - 20) / max(steps - 20, 1)
        if n < 20:
            now = rate * (n + 1) / 21
        else:
            now = rate * (0.1 + 0.45 * (1 + math.cos(math.pi * share)))
        for group in optimizer.param_groups:
            group["lr"] = now
        step()
        seconds += time.perf_counter() - started
        if (n + 1) % EVALUATE_EVERY == 0 or n + 1 == steps:
            curve.tokens.append((n + 1) * BATCH * CONTEXT)
            curve.seconds.append(seconds)
            curve.losses.append(evaluate())
    return curve


def tuned(name: str, rates: tuple[float, ...], run: Any) -> float:
    """Return the rate with the lowest final loss."""
    found = {rate: run(rate) for rate in rates}
    shown = ", ".join(f"{rate:g}: {curve.losses[-1]:.4f}" for rate, curve in found.items())
    print(f"{name}: final loss by learning rate on the stories: {shown}", flush=True)
    return min(found, key=lambda rate: found[rate].losses[-1])


def table_of(curves: dict[str, list[Curve]], rates: dict[str, float]) -> Table:
    mark = statistics.mean(curve.best for curve in curves[BASE])
    own = [curve.until(mark) or (curve.tokens[-1], curve.seconds[-1]) for curve in curves[BASE]]
    base_tokens, base_seconds = (statistics.mean(values) for values in zip(*own, strict=True))
    table = Table(
        title=f"nats per byte on Python's documentation; the target is {mark:.4f}",
        title_justify="left",
    )
    for column in (
        "recipe",
        "lr",
        "best loss",
        "spread",
        "seconds",
        "tokens to the target",
        "seconds to the target",
    ):
        table.add_column(column)
    for name, found in curves.items():
        best = [curve.best for curve in found]
        until = [curve.until(mark) for curve in found]
        cells = ["never", "never"]
        if all(until):
            reached = [
                statistics.mean(values) for values in zip(*[u for u in until if u], strict=True)
            ]
            shares = reached[0] / base_tokens, reached[1] / base_seconds
            cells = [f"{reached[0]:,.0f} ({shares[0]:.2f})", f"{reached[1]:.1f} ({shares[1]:.2f})"]
        spread = f"{min(best):.4f} to {max(best):.4f}"
        whole = f"{statistics.mean(curve.seconds[-1] for curve in found):.0f}"
        table.add_row(
            name, f"{rates[name]:g}", f"{statistics.mean(best):.4f}", spread, whole, *cells
        )
    return table


def keep(file: Path | None, curves: dict[str, list[Curve]], rates: dict[str, float]) -> None:
    """Write the results so far, so that an interrupted benchmark is not lost."""
    if file is not None:
        plain = {name: [vars(curve) for curve in found] for name, found in curves.items()}
        file.write_text(json.dumps({"rates": rates, "curves": plain}), encoding="utf-8")


def run() -> None:
    parser = described(__doc__)
    parser.add_argument("--nanogpt", type=nanogpt_clone, help="a clone of nanoGPT")
    parser.add_argument(
        "--width",
        type=positive,
        default=160,
        help=f"a multiple of {HEAD_DIM}; 160 is 1.3M parameters, 320 5M",
    )
    parser.add_argument("--steps", type=positive, default=300)
    parser.add_argument("--seeds", type=positive, default=3)
    parser.add_argument("--json", type=Path, help="where the curves go")
    parser.add_argument(
        "--rates",
        type=float,
        nargs="+",
        default=[],
        help="of the recipes, then nanoGPT, already tuned",
    )
    args = parser.parse_args()
    if args.width % HEAD_DIM:
        parser.error(f"--width must be a multiple of {HEAD_DIM}")
    rates: dict[str, float] = dict(zip([*RECIPES, "nanoGPT"], args.rates, strict=False))
    for name, recipe in ((n, r) for n, r in RECIPES.items() if n not in rates):
        rates[name] = tuned(
            name,
            recipe.rates,
            lambda rate, recipe=recipe: train(
                recipe, args.width, rate, 0, "lamplighters", args.steps
            ),
        )
    curves: dict[str, list[Curve]] = {name: [] for name in RECIPES}
    for seed in range(1, args.seeds + 1):  # in turn
        for name, recipe in RECIPES.items():
            curves[name].append(train(recipe, args.width, rates[name], seed, "pydoc", args.steps))
            print(f"{name}, seed {seed}: {curves[name][-1].best:.4f}", flush=True)
            keep(args.json, curves, rates)
    Console(width=140).print(table_of(curves, rates))
    if args.nanogpt:
        nanogpt = load_nanogpt(args.nanogpt)
        budget = statistics.mean(
            curve.seconds[-1] for curve in curves["modern, Muon, stable-decay"]
        )
        if "nanoGPT" not in rates:
            rates["nanoGPT"] = tuned(
                "nanoGPT",
                (1e-3, 2e-3, 4e-3, 8e-3),
                lambda rate: train_nanogpt(nanogpt, args.width, rate, 0, LamplightersData, budget),
            )
        curves["nanoGPT"] = [
            train_nanogpt(nanogpt, args.width, rates["nanoGPT"], seed, PydocData, budget)
            for seed in range(1, args.seeds + 1)
        ]
        keep(args.json, curves, rates)
        Console(width=140).print(table_of(curves, rates))


if __name__ == "__main__":
    run()
