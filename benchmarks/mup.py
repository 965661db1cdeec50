"""Whether the best learning rate of a narrow model is that of wider ones, with muP and without.

Trains a small GPT of each width at each rate, with each seed, in the standard parametrization and
with `parametrization=mup`, whose base is the first width. Prints, as Markdown, the mean validation
loss at the end by rate, with the lowest in bold, the lowest rate of each seed, and what it costs
each width to take the best rate of the first width.

At the first width both are the same run, which is made once. Threads are of no use at these sizes.

    OMP_NUM_THREADS=1 python benchmarks/mup.py --widths 64 128 256 512 --steps 200
"""

import io
import math
import tempfile
import time
from collections.abc import Mapping
from contextlib import redirect_stdout
from statistics import mean

from options import described, positive

import firstlight

HEAD = 16
WORDS = (
    *("tokenizer=bytes", "data=pydoc", "model=nano", "model.n_layers=1", "model.drop_rate=0"),
    *("model.context_length=32", "data.batch_size=8", "data.stride=null"),
    *("trainer.accelerator=cpu", "logger=[csv]", "callbacks=[]", "data.test_batches=0"),
    *("data.eval_batches=16", "data.untrained_eval_batches=1"),
)
"""Of every run, before those that are given."""
KINDS = {"standard": (), "mup": ("parametrization=mup",)}
DIVERGED = "a lower optimizer.lr"
"""What a run says whose loss or gradient is not finite, and no other."""

Losses = Mapping[tuple[str, int, float], list[float]]
"""Validation losses by seed, of a parametrization, a width and a rate; infinite if it diverged."""


def trained(kind: str, width: int, rate: float, seed: int, base: int, words: list[str]) -> float:
    """The validation loss at the end of a run."""
    of_kind = list(KINDS[kind])
    if of_kind:
        of_kind.append(f"parametrization.base_width={base}")
    size = [f"model.emb_dim={width}", f"model.n_heads={width // HEAD}"]
    with tempfile.TemporaryDirectory() as folder:
        place = f"output_dir={folder}/run"
        given = [*WORDS, *size, *of_kind, f"optimizer.lr={rate}", f"seed={seed}", place, *words]
        try:
            with redirect_stdout(io.StringIO()):
                run = firstlight.train(*given)
        except firstlight.RunError as error:
            if DIVERGED not in str(error):
                raise
            return math.inf
        return run.metrics["val/loss"]


def rows(losses: Losses, widths: list[int], rates: list[float]) -> list[str]:
    """The table."""
    names = " | ".join(f"{rate:.2g}" for rate in rates)
    lines = [f"| parametrization, width | {names} | best, by seed | the first width's best costs |"]
    lines.append("|---" * (len(rates) + 3) + "|")
    for kind in KINDS:
        taken = best_of(losses, kind, widths[0], rates)
        for width in widths:
            means = {rate: mean(losses[kind, width, rate]) for rate in rates}
            best = best_of(losses, kind, width, rates)
            cells = [f"**{m:.3f}**" if r == best else f"{m:.3f}" for r, m in means.items()]
            cost = means[taken] - means[best]
            by_seed = " ".join(f"{rate:.2g}" for rate in bests_by_seed(losses, kind, width, rates))
            cells += [by_seed, f"{cost:.3f}"]
            lines.append(f"| {kind}, {width} | {' | '.join(cells)} |")
    return lines


def best_of(losses: Losses, kind: str, width: int, rates: list[float]) -> float:
    """The rate with the lowest mean loss."""
    return min(rates, key=lambda rate: mean(losses[kind, width, rate]))


def bests_by_seed(losses: Losses, kind: str, width: int, rates: list[float]) -> list[float]:
    """The rate with the lowest loss, of each seed."""
    n_seeds = len(losses[kind, width, rates[0]])
    found = []
    for seed in range(n_seeds):
        found.append(min(rates, key=lambda rate: losses[kind, width, rate][seed]))
    return found


def verdict(losses: Losses, widths: list[int], rates: list[float]) -> str:
    """What the table shows: how far the best rate moves, in factors of the grid."""
    parts = []
    for kind in KINDS:
        places = [rates.index(best_of(losses, kind, width, rates)) for width in widths]
        at_edge = any(place in (0, len(rates) - 1) for place in places)
        step = places[-1] - places[0]
        moved = "does not move" if step == 0 else f"moves by {step:+d} places of the grid"
        edge = "; a best rate is at an end of the grid, so it may lie beyond" if at_edge else ""
        parts.append(f"{kind}: from width {widths[0]} to {widths[-1]} the best rate {moved}{edge}")
    return "\n".join(parts)


def main() -> None:
    """Train, and print the table."""
    parser = described(__doc__)
    parser.add_argument("--widths", type=positive, nargs="+", default=[64, 128, 256, 512])
    parser.add_argument("--steps", type=positive, default=200)
    parser.add_argument("--seeds", type=positive, default=3)
    parser.add_argument("--lowest", type=float, default=5e-4, help="the lowest rate")
    parser.add_argument("--rates", type=positive, default=6, help="rates, each twice that before")
    parser.add_argument("overrides", nargs="*", help="of every run: optimizer=muon")
    options = parser.parse_args()
    rates = [options.lowest * 2**n for n in range(options.rates)]
    length = [f"trainer.max_steps={options.steps}", f"scheduler.warmup_steps={options.steps // 10}"]
    length.append(f"trainer.eval_every_n_steps={options.steps}")
    losses: dict[tuple[str, int, float], list[float]] = {}
    words, seeds = [*length, *options.overrides], range(1, options.seeds + 1)
    base, begun = options.widths[0], time.monotonic()
    for width in options.widths:
        for kind in KINDS:
            for rate in rates:
                if width == base and kind != "standard":
                    losses[kind, width, rate] = losses["standard", width, rate]
                    continue
                found = [trained(kind, width, rate, seed, base, words) for seed in seeds]
                losses[kind, width, rate] = found
                shown = " ".join(f"{loss:.3f}" for loss in found)
                passed = time.monotonic() - begun
                print(f"{passed:6.0f} s  {kind:<8} {width:>4} {rate:<7.2g} {shown}", flush=True)
    print("\n".join(["", *rows(losses, options.widths, rates), ""]))
    print(verdict(losses, options.widths, rates))


if __name__ == "__main__":
    main()
