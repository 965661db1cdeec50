"""How often the verdicts of `firstlight.statistics.compare` are wrong, on losses whose truth is known.

For equal configs: in how many draws any pair is told apart (family error, 5 % are promised), and
how often the interval of the first two holds their difference. With a gap: the share of worse
configs that are told apart from the best one (power). Prints Markdown.
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "statistics"))

from simulated import World, outcome


def worlds() -> list[tuple[str, World]]:
    """The cases of the table, each with its name."""
    found = []
    for windows in (2, 8, 34, 256):
        for seeds in (2, 3, 5):
            for configs in (2, 4, 10):
                world = World(configs, seeds, windows, neighbours=0.8, of_seed=0.01, of_text=0.03)
                found.append(("equal", world))
    for configs in (4, 10):
        world = World(configs, seeds=5, shared=0.5)
        found.append(("2, 3 and 5 seeds", replace(world, fewer=(2, 3, 5))))
        found.append(("other seeds each", replace(world, fewer=(2, 3, 5), same_seeds=False)))
        found.append(("the last is wild", World(configs, of_text=0, wild=5)))
    ten = World(configs=10, of_text=0, of_both=0.01, gap=0.09)
    found.append(("gap of 3 deviations", ten))
    found.append(("gap of 3 deviations", replace(ten, shared=0.9)))
    return found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draws", type=int, default=1000, help="of each case")
    draws = parser.parse_args().draws
    print("| case | configs | seeds | windows | shared | family error | coverage | power |")
    print("|---|---|---|---|---|---|---|---|", flush=True)
    for name, world in worlds():
        of_case = draws if world.configs < 10 else max(draws // 4, 100)
        found = outcome(world, of_case)
        power = f"{found.power:.2f}" if world.gap else ""
        print(
            f"| {name} | {world.configs} | {world.seeds} | {world.windows} | {world.shared:g} |"
            f" {found.family_error:.3f} | {found.coverage:.3f} | {power} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
