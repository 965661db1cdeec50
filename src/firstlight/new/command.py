"""`firstlight new NAME`: write a small package with a model, a callback, an experiment and a test.

`template/` is that package, with the name `mylab`.
"""

import importlib.util
import keyword
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from firstlight import __version__
from firstlight.compose.yaml_files import choices
from firstlight.config import NonEmpty, build, check_config
from firstlight.data.files import user_path
from firstlight.errors import ConfigError, shell_word, shorten
from firstlight.files import replace_text
from firstlight.output import say
from firstlight.overrides import command, setting

TEMPLATE = Path(__file__).parent / "template"
OWN_NAME, OWN_REQUIREMENT = "mylab", "firstlight>=0.0.0"
"""What stands in the template for the name, and for the requirement of this version."""
GROUPS = ("model", "callbacks", "experiment")
"""Groups in which the package has a choice of its own name."""
_VALID = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,62}(?<!_)")


def new(*, name: NonEmpty, folder: NonEmpty) -> Path:
    """Write the package `name` into `folder`, which appears whole or not at all; return its path.

    Raises:
        ConfigError: the name cannot be that of a package, or the folder exists or cannot be
            written.
    """
    _check_name(name)
    target = user_path(folder)
    try:
        if target.exists() or target.is_symlink():
            raise ConfigError(f"folder ({shorten(folder)}): exists already; give another one")
        target.parent.mkdir(parents=True, exist_ok=True)
        # On the same file system, so that the rename below makes it appear whole.
        with tempfile.TemporaryDirectory(prefix=".firstlight_new_", dir=target.parent) as place:
            made = Path(place) / "package"
            _write(made, name)
            made.rename(target)
    except OSError as error:
        raise ConfigError(
            f"folder ({shorten(folder)}): cannot be written: {error.strerror}"
        ) from None
    return target


def _check_name(name: str) -> None:
    """Check that a package can have this name, and no other has it.

    Raises:
        ConfigError: why it cannot be used.
    """
    if _VALID.fullmatch(name) is None or keyword.iskeyword(name):
        other = re.sub(r"\W+", "_", name, flags=re.ASCII).strip("_").lower()
        is_better = _VALID.fullmatch(other) is not None and not keyword.iskeyword(other)
        way_out = f"; {other} is one" if is_better else ""
        raise ConfigError(
            f"name ({shorten(name)}): not the name of a Python package: letters, digits and _,"
            f" up to 63 of them, a letter first and no _ at the end, and no keyword{way_out}"
        )
    # find_spec finds what is installed; a module of the standard library may be missing here and
    # still shadow the package elsewhere.
    if name in sys.stdlib_module_names or importlib.util.find_spec(name) is not None:
        raise ConfigError(f"name ({name}): a module of this name is installed; give another name")
    for group in GROUPS:
        if name in choices(group):
            raise ConfigError(f"name ({name}): {group}={name} is taken; give another name")


def _write(folder: Path, name: str) -> None:
    """Copy the template to `folder`, with `name` in place of the template's own.

    Raises:
        OSError: it cannot be written.
    """
    for file in sorted(TEMPLATE.rglob("*")):
        relative = file.relative_to(TEMPLATE)
        # A template that was once imported has compiled files beside it.
        if not file.is_file() or "__pycache__" in relative.parts:
            continue
        # The name is in the paths as well: src/mylab, conf/model/mylab.yaml.
        target = folder / str(relative).replace(OWN_NAME, name)
        target.parent.mkdir(parents=True, exist_ok=True)
        text = file.read_text(encoding="utf-8").replace(OWN_NAME, name)
        replace_text(target, text.replace(OWN_REQUIREMENT, f"firstlight>={__version__}"))


def arguments(config: DictConfig) -> dict[str, Any]:
    """Check the composed config as arguments of `new`.

    Raises:
        ConfigError: it is not valid.
    """
    return check_config(config, new)


def main(config: DictConfig) -> None:
    """Write the package, and say what to do next."""
    plain = arguments(config)
    folder = new(**build(plain))
    place = shell_word(str(folder))
    say(f"wrote the package {plain['name']} to {folder}; next:")
    # This interpreter's pip: another one would install the package where firstlight is not.
    say(f"  {shell_word(sys.executable)} -m pip install -e {place}")
    say(f"  {command('train', setting('experiment', plain['name']))}")
    say(f"{folder / 'README.md'} says the rest")
