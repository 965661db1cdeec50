"""A permutation of any size that is computed, not stored.

A Feistel network (Luby and Rackoff 1988) permutes the numbers below a power of four. A number that
it takes to `n` or above is taken further until it is below (cycle walking: Black and Rogaway 2002).
"""

import hashlib

import numpy as np

ROUNDS = 10
"""With 4 or 6 rounds a permutation of some dozen numbers is measurably not uniform."""
AT_ONCE = 2**14
"""Numbers to ask for together, about: for few numpy takes longer to call."""


class Permutation:
    """A permutation of the numbers below `n`, chosen by `key`; it takes no memory.

    A number costs 0.2 to 0.8 us, if thousands are asked for at once.
    """

    def __init__(self, n: int, *key: object) -> None:
        self.n = n
        n_bits = max((n - 1).bit_length(), 2)
        half = (n_bits + 1) // 2
        self.half, self.low = np.uint64(half), np.uint64(2**half - 1)
        self.keys = [
            np.frombuffer(hashed(*key, number)[:8], dtype="<u8")[0] for number in range(ROUNDS)
        ]

    def __call__(self, numbers: np.ndarray) -> np.ndarray:
        """Return where `numbers` (N,), each from 0 to n - 1, are taken: (N,), int64."""
        places = self._once(numbers.astype(np.uint64))
        outside = np.flatnonzero(places >= self.n)
        while outside.size > 0:
            again = self._once(places[outside])
            places[outside] = again
            outside = outside[again >= self.n]
        return places.astype(np.int64)

    def _once(self, numbers: np.ndarray) -> np.ndarray:
        left, right = numbers >> self.half, numbers & self.low
        for key in self.keys:
            left, right = right, left ^ (_mixed(right, key) & self.low)
        return (left << self.half) | right


def _mixed(numbers: np.ndarray, key: np.uint64) -> np.ndarray:
    """Hash each of `numbers` with `key`; every bit of the result depends on all bits of both."""
    mixed = (numbers ^ key) * np.uint64(0x9E3779B97F4A7C15)  # modulo 2**64
    mixed ^= mixed >> np.uint64(32)
    mixed *= np.uint64(0xD6E8FEB86659FD93)
    return mixed ^ (mixed >> np.uint64(32))


def hashed(*parts: object) -> bytes:
    """Return 32 bytes that are unrelated to those of similar parts."""
    return hashlib.sha256("/".join(map(str, parts)).encode()).digest()
