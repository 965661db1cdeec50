"""The suffix automaton of a sample, which another text is read through.

Blumer et al. 1985, "The smallest automaton recognizing the subwords of a text". It has at most two
states an id; reading a text takes time linear in its length, whatever repeats in either.
"""

from collections.abc import Iterable

ROOT = 0


class SuffixAutomaton:
    """Knows every run of ids of `sample`; reads a text, and keeps the longest runs that it has.

    A state stands for runs that end at the same places of the sample. `link` leads to the state of
    the longest of their endings that also ends elsewhere.
    """

    def __init__(self, sample: Iterable[int]) -> None:
        self.next: list[dict[int, int]] = [{}]
        self.link = [ROOT]
        self.length = [0]
        """Ids in the longest run of each state."""
        self.prefixes: list[int] = []
        """The state of the sample up to each of its ids."""
        for token in sample:
            self._extend(token)
        self.best = [0] * len(self.next)
        """By state, the longest of its runs that was read."""
        self.end = [0] * len(self.next)
        """Where that run ended in the text."""
        self.state, self.run = ROOT, 0

    def _extend(self, token: int) -> None:
        last = self.prefixes[-1] if self.prefixes else ROOT
        new = self._add(self.length[last] + 1, {})
        self.prefixes.append(new)
        state = last
        while token not in self.next[state]:
            self.next[state][token] = new
            if state == ROOT:
                return  # the first of its kind: its only shorter ending is the empty run
            state = self.link[state]
        reached = self.next[state][token]
        if self.length[reached] == self.length[state] + 1:
            self.link[new] = reached
            return
        # Only the shorter runs of `reached` end here as well: they get a state of their own.
        shorter = self._add(self.length[state] + 1, dict(self.next[reached]))
        self.link[shorter] = self.link[reached]
        self.link[reached] = self.link[new] = shorter
        while self.next[state].get(token) == reached:
            self.next[state][token] = shorter
            if state == ROOT:
                break
            state = self.link[state]

    def _add(self, length: int, following: dict[int, int]) -> int:
        self.next.append(following)
        self.link.append(ROOT)
        self.length.append(length)
        return len(self.next) - 1

    def restart(self) -> None:
        """Forget what was read last: the next id does not follow it."""
        self.state, self.run = ROOT, 0

    def read(self, ids: list[int], place: int) -> None:
        """Read ids, the first of which is at `place` in the text."""
        following, best = self.next, self.best
        state, run = self.state, self.run
        for here, token in enumerate(ids, start=place + 1):
            while state != ROOT and token not in following[state]:
                state = self.link[state]
                run = self.length[state]
            if token not in following[state]:
                continue
            state = following[state][token]
            run += 1
            if run > best[state]:
                best[state], self.end[state] = run, here
        self.state, self.run = state, run

    def longest(self) -> tuple[list[int], list[int]]:
        """Return, for each id of the sample, the longest run up to it that was read, and its place.

        The place is that of the run's first id in the text.
        """
        # What ends with a run was read with it. Longer states come first: they pass on to shorter.
        for state in sorted(range(1, len(self.next)), key=self.length.__getitem__, reverse=True):
            shorter = self.link[state]
            if self.best[state] and self.best[shorter] < self.length[shorter]:
                self.best[shorter], self.end[shorter] = self.length[shorter], self.end[state]
        lengths: list[int] = []
        places: list[int] = []
        for prefix in self.prefixes:
            state = prefix
            while state != ROOT and self.best[state] == 0:
                state = self.link[state]
            lengths.append(self.best[state])
            places.append(self.end[state] - self.best[state])
        return lengths, places
