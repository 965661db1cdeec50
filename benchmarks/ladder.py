"""How often the predictions of `firstlight.statistics.fit_ladder` hold, of 95 %.

Ladders are drawn from a law that is known, with noise of the seeds and of the rungs: how many of
them predict anything, and of these how often the next rung's loss, and the best size there, lie in
their intervals. Prints Markdown.
"""

import argparse
import sys
from itertools import product
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "statistics"))

from simulated_ladder import World, outcome


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draws", type=int, default=200, help="ladders of each case")
    parser.add_argument("--resamples", type=int, default=200, help="of each ladder")
    arguments = parser.parse_args()
    print("| sizes | seeds | of seeds | of rungs | predicts | loss holds | size holds | width |")
    print("|---|---|---|---|---|---|---|---|", flush=True)
    noises = ((0.002, 0.0), (0.01, 0.0), (0.004, 0.004))
    for sizes, seeds, (of_seed, of_rung) in product((4, 6), (2, 3), noises):
        world = World(sizes=sizes, seeds=seeds, of_seed=of_seed, of_rung=of_rung)
        found = outcome(world, arguments.draws, arguments.resamples)
        print(
            f"| {sizes} | {seeds} | {of_seed:g} | {of_rung:g} | {found.predicts:.2f} |"
            f" {found.loss_holds:.3f} | {found.size_holds:.3f} | {found.width:.3f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
