"""Measure what it costs to look for samples in a training text, and for validation in training.

    .venv/bin/python benchmarks/memorisation.py [--most 10000000] [--rounds 3]

The text is drawn: ids by Zipf's law, as words are, half of the sample copied from it. Times are the
least of the rounds, in processor time of one core, so that other work of the machine counts little;
memory is the peak that numpy and Python allocate (tracemalloc), without the texts. Prints Markdown.
"""

import time
import tracemalloc
from collections.abc import Callable
from functools import partial

import numpy as np
from options import described, positive

from firstlight.data.leakage import MOST_COMPARED
from firstlight.memorisation import copies, overlap

N = 13
"""Tokens of GPT-2's vocabulary in about 50 bytes of English."""
N_IDS = 50_257


def drawn(n_tokens: int, seed: int) -> np.ndarray:
    """Draw a text of GPT-2's ids, the k-th of which occurs in proportion to 1 / k."""
    ranks = np.arange(1, N_IDS + 1)
    probabilities = 1 / ranks
    generator = np.random.default_rng(seed)
    return generator.choice(N_IDS, n_tokens, p=probabilities / probabilities.sum()).astype("<u2")


def cost(rounds: int, measured: Callable[[], object]) -> tuple[float, float]:
    """Seconds of processor time, and megabytes at the peak of a further round."""
    seconds: list[float] = []
    for _ in range(rounds):
        begin = time.process_time()
        measured()
        seconds.append(time.process_time() - begin)
    tracemalloc.start()
    measured()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return min(seconds), peak / 1e6


def main() -> None:
    """Print the table."""
    parser = described(__doc__)
    parser.add_argument("--most", type=positive, default=10**7, help="tokens of the longest text")
    parser.add_argument("--rounds", type=positive, default=3)
    options = parser.parse_args()
    print("| tokens | what | ms | ns a token | MB |\n|---:|---|---:|---:|---:|")
    n_tokens = min(10**5, options.most)
    while n_tokens <= options.most:
        text, validation = drawn(n_tokens, 0), drawn(n_tokens // 10, 1)
        every = -(-len(validation) // MOST_COMPARED)
        cases: list[tuple[str, Callable[[], object]]] = []
        for size in (50, 1000):
            sample = np.concatenate([drawn(size // 2, 2), text[: size // 2]])
            cases.append((f"a sample of {size:,}", partial(copies, sample, [text], N)))
        compared = partial(overlap, [validation], [text], N, every=every)
        cases.append(("validation, a tenth as long", compared))
        for name, measured in cases:
            seconds, peak = cost(options.rounds, measured)
            print(
                f"| {n_tokens:,} | {name} | {1e3 * seconds:,.1f} |"
                f" {1e9 * seconds / n_tokens:.1f} | {peak:.1f} |",
                flush=True,
            )
        n_tokens *= 10


if __name__ == "__main__":
    main()
