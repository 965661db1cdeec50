"""How often the intervals of `firstlight.statistics.mean_of_chosen` and `mean_over_text` hold.

The best of several configs is chosen, and the interval of its mean over seeds either counts that
(corrected) or not (Student's of this config alone): how often each holds the true mean, of 95 %.
Then the same of a mean over windows of text whose neighbours are alike. Prints Markdown.
"""

import argparse
import sys
from itertools import product
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "statistics"))

from simulated import World, choice, text_coverage


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draws", type=int, default=2000, help="of each case")
    draws = parser.parse_args().draws
    print("| configs | seeds | shared | gap | wild | corrected | on another text | of it alone |")
    print("|---|---|---|---|---|---|---|---|", flush=True)
    cases = [(0.0, 0.0, 1.0), (0.5, 0.0, 1.0), (0.9, 0.0, 1.0), (0.5, 0.03, 1.0), (0.0, 0.0, 5.0)]
    for configs, seeds, (shared, gap, wild) in product((2, 4, 10, 30), (2, 3, 5), cases):
        world = World(configs, seeds, shared=shared, gap=gap, wild=wild)
        (corrected, alone), (other, _) = choice(world, draws), choice(world, draws, like_test=0.7)
        print(
            f"| {configs} | {seeds} | {shared:g} | {gap:g} | {wild:g} | {corrected:.3f} |"
            f" {other:.3f} | {alone:.3f} |",
            flush=True,
        )
    print("\n| windows | correlation of neighbours | holds |\n|---|---|---|", flush=True)
    for windows, neighbours in product((2, 8, 34, 60, 256), (0.0, 0.6, 0.8, 0.9)):
        held = text_coverage(windows, neighbours, draws)
        print(f"| {windows} | {neighbours:g} | {held:.3f} |", flush=True)


if __name__ == "__main__":
    main()
