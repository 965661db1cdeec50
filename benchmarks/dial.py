"""How far the learning rate and the batch of `model=dial` are from the best near them.

Trains the model of each depth with the rate that the rule gives, and with that rate times each
factor; the same for the batch. Prints Markdown, in order of the factors, with the best in bold.

    python benchmarks/dial.py --depths 1 2 --seeds 2 data=pydoc tokenizer.vocab_size=512
"""

import tempfile
from pathlib import Path
from statistics import mean

from options import described, positive

import firstlight

FACTORS = (0.25, 0.5, 1.0, 2.0, 4.0)


def loss(words: list[str], seeds: int) -> float:
    """The mean of the lowest validation losses over the seeds."""
    found = []
    for seed in range(1, seeds + 1):
        with tempfile.TemporaryDirectory() as folder:
            quiet = ["logger=[csv]", "callbacks=[default]", "~callbacks.sample_generation"]
            run = firstlight.train(
                *words, *quiet, f"seed={seed}", output_dir=str(Path(folder) / "run")
            )
            found.append(run.metrics["val/loss"])
    return mean(found)


def row(name: str, losses: list[float]) -> str:
    """A line of the table."""
    best = min(losses)
    cells = [f"**{value:.3f}**" if value == best else f"{value:.3f}" for value in losses]
    return f"| {name} | {' | '.join(cells)} |"


def main() -> None:
    """Print the table."""
    parser = described(__doc__)
    parser.add_argument("--depths", type=positive, nargs="+", default=[1])
    parser.add_argument("--seeds", type=positive, default=1)
    parser.add_argument("overrides", nargs="*", help="of every run: data=pydoc")
    options = parser.parse_args()
    print(f"| depth, what | {' | '.join(f'x {factor:g}' for factor in FACTORS)} |", flush=True)
    print("|---" * (len(FACTORS) + 1) + "|", flush=True)
    for depth in options.depths:
        words = ["model=dial", f"model.depth={depth}", *options.overrides]
        config = firstlight.compose(*words, resolve=True)
        rate, batch = config["optimizer"]["lr"], config["data"]["batch_size"]
        losses = [
            loss([*words, f"optimizer.lr={rate * factor}"], options.seeds) for factor in FACTORS
        ]
        print(row(f"{depth}, learning rate {rate:g}", losses), flush=True)
        losses = [
            # The rate and the weight decay follow the batch as the rule has it.
            loss([*words, f"data.batch_size={max(1, round(batch * factor))}"], options.seeds)
            for factor in FACTORS
        ]
        print(row(f"{depth}, batch of {batch} windows", losses), flush=True)


if __name__ == "__main__":
    main()
