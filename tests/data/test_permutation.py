import numpy as np
import pytest

from firstlight.data.permutation import Permutation


def test_it_is_a_permutation_of_every_size():
    sizes = [*range(1, 300), 2**10, 2**10 + 1, 2**12 - 1, 2**16, 2**16 + 1, 100_003]
    for n in sizes:
        places = Permutation(n, "test")(np.arange(n))
        assert np.array_equal(np.sort(places), np.arange(n)), n


def test_of_numbers_beyond_memory_no_two_have_the_same_place():
    n = 10**10 + 19
    numbers = np.concatenate([np.arange(200_000), np.arange(n - 200_000, n)])
    places = Permutation(n, "test")(numbers)
    assert len(np.unique(places)) == len(numbers)
    assert places.min() >= 0 and places.max() < n
    # Spread over all of the range: a sixteenth in each sixteenth.
    counts = np.bincount(places * 16 // n, minlength=16)
    assert abs(counts / counts.mean() - 1).max() < 0.03


def test_its_values_stay_what_they_are():
    # A run that is resumed with a later version has to find the order that it began with.
    assert Permutation(11, 1, "epoch", 0)(np.arange(11)).tolist() == GOLDEN_11
    assert Permutation(10**10 + 19, 123, "epoch", 7)(np.arange(5)).tolist() == GOLDEN_LARGE
    assert Permutation(2**62, 1)(np.array([0, 2**62 - 1])).tolist() == GOLDEN_LARGEST


GOLDEN_11 = [4, 2, 7, 0, 5, 3, 1, 6, 10, 9, 8]
GOLDEN_LARGE = [5017022373, 9839053918, 3445380489, 2314523476, 3361571812]
GOLDEN_LARGEST = [4358061788993210345, 1527653151705202973]


def test_a_number_has_the_same_place_whatever_it_is_asked_with():
    permutation = Permutation(1000, "test")
    together = permutation(np.arange(1000))
    assert [permutation(np.array([i]))[0] for i in range(0, 1000, 37)] == together[::37].tolist()


def test_other_keys_make_other_permutations():
    seen = {
        tuple(Permutation(50, seed, "epoch", epoch)(np.arange(50)))
        for seed in range(4)
        for epoch in range(4)
    }
    assert len(seen) == 16


@pytest.mark.parametrize(
    ("n", "n_keys"), [(5, 400), (6, 400), (7, 400), (16, 400), (17, 400), (64, 300), (100, 200)]
)
def test_every_number_is_as_likely_at_every_place(n, n_keys):
    counts = np.zeros((n, n))
    for key in range(n_keys):
        counts[np.arange(n), Permutation(n, key)(np.arange(n))] += 1
    assert chi2_in_deviations(counts, n_keys / n, (n - 1) ** 2) < 4


@pytest.mark.parametrize(("n", "n_keys"), [(5, 400), (16, 400), (64, 300), (333, 200), (1000, 100)])
def test_what_follows_a_number_does_not_depend_on_it(n, n_keys):
    counts = np.zeros(n)
    for key in range(n_keys):
        places = Permutation(n, key)(np.arange(n))
        counts += np.bincount((places[1:] - places[:-1]) % n, minlength=n)
    assert chi2_in_deviations(counts[1:], n_keys, n - 2) < 4


def chi2_in_deviations(counts, expected, freedom):
    chi2 = ((counts - expected) ** 2 / expected).sum()
    return (chi2 - freedom) / np.sqrt(2 * freedom)
