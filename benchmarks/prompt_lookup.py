"""Compare plain decoding with prompt lookup: one row, float32, in turn.

Two kinds of text are generated. Text like the training text: a small GPT that has learned a few
pages by heart guesses from those pages, or from its own text alone. Text unlike it: sampling at
temperature 1.5, and GPT-2's 124M layout with random weights. It is asserted that every pair gives
the same tokens.

    .venv/bin/python benchmarks/prompt_lookup.py           # about five minutes, most of it training
"""

import argparse
import functools
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.resources import files
from pathlib import Path

import torch

from firstlight.decoding.greedy import Greedy
from firstlight.decoding.prompt_lookup import NGrams, PromptLookup
from firstlight.decoding.sample import Sample
from firstlight.decoding.stepwise import Stepwise
from firstlight.model.base import LanguageModel
from firstlight.model.gpt import GPT
from firstlight.sources import find_checkpoint, load_checkpoint

PAGES = 6_000
"""Number of characters to learn by heart."""
STEPS = 200


def learn_by_heart(folder: Path, text: str) -> Path:
    (folder / "text.txt").write_text(text, encoding="utf-8")
    overrides = [
        "data=text", f"data.path={folder / 'text.txt'}", f"output_dir={folder / 'run'}", f"trainer.max_steps={STEPS}",
        "model.context_length=256", "model.drop_rate=0.0", "data.train_ratio=0.8", "data.stride=64",
        "data.batch_size=8", f"trainer.eval_every_n_steps={STEPS}", "logger=[]", "~callbacks.plots",
    ]  # fmt: skip
    subprocess.run(
        [sys.executable, "-m", "firstlight", "train", *overrides],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    return folder / "run" / "model.safetensors"


def compare(
    name: str,
    model: LanguageModel,
    prompts: list[list[int]],
    decoding: Stepwise,
    text: NGrams,
    tokens: int,
    rounds: int,
) -> None:
    passes = 0

    def count(*_: object) -> None:
        nonlocal passes
        passes += 1

    handle = model.drop_emb.register_forward_hook(count)
    lookup = functools.partial(PromptLookup, max_guesses=7, text=text)
    seconds: dict[bool, list[float]] = {False: [], True: []}
    # The first round warms up, and is not counted.
    for round_ in range(rounds + 1):
        for prompt in prompts:
            found = {}
            for guessing in (False, True):
                passes, began = 0, time.perf_counter()
                settings = {"make_context": lookup} if guessing else {}
                stream = decoding.stream(
                    model, [prompt], max_new_tokens=tokens, seeds=[round_], **settings
                )
                found[guessing] = [token.id for token in stream]
                if round_:
                    seconds[guessing].append(time.perf_counter() - began)
            assert found[False] == found[True], "guesses changed the text"
    handle.remove()
    plain, guessed = (statistics.median(seconds[guessing]) for guessing in (False, True))
    rate = f"{tokens / plain:8.1f} -> {tokens / guessed:8.1f} tokens/s   {plain / guessed:5.2f}x"
    print(f"{name:<58} {rate}   {tokens / passes:4.1f} tokens a pass")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=150)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    stories = files("firstlight.data.texts") / "the_lamplighters.txt"
    story = stories.read_text(encoding="utf-8")[:PAGES]
    with tempfile.TemporaryDirectory() as folder:
        loaded = load_checkpoint(find_checkpoint(str(learn_by_heart(Path(folder), story))))
        model, tokenizer = loaded.build_model().fused(), loaded.build_tokenizer()
    ids = tokenizer.encode(story)
    prompts = [ids[start : start + 32] for start in (50, 350, 650, 950)]
    run = functools.partial(compare, tokens=args.tokens, rounds=args.rounds)
    nothing = NGrams()
    run("by heart, greedy, guessing from the pages", model, prompts, Greedy(), NGrams(ids))
    run(
        "by heart, temperature 0.8, guessing from the pages",
        model,
        prompts,
        Sample(temperature=0.8),
        NGrams(ids),
    )
    run("by heart, greedy, guessing from its own text", model, prompts, Greedy(), nothing)
    run(
        "by heart, temperature 1.5, guessing from the pages",
        model,
        prompts,
        Sample(temperature=1.5),
        NGrams(ids),
    )
    torch.manual_seed(0)
    sizes = {
        "vocab_size": 50257,
        "context_length": 1024,
        "emb_dim": 768,
        "n_heads": 12,
        "n_layers": 12,
    }
    random = GPT(**sizes, drop_rate=0.0, tie_weights=True, init="gpt2").fused()
    prompt = torch.randint(50257, (64,), generator=torch.Generator().manual_seed(1)).tolist()
    run("124M, random weights, temperature 1", random, [prompt * 2], Sample(), nothing)
    run("124M, random weights, greedy", random, [prompt], Greedy(), nothing)


if __name__ == "__main__":
    main()
