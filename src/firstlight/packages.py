"""Installed packages that add parts to firstlight, found by their entry points, and our extras.

A package declares the entry point in its pyproject.toml:

    [project.entry-points."firstlight.conf"]
    mylab = "mylab"

Its folder `conf/` then belongs to the config, and its classes may be named in `_target_`. Installed
code is trusted, as Python trusts it; nothing is imported here.
"""

import functools
import importlib.util
import re
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import Distribution, EntryPoint, distributions, requires
from pathlib import Path

from firstlight.errors import one_line, shorten

GROUP = "firstlight.conf"
"""The group of the entry points."""
_MODULE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", re.ASCII)


def with_extra(name: str) -> str:
    """The command that installs the extra `name` of firstlight, which no package index has.

    From a checkout it is the extra itself, otherwise the packages that it stands for.
    """
    checkout = Path(__file__).parents[2]
    if (checkout / "pyproject.toml").is_file():
        place = "." if checkout == Path.cwd() else str(checkout)
        return f"pip install -e {shlex.quote(f'{place}[{name}]')}"
    wanted: list[str] = []
    for line in requires("firstlight") or ():
        requirement, _, marker = line.partition(";")
        if re.search(rf"""extra == ['"]{name}['"]""", marker):
            wanted.append(shlex.quote(requirement.strip()))
    return f"pip install {' '.join(wanted)}"


@dataclass(frozen=True)
class Package:
    """A package with a folder `conf/`; `distribution` is the name under which it is installed."""

    module: str
    distribution: str
    version: str
    conf: Path

    def __str__(self) -> str:
        return f"{self.distribution} {self.version}"


@dataclass(frozen=True)
class Found:
    """The packages, in the order of their names, and a line for each that cannot be used."""

    packages: tuple[Package, ...]
    problems: tuple[str, ...]


def found() -> Found:
    """The packages that are installed now."""
    return _found(tuple((place, _changed_ns(place)) for place in sys.path))


def _changed_ns(place: str) -> int:
    """When something was last installed in a folder of sys.path, or removed from it."""
    try:
        return Path(place).stat().st_mtime_ns
    except OSError:
        return 0


@functools.lru_cache(maxsize=8)
def _found(places: tuple[tuple[str, int], ...]) -> Found:
    """The packages in `places`, those of sys.path: in a notebook more may come to be there."""
    path = [place for place, _ in places]
    by_module: dict[str, Package] = {}
    problems: list[str] = []
    for distribution, entry in _entry_points(path):
        name = distribution.metadata["Name"] or entry.name
        try:
            conf = _conf_of(entry)
        except ValueError as problem:
            line = f"package {name}: entry point {entry.name} of {GROUP}: {problem}"
            problems.append(shorten(f"{line}; it is left out", 280))
            continue
        package = Package(entry.value, name, distribution.version or "(no version)", conf)
        # The first on sys.path is the one that Python imports.
        by_module.setdefault(entry.value, package)
    packages = sorted(by_module.values(), key=lambda package: package.module)
    return Found(tuple(packages), tuple(sorted(set(problems))))


def _entry_points(path: list[str]) -> Iterator[tuple[Distribution, EntryPoint]]:
    """Yield the entry points of our group; of a distribution that is there twice, the first's."""
    seen: set[str] = set()
    # importlib.metadata.entry_points parses the entry points of every distribution, which takes
    # four times as long; most distributions do not mention our group.
    for distribution in distributions(path=path):
        try:
            if GROUP not in (distribution.read_text("entry_points.txt") or ""):
                continue
            entries = distribution.entry_points.select(group=GROUP)
            name = distribution.metadata["Name"]
        except (OSError, ValueError, TypeError):
            continue  # damaged: Python's own tools cannot use its entry points either
        if name not in seen:
            seen.add(name)
            for entry in entries:
                yield distribution, entry


def _conf_of(entry: EntryPoint) -> Path:
    """The folder `conf/` of the package that an entry point names.

    Raises:
        ValueError: why it cannot be used.
    """
    if _MODULE.fullmatch(entry.value) is None:
        raise ValueError(f"{entry.value!r} is not the name of a package")
    try:
        # find_spec, not import: a package of the user's may take seconds, and most commands need
        # none of it.
        spec = importlib.util.find_spec(entry.value)
    except Exception as error:  # whatever a package around it raises when it is imported
        raise ValueError(f"{entry.value} cannot be imported ({one_line(error)})") from None
    if spec is None:
        raise ValueError(f"no package {entry.value} can be imported")
    for place in spec.submodule_search_locations or ():
        conf = Path(place, "conf")
        if conf.is_dir():
            return conf
    raise ValueError(f"{entry.value} has no folder conf")


def package_of(target: str) -> Package | None:
    """The package that defines a `_target_`; None if none of them does."""
    for package in found().packages:
        if target.startswith(f"{package.module}."):
            return package
    return None
