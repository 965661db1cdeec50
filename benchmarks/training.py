"""Compare training throughput of GPT-2's 124M: the book, nanoGPT, transformers, litgpt, firstlight.

Every contender is 768 wide, with 12 layers, 12 heads, 50,257 ids and dropout 0.1 (litgpt has none), and is trained by
AdamW, with gradient clipping if its own loop clips. nanoGPT and transformers tie the output matrix to the embedding;
the book, litgpt and firstlight do not, and update 39M weights more. Each runs in a process of its own, as its user
would run it, on random ids; firstlight on Python's documentation, through its own command, so that Lightning, hooks and
the checks of every step are counted. The processes take turns, round after round, and the medians of the steps' times
are compared. The limit is the arithmetic of a step (6 operations per matrix weight and token, and attention's) at the
rate of the fastest matrix product in the same precision, measured in turn.

    .venv/bin/python benchmarks/training.py --nanogpt ~/nanoGPT --batch 2      # litgpt joins if it is installed
    .venv/bin/python benchmarks/training.py --device cuda --compile --batch 16 --context 1024 --vocab 50304 ...
"""

import argparse
import contextlib
import importlib.util
import io
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any
from unittest import mock

import torch
from options import described, nanogpt_clone, positive
from peers import load_nanogpt
from rich.console import Console
from rich.table import Table

C, L, H = 768, 12, 12
WARM_UP = 4
"""Steps that are not timed: the first ones allocate."""


def windows(args: argparse.Namespace) -> Callable[[], tuple[torch.Tensor, torch.Tensor]]:
    """Draw random ids: no contender's speed depends on them."""
    generator = torch.Generator().manual_seed(0)

    def draw() -> tuple[torch.Tensor, torch.Tensor]:
        ids = torch.randint(args.vocab, (args.batch, args.context + 1), generator=generator)
        return ids[:, :-1].contiguous(), ids[:, 1:].contiguous()

    return draw


def timed(step: Callable[[], Any], n: int, device: str) -> list[float]:
    seconds = []
    for _ in range(WARM_UP + n):
        start = time.perf_counter()
        step()
        if device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return seconds[WARM_UP:]


def loop(
    model: Any,
    optimizer: Any,
    loss: Callable[[Any, Any], Any],
    args: argparse.Namespace,
    *,
    bf16: bool,
    clip: bool,
) -> list[float]:
    """A plain training loop."""
    model.to(args.device).train()
    draw = windows(args)

    def step() -> None:
        inputs, targets = (x.to(args.device) for x in draw())
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(args.device, torch.bfloat16, enabled=bf16):
            value = loss(inputs, targets)
        value.backward()
        if clip:
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    return timed(step, args.steps, args.device)


def page(args: argparse.Namespace, precision: str) -> list[float]:
    from page import GPTModel

    from firstlight.model.gpt import GPT

    ours = GPT(vocab_size=args.vocab, context_length=args.context, emb_dim=C, n_heads=H, n_layers=L)
    model = GPTModel(ours, drop_rate=0.1).to(args.device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-4, weight_decay=0.1)

    def loss(inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(model(inputs).flatten(0, 1), targets.flatten())

    return loop(model, optimizer, loss, args, bf16=precision == "bf16", clip=False)


def nanogpt(args: argparse.Namespace, precision: str) -> list[float]:
    module = load_nanogpt(args.nanogpt)
    with contextlib.redirect_stdout(io.StringIO()):
        model = module.GPT(
            module.GPTConfig(
                block_size=args.context,
                vocab_size=args.vocab,
                n_layer=L,
                n_head=H,
                n_embd=C,
                dropout=0.1,
                bias=False,
            )
        ).to(args.device)
        optimizer = model.configure_optimizers(1e-1, 6e-4, (0.9, 0.95), args.device)
    if args.compile:
        model.compile()
    return loop(
        model, optimizer, lambda x, y: model(x, y)[1], args, bf16=precision == "bf16", clip=True
    )


def transformers(args: argparse.Namespace, precision: str) -> list[float]:
    from transformers import GPT2Config, GPT2LMHeadModel

    model = GPT2LMHeadModel(
        GPT2Config(vocab_size=args.vocab, n_positions=args.context, n_embd=C, n_layer=L, n_head=H)
    )
    optimizer = torch.optim.AdamW(model.to(args.device).parameters(), lr=6e-4, fused=True)

    def loss(inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(
            model(inputs).logits.flatten(0, 1).float(), targets.flatten()
        )

    return loop(model, optimizer, loss, args, bf16=precision == "bf16", clip=True)


def litgpt(args: argparse.Namespace, precision: str) -> list[float]:
    """Train a Pythia of the same sizes (litgpt has no GPT-2): rotary positions, no dropout."""
    from litgpt import GPT, Config
    from litgpt.utils import chunked_cross_entropy

    model = GPT(
        Config.from_name(
            "pythia-160m",
            vocab_size=args.vocab,
            padded_vocab_size=args.vocab,
            block_size=args.context,
        )
    )
    optimizer = torch.optim.AdamW(
        model.to(args.device).parameters(), lr=6e-4, weight_decay=0.1, fused=True
    )

    def loss(inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return chunked_cross_entropy(model(inputs), targets, chunk_size=0)  # as litgpt/pretrain.py

    return loop(model, optimizer, loss, args, bf16=precision == "bf16", clip=True)


def firstlight(args: argparse.Namespace, precision: str, *without: str) -> list[float]:
    """Train as `firstlight train` does, `without` some of what makes it faster."""
    from firstlight.cli import main
    from firstlight.training.module import PretrainingModule

    times: list[float] = []
    began = PretrainingModule.on_train_batch_start

    def marked(self: PretrainingModule, *arguments: Any) -> None:
        if args.device == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter())
        began(self, *arguments)

    allocation: Any = contextlib.nullcontext()
    if "kept memory" in without:
        allocation = mock.patch("firstlight.commands.train.keep_freed_memory")
    with (
        tempfile.TemporaryDirectory() as folder,
        mock.patch.object(PretrainingModule, "on_train_batch_start", marked),
        allocation,
        contextlib.redirect_stdout(io.StringIO()),
    ):
        settings = [
            "model=gpt2_small", f"model.context_length={args.context}",
            "tokenizer=bytes", f"tokenizer.vocab_size={args.vocab}",
            "data=pydoc", f"data.batch_size={args.batch}", "data.eval_batches=1",
            f"output_dir={folder}/run",
            f"trainer.max_steps={args.steps + WARM_UP + 1}", "trainer.eval_every_n_steps=100000",
            f"trainer.accelerator={'gpu' if args.device == 'cuda' else 'cpu'}", "scheduler=constant", "callbacks=[]",
            f"trainer.precision={'bf16-mixed' if precision == 'bf16' else '32-true'}", f"compile={args.compile}",
            f"model.dropout={'torch' if 'fast dropout' in without else 'fast'}",
        ]  # fmt: skip
        assert main(["train", *settings]) == 0
    return [
        after - before for before, after in zip(times[WARM_UP:], times[WARM_UP + 1 :], strict=False)
    ]


def product(args: argparse.Namespace, precision: str) -> list[float]:
    """Return the seconds of a step's arithmetic at the rate of the fastest matrix product."""
    dtype, rates = torch.bfloat16 if precision == "bf16" else torch.float32, []
    for n in (1024, 2048, 4096, *((8192, 16384) if args.device == "cuda" else ())):
        a = torch.randn(n, n).to(args.device, dtype)
        seconds = timed(lambda a=a: a @ a.T, 5, args.device)
        rates.append(2 * n**3 / min(seconds))
    matrices = L * 12 * C * C + args.vocab * C
    a_token = 6 * matrices + 12 * L * C * args.context  # Chowdhery et al. 2022, appendix B
    return [a_token * args.batch * args.context / max(rates)]


CONTENDERS: dict[str, tuple[Callable[[argparse.Namespace, str], list[float]], str]] = {
    "the book's loop, fp32": (page, "fp32"),
    "nanoGPT, fp32": (nanogpt, "fp32"),
    "nanoGPT, bf16": (nanogpt, "bf16"),
    "transformers, bf16": (transformers, "bf16"),
    "litgpt, bf16": (litgpt, "bf16"),
    "firstlight, fp32": (firstlight, "fp32"),
    "firstlight, bf16": (firstlight, "bf16"),
    "... with torch's dropout and attention, bf16": (
        lambda a, p: firstlight(a, p, "fast dropout"),
        "bf16",
    ),
    "... giving freed memory back, bf16": (lambda a, p: firstlight(a, p, "kept memory"), "bf16"),
    "... both, bf16": (lambda a, p: firstlight(a, p, "fast dropout", "kept memory"), "bf16"),
    "limit, fp32": (product, "fp32"),
    "limit, bf16": (product, "bf16"),
}


def main() -> None:
    parser = described(__doc__)
    parser.add_argument(
        "--nanogpt", type=nanogpt_clone, help="a clone of https://github.com/karpathy/nanoGPT"
    )
    parser.add_argument("--batch", type=positive, default=2, help="windows of a step")
    parser.add_argument("--context", type=positive, default=256)
    parser.add_argument(
        "--vocab",
        type=positive,
        default=50257,
        help="rows of the embedding; 50304 is a multiple of 64",
    )
    parser.add_argument("--steps", type=positive, default=5, help="timed steps of a round")
    parser.add_argument("--rounds", type=positive, default=3)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument(
        "--compile", action="store_true", help="torch.compile, for nanoGPT and firstlight"
    )
    parser.add_argument(
        "--only",
        choices=CONTENDERS,
        nargs="+",
        metavar="ROW",
        help=f"these alone of {', '.join(map(repr, CONTENDERS))}",
    )
    parser.add_argument("--contender", choices=CONTENDERS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.contender:
        train, precision = CONTENDERS[args.contender]
        seconds = train(args, precision)
        peak = torch.cuda.max_memory_allocated() / 1e9 if args.device == "cuda" else peak_memory()
        print(json.dumps({"seconds": seconds, "gigabytes": peak}))
        return
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: not available on this machine")
    lacking = {"nano": not args.nanogpt, "litgpt": not importlib.util.find_spec("litgpt")}
    names = [
        name
        for name in CONTENDERS
        if not any(word in name for word, lacks in lacking.items() if lacks)
    ]
    # The rows "..." leave out what only CPUs use.
    if args.device == "cuda":
        names = [name for name in names if not name.startswith("...")]
    if absent := [name for name in args.only or () if name not in names]:
        needs = "--nanogpt, litgpt installed, or for '...' a CPU"
        parser.error(f"--only {', '.join(map(repr, absent))}: needs {needs}")
    asked = args.only or names
    found: dict[str, list[dict[str, Any]]] = {
        name: [] for name in names if name in asked or "limit" in name
    }
    for n in range(args.rounds):
        for name in found:
            command = [sys.executable, "-W", "ignore", __file__, *sys.argv[1:], "--contender", name]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            # One that fails, such as the book's loop where its logits do not fit into the device's
            # memory, does not end the others.
            if done.returncode != 0:
                print(
                    f"round {n + 1}, {name}: failed ({done.returncode}): {done.stderr[-500:]}",
                    flush=True,
                )
                continue
            found[name].append(json.loads(done.stdout.splitlines()[-1]))
            print(
                f"round {n + 1}, {name}: {statistics.median(found[name][-1]['seconds']):.3f} s a"
                " step",
                flush=True,
            )
    measured = {name: rounds for name, rounds in found.items() if rounds}
    Console(width=120).print(table_of(measured, args.batch * args.context))


def peak_memory() -> float:
    import resource

    # ru_maxrss is in kB on Linux.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def table_of(found: dict[str, list[dict[str, Any]]], tokens: int) -> Table:
    step = {
        name: statistics.median(s for r in rounds for s in r["seconds"])
        for name, rounds in found.items()
    }
    slowest = step[next(iter(step))]
    table = Table()
    for column in (
        "what",
        "s a step",
        "from ... to",
        "tokens/s",
        "times the first",
        "of the limit",
        "GB",
    ):
        table.add_column(column, justify="left" if column == "what" else "right")
    for name, rounds in found.items():
        each = [statistics.median(r["seconds"]) for r in rounds]
        limit = step.get(f"limit, {name.rpartition(', ')[2]}")
        share, memory = (
            f"{limit / step[name]:.0%}" if limit else "",
            f"{max(r['gigabytes'] for r in rounds):.1f}",
        )
        table.add_row(
            name, f"{step[name]:.3f}", f"{min(each):.3f} ... {max(each):.3f}", f"{tokens / step[name]:,.0f}",
            f"{slowest / step[name]:.2f}", *(("", "") if name.startswith("limit") else (share, memory)),
        )  # fmt: skip
    return table


if __name__ == "__main__":
    main()
