"""What a check is made of: properties by name, each with advice for the case that it fails."""

from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from firstlight.errors import did_you_mean, one_line, with_article

T = TypeVar("T")


class Broken(Exception):
    """A property does not hold: where, and by how much."""


class NotApplicable(Exception):
    """A property is about something that this part does not have; the message says what."""


class Property(NamedTuple):
    """Something that must hold of a part."""

    name: str
    check: Callable[[], None]
    """Raises `Broken` if it does not hold."""
    advice: str
    """What to do then."""


def check_all(
    subject: str, properties: Sequence[Property], skip: Collection[str] = ()
) -> dict[str, str]:
    """Check `properties` in their order, but for those in `skip`; what became of each, by name.

    No random number of the caller's is used up. All is computed in a single thread, which is faster
    for tiny models, and adds up in one order.

    Raises:
        AssertionError: the first that does not hold.
        ValueError: `skip` names none of them.
    """
    names = [property.name for property in properties]
    if isinstance(skip, str):
        raise ValueError(f"skip: {skip!r}: give a list, skip=[{skip!r}]")
    for name in skip:
        if name not in names:
            raise ValueError(
                f"skip: {name!r} is not a property{did_you_mean(name, names)}"
                f" (one of: {', '.join(names)})"
            )
    # In their order: the first ones say that a part can be called at all, without which the
    # messages of the later ones would mislead.
    found: dict[str, str] = {}
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for property in properties:
            found[property.name] = "skipped" if property.name in skip else _state(subject, property)
    finally:
        torch.set_num_threads(n_threads)
    return found


def made_by(make: Callable[[], T], kind: type[T]) -> T:
    """What `make` returns: a new one each time, of the class `kind`.

    Raises:
        Broken: it is no callable of this sort.
    """
    if isinstance(make, kind):
        raise Broken(
            f"{with_article(type(make).__name__)} was given: give what makes one, lambda: ..."
        )
    made = make()
    if not isinstance(made, kind):
        returned, wanted = with_article(type(made).__name__), with_article(kind.__name__)
        raise Broken(f"make returns {returned}, which is not {wanted}")
    if make() is made:
        raise Broken(f"make returns the same {type(made).__name__} again, not a new one each time")
    return made


def _state(subject: str, property: Property) -> str:
    """What becomes of `property`, in words.

    Raises:
        AssertionError: it does not hold.
    """
    try:
        # Parts draw from torch's global generator, which is the caller's.
        with torch.random.fork_rng(devices=[]):
            property.check()
    except NotApplicable as reason:
        return f"not applicable: {reason}"
    except Broken as problem:
        raise AssertionError(_message(subject, property, str(problem))) from None
    # With its traceback: the author of the part needs the line.
    except Exception as error:
        raised = f"{type(error).__name__}: {one_line(error)}"
        raise AssertionError(_message(subject, property, raised)) from error
    return "holds"


def _message(subject: str, property: Property, problem: str) -> str:
    return f"{subject}: {property.name}: {problem}. {property.advice}"


def difference(found: Tensor, wanted: Tensor) -> tuple[float, tuple[int, ...]]:
    """The largest difference in units of how much `wanted` varies, and where it is."""
    if found.shape != wanted.shape:
        raise Broken(f"the shape is {tuple(found.shape)}, it should be {tuple(wanted.shape)}")
    if found.numel() == 0:
        return 0.0, ()
    # In float64: a difference of two float32 numbers would be rounded as they are.
    found, wanted = found.detach().double().cpu(), wanted.detach().double().cpu()
    apart = (found - wanted).abs()
    # Where both are the same infinity, nothing is apart.
    apart = torch.where(found == wanted, 0.0, apart).nan_to_num(torch.inf, torch.inf)
    finite = wanted[wanted.isfinite()]
    scale = float(finite.std(correction=0)) if finite.numel() > 1 else 1.0
    # Rounding grows with the numbers themselves, not with how much they vary.
    scale = max(scale, 0.01 * float(finite.abs().max()) if finite.numel() else 1.0, 1e-30)
    place = torch.unravel_index(apart.argmax(), apart.shape)
    return float(apart.max()) / scale, tuple(int(number) for number in place)


def must_agree(found: Tensor, wanted: Tensor, tolerance: float, what: str) -> None:
    """Let `what` be broken if `found` is further from `wanted` than `tolerance` (see `difference`).

    `what` may have {place}: where the largest difference is.

    Raises:
        Broken: with the largest difference.
    """
    size, place = difference(found, wanted)
    if size > tolerance:
        raise Broken(
            f"{what.format(place=place)} (largest difference {size:.2g}, in units of how much they"
            f" vary; {tolerance:.0e} is allowed)"
        )
