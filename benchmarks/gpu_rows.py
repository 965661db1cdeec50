"""The measurements of gpu.py, each run as a process of its own; the last line is JSON."""

import argparse
import contextlib
import functools
import io
import json
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch.profilers import Profiler
from options import described, nanogpt_clone
from peers import load_nanogpt

from firstlight.bench.machine import copy_rate, device_name
from firstlight.bench.runs import peak_bytes
from firstlight.commands.train import arguments
from firstlight.compose.compose import compose_config
from firstlight.config import build
from firstlight.training.callbacks.base import Callback
from firstlight.training.experiment import Experiment
from firstlight.training.fit import fit

IDS = 257
"""Ids that are drawn, by all contenders: those of firstlight's byte tokenizer."""


@dataclass(frozen=True)
class Size:
    """A model in GPT-2's layout, and the steps that measure it."""

    width: int
    layers: int
    heads: int
    windows: int
    """Of a step, by all contenders."""
    context: int = 1024
    vocab: int = 50304
    warm_up: int = 10
    steps: int = 25
    watched: int = 5
    """Further steps, in which synchronisations are counted: that makes them slower."""

    @property
    def flops_per_token(self) -> float:
        matrices = 12 * self.layers * self.width**2 + self.vocab * self.width
        return 6 * matrices + 12 * self.layers * self.width * self.context

    @property
    def tokens(self) -> int:
        """Tokens of a step."""
        return self.windows * self.context


SIZES = {
    "124M": Size(width=768, layers=12, heads=12, windows=32),
    "350M": Size(width=1024, layers=24, heads=16, windows=16),
}
TINY = {
    "124M": Size(32, 2, 2, windows=4, context=32, vocab=512, warm_up=2, steps=4, watched=2),
    "350M": Size(64, 2, 2, windows=4, context=32, vocab=512, warm_up=2, steps=4, watched=2),
}


class Clock:
    """Times the steps between two synchronisations; then counts those that each further one makes."""

    def __init__(self, size: Size, device: torch.device) -> None:
        self.size, self.device, self.began, self.seconds = size, device, 0.0, 0.0
        self.n_syncs: int | None = None
        self.watching = contextlib.ExitStack()
        self.told: list[Any] = []

    def step_done(self, step: int) -> None:
        """After optimizer step number `step`, from 1."""
        timed_to = self.size.warm_up + self.size.steps
        if step == self.size.warm_up:
            self.synchronize()
            self.began = time.perf_counter()
        elif step == timed_to:
            self.synchronize()
            self.seconds = (time.perf_counter() - self.began) / self.size.steps
            if self.device.type == "cuda":
                self.told = self.watching.enter_context(warnings.catch_warnings(record=True))
                warnings.simplefilter("always")
                torch.cuda.set_sync_debug_mode("warn")
        elif step == timed_to + self.size.watched and self.device.type == "cuda":
            torch.cuda.set_sync_debug_mode("default")
            syncs = [w for w in self.told if "synchroniz" in str(w.message)]
            self.n_syncs = len(syncs)
            self.watching.close()
            for warning in syncs[:20]:
                print(f"sync: {warning.filename}:{warning.lineno}", file=sys.stderr)

    def synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def figures(self) -> dict[str, Any]:
        syncs = None if self.n_syncs is None else self.n_syncs / self.size.watched
        return {
            "tokens_per_second": self.size.tokens / self.seconds,
            "step_ms": 1e3 * self.seconds,
            "flops_per_token": self.size.flops_per_token,
            "peak_gigabytes": peak_bytes(self.device) / 1e9,
            "syncs_per_step": syncs,
            "windows": self.size.windows,
        }


class OfLoader(Profiler):
    """Host seconds that a run waits for batches and sends them; nothing is synchronised for it."""

    ACTIONS = ("train_dataloader_next", "batch_to_device")

    def __init__(self) -> None:
        super().__init__()
        self.seconds: list[float] = []
        self.since = 0.0

    def start(self, action_name: str) -> None:
        if action_name.rpartition(".")[2] in self.ACTIONS:
            self.since = time.perf_counter()

    def stop(self, action_name: str) -> None:
        if action_name.rpartition(".")[2] in self.ACTIONS:
            self.seconds.append(time.perf_counter() - self.since)

    def of_a_step(self) -> float:
        """The mean of the later half: the first ones map files and allocate."""
        later = self.seconds[len(self.seconds) // 2 :]
        return len(self.ACTIONS) * sum(later) / len(later)


class Watch(Callback):
    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        self.clock.step_done(trainer.global_step)


def device_of(args: argparse.Namespace) -> torch.device:
    return torch.device("cpu" if args.rehearse else "cuda")


def size_of(args: argparse.Namespace) -> Size:
    return (TINY if args.rehearse else SIZES)[args.size]


def card(args: argparse.Namespace) -> dict[str, Any]:
    """The card and what it can do: products in bf16 and float32, copies."""
    device, rates = device_of(args), {}
    for name, dtype in (("bf16", torch.bfloat16), ("fp32", torch.float32)):
        best = 0.0
        for n in (64, 128) if args.rehearse else (4096, 8192, 16384):
            a = torch.randn(n, n, device=device).to(dtype)
            for _ in range(3):
                a @ a
            # Several in a row, as in training: the launch of one is hidden behind the one before.
            began = _time(device)
            for _ in range(10):
                a @ a
            best = max(best, 10 * 2 * n**3 / (_time(device) - began))
        rates[f"{name}_tflops"] = best / 1e12
    versions = {"torch": torch.__version__, "cuda": torch.version.cuda}
    copied = copy_rate(device) / 1e12
    return {"device": device_name(device), **versions, **rates, "copy_tb_per_second": copied}


def _time(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def firstlight(args: argparse.Namespace) -> dict[str, Any]:
    """Train as `firstlight train` does, from shards on disk."""
    size, device = size_of(args), device_of(args)
    clock, loader = Clock(size, device), OfLoader()
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        shards = Path(folder, "shards")
        shards.mkdir()
        draws = np.random.default_rng(0)
        for split, windows in (("train", 64), ("val", 2)):
            n = windows * size.windows * size.context + 1
            draws.integers(0, IDS, n, dtype=np.uint16).tofile(shards / f"{split}.bin")
        config = compose_config("train", words_of(size, args, folder))
        plain = arguments(config)
        built = build(plain)
        built["callbacks"] = {"watch": Watch(clock)}
        built["logger"] = {}
        built["trainer"] = functools.partial(built["trainer"], profiler=loader)
        fit(Experiment(**built), plain, [])
    return {**clock.figures(), "loader_share": loader.of_a_step() / clock.seconds}


def words_of(size: Size, args: argparse.Namespace, folder: str) -> list[str]:
    steps = size.warm_up + size.steps + size.watched
    return [
        "model=gpt2_small",
        f"model.emb_dim={size.width}",
        f"model.n_layers={size.layers}",
        f"model.n_heads={size.heads}",
        f"model.context_length={size.context}",
        f"model.vocab_size={size.vocab}",
        "model.drop_rate=0.0",
        "model.tie_weights=true",
        "model.init=gpt2",
        "tokenizer=bytes",
        "data=shards",
        f"data.path={folder}/shards",
        f"data.batch_size={size.windows}",
        "data.eval_batches=1",
        f"output_dir={folder}/run",
        "scheduler=constant",
        f"trainer.max_steps={steps}",
        f"trainer.eval_every_n_steps={steps}",
        f"trainer.log_every_n_steps={steps}",
        "trainer.precision=bf16-mixed",
        f"trainer.accelerator={'cpu' if args.rehearse else 'gpu'}",
        f"compile={args.compile}",
    ]


def loop(
    model: Any, optimizer: Any, loss: Callable[[Any, Any], Any], args: argparse.Namespace
) -> dict[str, Any]:
    """A plain training loop; batches are drawn ahead and sent as nanoGPT's train.py does."""
    size, device = size_of(args), device_of(args)
    clock = Clock(size, device)
    draws = np.random.default_rng(0)
    tokens = draws.integers(0, IDS, 64 * size.windows * size.context + 1, dtype=np.uint16)

    def batches() -> Iterator[list[torch.Tensor]]:
        while True:
            starts = torch.randint(len(tokens) - size.context - 1, (size.windows,)).tolist()
            parts = []
            for shift in (0, 1):
                rows = [tokens[s + shift : s + shift + size.context] for s in starts]
                part = torch.from_numpy(np.stack(rows).astype(np.int64))
                if device.type == "cuda":
                    part = part.pin_memory().to(device, non_blocking=True)
                parts.append(part)
            yield parts

    drawn = batches()
    inputs, targets = next(drawn)
    for step in range(1, size.warm_up + size.steps + size.watched + 1):
        with torch.autocast(device.type, torch.bfloat16):
            value = loss(inputs, targets)
        inputs, targets = next(drawn)
        value.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        clock.step_done(step)
    return clock.figures()


def nanogpt(args: argparse.Namespace) -> dict[str, Any]:
    size = size_of(args)
    module = load_nanogpt(args.nanogpt)
    config = module.GPTConfig(
        block_size=size.context,
        vocab_size=size.vocab,
        n_layer=size.layers,
        n_head=size.heads,
        n_embd=size.width,
        dropout=0.0,
        bias=False,
    )
    with contextlib.redirect_stdout(io.StringIO()):
        model = module.GPT(config).to(device_of(args)).train()
        optimizer = model.configure_optimizers(0.1, 6e-4, (0.9, 0.95), device_of(args).type)
    if args.compile:
        model.compile()
    return loop(model, optimizer, lambda x, y: model(x, y)[1], args)


def gpt2_of_transformers(size: Size, *, use_cache: bool) -> Any:
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=size.vocab,
        n_positions=size.context,
        n_embd=size.width,
        n_layer=size.layers,
        n_head=size.heads,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        use_cache=use_cache,
        bos_token_id=None,
        eos_token_id=None,
    )
    return GPT2LMHeadModel(config)


def transformers(args: argparse.Namespace) -> dict[str, Any]:
    model = gpt2_of_transformers(size_of(args), use_cache=False).to(device_of(args)).train()
    if args.compile:
        model.compile()
    optimizer = torch.optim.AdamW(model.parameters(), lr=6e-4, weight_decay=0.1, fused=True)

    def loss(inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        logits = model(inputs).logits.flatten(0, 1)
        return torch.nn.functional.cross_entropy(logits.float(), targets.flatten())

    return loop(model, optimizer, loss, args)


CONTENDERS = {"firstlight": firstlight, "nanoGPT": nanogpt, "transformers": transformers}


def training(args: argparse.Namespace) -> dict[str, Any]:
    """A contender trains a size."""
    # As nanoGPT's train.py; it reaches no product here, as all are in bf16.
    torch.set_float32_matmul_precision("high")
    torch.manual_seed(0)
    return CONTENDERS[args.contender](args)


def resume(args: argparse.Namespace) -> dict[str, Any]:
    """Runs that are killed with -9 and resumed, compared bit by bit with runs that were not."""
    kills = 1 if args.rehearse else 3
    words = [
        "verify.checks=[determinism,kills]",
        f"verify.kills={kills}",
        f"verify.steps={6 if args.rehearse else 12}",
        f"trainer.accelerator={'cpu' if args.rehearse else 'gpu'}",
        "trainer.precision=bf16-mixed",
        # Without it torch's attention adds up its gradient in any order.
        "trainer.deterministic=true",
        "tokenizer=bytes",
        "data.eval_batches=1",
        f"output_dir={args.out}/verify",
    ]
    if args.rehearse:
        words += ["model.emb_dim=16", "model.n_heads=2", "model.n_layers=1"]
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "firstlight", "verify", *words],
        capture_output=True,
        text=True,
        check=False,
    )
    print(done.stdout, done.stderr, file=sys.stderr)
    if done.returncode not in (0, 1):
        sys.exit(done.stderr.strip() or f"verify ended with {done.returncode}")
    found = {"bit-identical": done.returncode == 0, "kills": kills}
    if done.returncode == 1:
        found["found"] = done.stderr.strip().splitlines()[-1]
    return {**found, "seconds": time.perf_counter() - began}


def decoders(
    ours: Any, theirs: Any, prompts: torch.Tensor, n: int
) -> tuple[Callable[[], list[list[int]]], Callable[[], list[list[int]]]]:
    """Greedy decoding of `n` tokens for each of `prompts` (B, T), by us and by transformers."""
    from firstlight.decoding.greedy import Greedy

    rows, there = prompts.tolist(), prompts.to(ours.device)
    settings = {"do_sample": False, "attention_mask": torch.ones_like(there)}

    def by_us() -> list[list[int]]:
        made = Greedy().generate(ours, rows, max_new_tokens=n)
        return [[*row, *one[0].ids] for row, one in zip(rows, made, strict=True)]

    def by_them() -> list[list[int]]:
        return theirs.generate(there, max_new_tokens=n, **settings).tolist()

    return by_us, by_them


def generation(args: argparse.Namespace) -> dict[str, Any]:
    """Greedy decoding with the weights of a 124M: the same tokens as transformers, and how fast."""
    from firstlight.foreign.gpt2 import to_gpt2
    from firstlight.model.gpt import GPT

    size, device = size_of(args), device_of(args)
    n = 8 if args.rehearse else 128
    torch.manual_seed(0)
    ours = GPT(
        vocab_size=size.vocab,
        context_length=size.context,
        emb_dim=size.width,
        n_heads=size.heads,
        n_layers=size.layers,
        drop_rate=0.0,
        qkv_bias=True,
        tie_weights=True,
        init="gpt2",
    ).eval()
    theirs = gpt2_of_transformers(size, use_cache=True).eval()
    theirs.load_state_dict(to_gpt2(ours.state_dict(), n_layers=size.layers), strict=False)
    ours, theirs = ours.to(device), theirs.to(device)
    figures: dict[str, Any] = {}
    for batch in (1, 8):
        prompts = torch.randint(IDS, (batch, 8), generator=torch.Generator().manual_seed(1))
        by_us, by_them = decoders(ours, theirs, prompts, n)
        with torch.inference_mode():
            figures[f"same tokens, batch {batch}"] = by_us() == by_them()
            for name, run in (("firstlight", by_us), ("transformers", by_them)):
                began = _time(device)
                run()
                rate = batch * n / (_time(device) - began)
                figures[f"{name} fp32 tokens/s, batch {batch}"] = rate
    return figures


WHAT: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "card": card,
    "training": training,
    "resume": resume,
    "generation": generation,
}


def main() -> None:
    parser = described(__doc__)
    parser.add_argument("what", choices=WHAT)
    parser.add_argument("--contender", choices=CONTENDERS)
    parser.add_argument("--size", choices=SIZES, default="124M")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--nanogpt", type=nanogpt_clone)
    parser.add_argument("--rehearse", action="store_true")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    if not args.rehearse and not torch.cuda.is_available():
        sys.exit("no CUDA device is available here; --rehearse runs on a CPU")
    print(json.dumps(WHAT[args.what](args)))


if __name__ == "__main__":
    main()
