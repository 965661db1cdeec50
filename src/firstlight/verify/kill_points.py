"""When to kill: drawn from a seed, over the whole life of a process."""

import random
from collections import Counter

from firstlight.verify.process import KINDS, KillPoint, Life

SOON = 0.005
"""Most seconds between a change of a file and the kill: before, during or after the next write."""


class KillPoints:
    """Draws when to kill: half evenly in time, half right after a file has changed.

    `whole` is the life of a process that made the whole run. A process that resumes one needs
    another time to begin, which is learned from those that did.
    """

    def __init__(self, whole: Life, seed: int) -> None:
        self.random = random.Random(seed)
        self.counts = Counter(kind for _, kind in whole.changes)
        # A process that resumes is at first taken to start up like one that begins.
        first_row = whole.first_row or whole.seconds
        self.seconds_left = whole.seconds - first_row
        self.start_up = {False: first_row, True: first_row}
        """Seconds to the first row, by whether the process resumes a run."""

    def draw(self, *, share: float, continues: bool) -> KillPoint:
        """A point in the life of a process that has `share` of the steps to make."""
        # Half of the points: anywhere in the expected life of the process.
        if self.random.random() < 0.5:
            life = self.start_up[continues] + share * self.seconds_left
            return KillPoint(self.random.uniform(0, life))
        # The other half: soon after a change. Kinds are drawn first, as rows are many, ends few.
        kind = self.random.choice([kind for kind in KINDS if self.counts[kind]])
        most = self.counts[kind]
        if kind not in ("folder", "end"):  # these do not depend on the number of steps
            most = max(1, round(share * most))
        return KillPoint(self.random.uniform(0, SOON), kind, self.random.randint(1, most))

    def learn(self, life: Life, *, continues: bool) -> None:
        """Take how long a process needed to begin from `life`, if it came that far."""
        self.start_up[continues] = life.first_row or self.start_up[continues]
