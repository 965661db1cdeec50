"""The folders of YAML files that the config is composed of, and what the files say of their keys.

A key's comment says what it means. It also says if the value is a text, see `overrides.py`. Nothing
here imports Hydra or OmegaConf, so that tab completion answers at once.
"""

import functools
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

import yaml

from firstlight.packages import found

# The loader is in C where PyYAML was built with it: `text_keys` reads all of conf/.
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_config_dir: ContextVar[str | None] = ContextVar("config_dir", default=None)
_MARK = re.compile(r"(?P<kind>text|prose)(?P<list> or list)?: ")


@dataclass(frozen=True)
class TextKey:
    """What the YAML file of a key says about its values; see the top of this file."""

    is_prose: bool
    may_be_list: bool
    may_be_null: bool

    def joined(self, other: "TextKey") -> "TextKey":
        """Join what two files say about one key: what either allows is allowed."""
        return TextKey(
            self.is_prose and other.is_prose,
            self.may_be_list or other.may_be_list,
            self.may_be_null or other.may_be_null,
        )


def conf_dir() -> str:
    """The folder of YAML files: inside the installed package, or at the top of a checkout."""
    packaged = Path(__file__).parent / "conf"
    return str(packaged if packaged.is_dir() else Path(__file__).parents[2] / "conf")


def conf_dirs(config_dir: str | None = None) -> list[Path]:
    """All folders of YAML files, in the order in which Hydra looks for a file.

    Ours, those of installed packages, and the user's `config_dir`; each once.
    """
    folders = [Path(conf_dir()), *(package.conf for package in found().packages)]
    if config_dir is not None:
        folders.append(Path(config_dir))
    by_place: dict[Path, Path] = {}
    for folder in folders:
        by_place.setdefault(folder.resolve(), folder)
    return list(by_place.values())


def text_keys(config_dir: str | None = None) -> dict[str, TextKey]:
    """The keys whose values are texts, of every verb and every choice in `conf_dirs`."""
    return _text_keys_in(files_of_config(config_dir))


@dataclass(frozen=True)
class ConfigFile:
    """A YAML file of the config as it is now: equal to itself until it is written again."""

    folder: str
    path: str
    changed_ns: int
    n_bytes: int


def files_of_config(config_dir: str | None = None) -> tuple[ConfigFile, ...]:
    """The YAML files in `conf_dirs`, for what is remembered of them: a notebook may change them."""
    files: list[ConfigFile] = []
    # Listed without Paths, which take twice as long: this is asked for every override.
    for top in map(str, conf_dirs(config_dir)):
        for entry in _entries(top):
            # No deeper than groups are: a --config-dir may be the folder of a whole project.
            for file in _entries(entry.path) or [entry]:
                if file.name.endswith(".yaml"):
                    with suppress(OSError):  # it has just been removed, or links to nothing
                        state = file.stat()
                        files.append(ConfigFile(top, file.path, state.st_mtime_ns, state.st_size))
    return tuple(files)


def _entries(folder: str) -> list[os.DirEntry[str]]:
    """What is in a folder; nothing if it is not one, or cannot be read."""
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError:
        return []


@functools.lru_cache(maxsize=8)
def _text_keys_in(files: tuple[ConfigFile, ...]) -> dict[str, TextKey]:
    keys: dict[str, TextKey] = {}
    for file in files:
        path = Path(file.path)
        try:
            text = path.read_text(encoding="utf-8")
            marked = dict(_text_keys(text)) if _MARK.search(text) else {}
        except (OSError, ValueError, yaml.YAMLError):
            continue  # Hydra says what is wrong with the file, if it is chosen at all
        package = package_in(text, "" if path.parent == Path(file.folder) else path.parent.name)
        for key, kind in marked.items():
            name = f"{package}.{key}".lstrip(".")
            # Several choices of a group may have a key of the same name.
            keys[name] = kind.joined(keys.get(name, kind))
    return keys


def path_keys(config_dir: str | None = None) -> set[str]:
    """The keys of the section `data` that are paths: its texts, but not its prose.

    Prose is for example the name of a field.
    """
    keys = text_keys(config_dir).items()
    return {key for key, kind in keys if key.startswith("data.") and not kind.is_prose}


def corpus_in(out: str) -> str | None:
    """The choice of the group `corpus` that `firstlight prepare` writes to the folder `out`."""
    for folder in conf_dirs(config_dir()):
        for file in sorted(folder.glob("corpus/*.yaml")):
            with suppress(OSError, ValueError, yaml.YAMLError):
                content = yaml.safe_load(file.read_text(encoding="utf-8"))
                if isinstance(content, dict) and content.get("out") == out:
                    return file.stem
    return None


@contextmanager
def using_config_dir(folder: str | None) -> Iterator[None]:
    """Within the block, `folder` is the --config-dir of the command."""
    token = _config_dir.set(folder)
    try:
        yield
    finally:
        _config_dir.reset(token)


def config_dir() -> str | None:
    """The --config-dir of the command that runs."""
    return _config_dir.get()


def package_in(text: str, default: str) -> str:
    """Where Hydra puts the keys of a file: its `# @package`, or else `default`; "": at the top."""
    header = re.search(r"^# @package (\S+)", text, flags=re.MULTILINE)
    package = default if header is None else header[1]
    return "" if package == "_global_" else package


def mark_of(comment: str) -> str:
    """The beginning of a key's comment that says that its value is a text: "text: "; or ""."""
    mark = _MARK.match(comment)
    return "" if mark is None else mark[0]


def _text_keys(text: str) -> Iterator[tuple[str, TextKey]]:
    """Yield the keys of a YAML file whose comment says that they are texts."""
    for name, value, comment in commented(text):
        mark = _MARK.match(comment)
        if mark is not None:
            may_be_null = value.tag.endswith(":null") or re.search(r"\bnull\b", comment) is not None
            yield name, TextKey(mark["kind"] == "prose", mark["list"] is not None, may_be_null)


def commented(text: str) -> Iterator[tuple[str, yaml.Node, str]]:
    """Yield the dotted keys of a YAML file that have a comment, their values, and the comments.

    A comment begins at the end of the key's line, and continues in the indented comment lines right
    below it.
    """
    # PyYAML drops comments, but knows the line of each key.
    lines = text.splitlines()

    def visit(node: yaml.Node, path: str) -> Iterator[tuple[str, yaml.Node, str]]:
        if not isinstance(node, yaml.MappingNode):
            return
        for key, value in node.value:
            name = f"{path}{key.value}"
            # The comment of a section stands in the line of its key, above its own keys.
            line = key.start_mark.line
            if isinstance(value, yaml.ScalarNode):
                line = value.end_mark.line
            _, _, comment = lines[line][key.end_mark.column :].partition(" # ")
            words = [comment.strip()]
            for below in lines[line + 1 :]:
                # A comment that is not indented is about what follows it.
                if not below.strip().startswith("#") or not below.startswith(" "):
                    break
                words.append(below.strip().lstrip("# "))
            whole = " ".join(filter(None, words))
            if whole:
                yield name, value, whole
            yield from visit(value, f"{name}.")

    root = yaml.compose(text, Loader=LOADER)
    if root is not None:
        yield from visit(root, "")
