"""Compare greedy decoding in tokens per second: the book, transformers, litgpt and firstlight.

All have the same random weights in GPT-2's 124M layout (litgpt has no GPT-2: a Pythia of the same sizes), and take
turns. The limit is the speed of reading every weight matrix once per token: the same matrices, multiplied by a vector.

    .venv/bin/python benchmarks/decoding.py                # about ten minutes; litgpt joins if it is installed
    .venv/bin/python benchmarks/decoding.py --tokens 50 --rounds 1 --precisions fp32
"""

import argparse
import platform
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from page import GPTModel, generate_text_simple
from transformers import GPT2Config, GPT2LMHeadModel
from transformers.utils import logging

from firstlight.decoding.greedy import Greedy
from firstlight.foreign.gpt2 import to_gpt2
from firstlight.model.gpt import GPT
from firstlight.model.int8 import quantize_int8

SIZES = {"vocab_size": 50257, "context_length": 1024, "emb_dim": 768, "n_heads": 12, "n_layers": 12}
PROMPT = 4
"""Tokens of the prompt, as few as in the book."""
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def build(dtype: torch.dtype) -> tuple[GPT, GPT2LMHeadModel]:
    torch.manual_seed(0)
    ours = GPT(**SIZES, drop_rate=0.0, qkv_bias=True, tie_weights=True, init="gpt2").eval()
    theirs = GPT2LMHeadModel(GPT2Config(bos_token_id=None, eos_token_id=None)).eval()
    theirs.load_state_dict(to_gpt2(ours.state_dict(), n_layers=SIZES["n_layers"]), strict=False)
    return ours.to(dtype), theirs.to(dtype)


def build_litgpt(dtype: torch.dtype):
    """Build a Pythia of GPT-2's sizes; None if litgpt is not installed."""
    try:
        from litgpt import GPT as LitGPT
        from litgpt import Config
    except ImportError:
        return None
    config = Config.from_name(
        "pythia-160m", vocab_size=50257, padded_vocab_size=50257, block_size=1024
    )
    with torch.device("cpu"):
        return LitGPT(config).to(dtype).eval()


def read_once(model: GPT, inputs: torch.Tensor) -> None:
    """Multiply every weight matrix by one vector, the least that a token takes."""
    for module in model.modules():
        if isinstance(module, torch.nn.Linear):
            F.linear(inputs[:, : module.in_features], module.weight)


def contenders(
    dtype: torch.dtype, batch: int, tokens: int, with_page: bool
) -> dict[str, Callable[[], object]]:
    ours, theirs = build(dtype)
    prompts = torch.randint(50257, (batch, PROMPT), generator=torch.Generator().manual_seed(1))
    rows = prompts.tolist()
    runs: dict[str, Callable[[], object]] = {}
    if with_page:
        page = GPTModel(ours).to(dtype).eval()
        runs["page"] = lambda: generate_text_simple(page, prompts, tokens, 1024)
    lit = build_litgpt(dtype)
    if lit is not None:
        from litgpt.generate.base import generate

        lit.set_kv_cache(batch_size=1, max_seq_length=1024)

        def run_litgpt() -> None:
            # litgpt's generate takes one prompt.
            for row in prompts:
                generate(lit, row, max_returned_tokens=PROMPT + tokens, temperature=0.0, top_k=1)

        runs["litgpt"] = run_litgpt
    settings = {
        "max_new_tokens": tokens,
        "do_sample": False,
        "attention_mask": torch.ones_like(prompts),
    }
    runs["transformers"] = lambda: theirs.generate(prompts, **settings).tolist()
    fused = ours.fused()
    runs["firstlight"] = lambda: [
        [*row, *c[0].ids]
        for row, c in zip(rows, Greedy().generate(fused, rows, max_new_tokens=tokens), strict=True)
    ]
    if dtype == torch.bfloat16:
        small = quantize_int8(build(torch.float32)[0])
        runs["firstlight int8"] = lambda: Greedy().generate(small, rows, max_new_tokens=tokens)
    if batch == 1:
        vector = torch.randn(1, 4 * 768).to(dtype)
        runs["limit"] = lambda: [read_once(fused, vector) for _ in range(tokens)]
    return runs


def measure(dtype: torch.dtype, batch: int, tokens: int, rounds: int, with_page: bool) -> None:
    runs = contenders(dtype, batch, tokens, with_page)
    if dtype == torch.float32:
        assert runs["firstlight"]() == runs["transformers"](), "not the same tokens"
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    with torch.inference_mode():
        for _ in range(rounds):
            for name, run in runs.items():
                began = time.perf_counter()
                run()
                seconds[name].append(time.perf_counter() - began)
    medians = {name: statistics.median(s) for name, s in seconds.items()}
    for name, s in medians.items():
        to_transformers = medians["transformers"] / s
        of_limit = f"{medians['limit'] / s:7.0%}" if "limit" in medians else ""
        rate = f"{batch * tokens / s:9.1f} tokens/s {to_transformers:6.2f}x {of_limit:>8}"
        print(
            f"  {name:<16} {rate}  (slowest/fastest {max(seconds[name]) / min(seconds[name]):.2f})"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--precisions", nargs="+", default=["fp32", "bf16"], choices=DTYPES)
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--page", action=argparse.BooleanOptionalAction, default=True)
    args = parser.parse_args()
    logging.set_verbosity_error()
    machine = platform.processor() or platform.machine()
    print(
        f"{machine}, {torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads,"
        f" torch {torch.__version__}; x: times transformers; %: of the limit"
    )
    for precision in args.precisions:
        for batch in args.batches:
            print(f"{precision}, batch {batch}, {args.tokens} new tokens")
            # The book's loop recomputes everything for each token: one measurement is enough.
            with_page = args.page and precision == "fp32" and batch == 1
            measure(DTYPES[precision], batch, args.tokens, args.rounds, with_page)


if __name__ == "__main__":
    main()
