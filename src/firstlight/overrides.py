"""The words of a command line: texts made ready for Hydra's grammar, and commands to paste.

Hydra's grammar gives `=`, brackets, commas, `#` and letters beyond ASCII a meaning of their own, or
refuses them, and reads 2024, 1e5 and null as what they look like. For a key that is a text, the
value is exactly what was typed. A key says so in its YAML file, at the beginning of its comment:

    text: ...           as it is typed, or what is inside Hydra's quotes; with -m, a comma
                        separates several texts
    text or list: ...   the same, or several of them: [a,b]
    prose: ...          every character, quotes and `${` included
    prose or list: ...  the same, or several texts: [a,"b, c"]

`null` is Python's None if the default is null or if the comment says what null means; for `prose`
it is a word of four letters.
"""

import functools
import os
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from firstlight.errors import shell_word
from firstlight.interpolation import as_typed, quoted
from firstlight.packages import found

# The time of Hydra's parser grows with the square of this number: here it is two seconds.
MOST_PARTS = 2000
"""Brackets, commas and spaces that one setting may have."""
# The loader is in C where PyYAML was built with it: `text_keys` reads all of conf/.
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_config_dir: ContextVar[str | None] = ContextVar("config_dir", default=None)
MODULES = {"tensorboard": "tensorboard.main"}
"""The modules that `python -m` runs for programs that are not called like them."""
_MARK = re.compile(r"(?P<kind>text|prose)(?P<list> or list)?: ")
_QUOTED = re.compile(r"""("(\\.|[^\\"])*"|'(\\.|[^\\'])*')""", re.DOTALL)
_PLAIN = re.compile(r"[A-Za-z0-9_.:/@%+*?|-]+")
"""Texts that Hydra's grammar reads as they are, except numbers, null, true, false and ???."""
_SWEEP = re.compile(r"\s*(choice|range|interval|glob|shuffle|sort|tag)\(.*\)\s*", re.DOTALL)
"""Several values that are written with a function of Hydra's grammar."""


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
        package = _package(text, "" if path.parent == Path(file.folder) else path.parent.name)
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


def _package(text: str, group: str) -> str:
    """Where Hydra puts the keys of a file: its `# @package`, or else the name of its group."""
    header = re.search(r"^# @package (\S+)", text, flags=re.MULTILINE)
    package = group if header is None else header[1]
    return "" if package == "_global_" else package


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

    root = yaml.compose(text, Loader=_LOADER)
    if root is not None:
        yield from visit(root, "")


def ready(word: str, config_dir: str | None = None, *, multirun: bool = False) -> str:
    """Make an override, as it was typed, ready for Hydra's grammar: quote its text if necessary.

    With `multirun`, the texts between commas are several values.
    """
    key, equals, value = word.partition("=")
    kind = text_keys(config_dir).get(key.lstrip("+"))
    if not equals or kind is None:
        return word
    is_prose_only = kind.is_prose and not kind.may_be_list
    if value == "null" and kind.may_be_null and not is_prose_only:
        return word
    if kind.is_prose or not multirun:
        return f"{key}={_ready(value, kind)}"
    if _SWEEP.fullmatch(value):
        return word
    parts = [_ready(part.strip(), kind) for part in _split(value, kind.may_be_list)]
    return f"{key}={','.join(parts)}"


def _ready(value: str, kind: TextKey) -> str:
    """Make one value, a text or a list of texts, ready for Hydra's grammar."""
    if kind.may_be_list and value.startswith("[") and value.endswith("]"):
        if not value[1:-1].strip():  # the empty list
            return value
        texts = [_ready_text(part.strip()) for part in _split(value[1:-1], nested=False)]
        return f"[{','.join(texts)}]"
    return _ready_prose(value) if kind.is_prose else _ready_text(value)


def _ready_prose(value: str) -> str:
    return _hidden(value) if "${" in value or value == "???" else quoted(value)


def _ready_text(value: str) -> str:
    if _is_plain(value) or _QUOTED.fullmatch(value) is not None:
        return value
    if "${" in value and _is_one_text(value):  # an interpolation, which quotes would end
        return value
    return _hidden(value) if value == "???" else quoted(value)


def _split(value: str, nested: bool) -> list[str]:
    """Split `value` at its commas, except those in Hydra's quotes or, if `nested`, in a list."""
    parts: list[str] = []
    start, position, depth = 0, 0, 0
    # Quotes and lists can only begin where nothing but spaces has been seen of a part.
    is_fresh = True
    while position < len(value):
        character = value[position]
        text = _QUOTED.match(value, position) if is_fresh else None
        if text is not None:
            position, is_fresh = text.end(), False
            continue
        if character == ",":
            if not depth:
                parts.append(value[start:position])
                start = position + 1
            is_fresh = True
        elif character == "[" and nested and is_fresh:
            depth += 1
        elif character == "]" and depth:
            depth -= 1
            is_fresh = False
        elif not character.isspace():
            is_fresh = False
        position += 1
    return [*parts, value[start:]]


def _is_plain(value: str) -> bool:
    """Whether Hydra's grammar reads `value` as the same text."""
    if not _PLAIN.fullmatch(value) or value.lower() in ("null", "true", "false", "???"):
        return False
    try:
        float(value)
    except ValueError:
        return True
    return False  # a number


def _is_one_text(value: str) -> bool:
    """Whether Hydra's grammar reads `value`, with `${...}` in it, as one text."""
    if sum(map(value.count, "[]{}(), ")) > MOST_PARTS:
        return False
    try:
        override = OverridesParser.create().parse_override(f"key={value}")
    except HydraException:
        return False
    return not override.is_sweep_override() and isinstance(override.value(), str)


def _hidden(value: str) -> str:
    """Write `value` in hexadecimal: OmegaConf would read an interpolation, or a missing value."""
    return f"${{text:{value.encode().hex()}}}"


def key_of(override: str) -> str:
    """The key of an override, whether it sets, adds (+) or deletes (~) it."""
    return override.partition("=")[0].lstrip("+~")


def setting(key: str, value: str) -> str:
    """Write an override, ready for Hydra's grammar, that gives `key` exactly this text."""
    if _is_plain(value):
        return f"{key}={value}"
    return f"{key}={_ready_prose(value)}"


def typed(override: str, config_dir: str | None = None) -> str:
    """Write an override as it would be typed: the inverse of `ready`."""
    key, equals, value = override.partition("=")
    kind = text_keys(config_dir).get(key.lstrip("+"))
    if not equals or kind is None:
        return override
    if kind.is_prose and value.startswith("${text:"):
        return as_typed(override)
    if _is_plain(value) or value == "null" or (kind.is_prose and not _QUOTED.fullmatch(value)):
        return override
    given = OverridesParser.create().parse_override(f"key={value}").value()
    if isinstance(given, list):
        texts = [_ready_text(str(text)) for text in given]
        return f"{key}=[{','.join(texts)}]"
    bare = f"{key}={given}"
    if kind.is_prose and not kind.may_be_list:
        return bare
    # A text that looks like a list, or has quotes of its own, stays in Hydra's quotes.
    again = OverridesParser.create().parse_override(ready(bare, config_dir)).value()
    return bare if again == given else override


def command(verb: str, *overrides: str, config_dir: str | None = None) -> str:
    """Write a command to paste into a shell.

    `overrides` are ready for Hydra's grammar, or words without a key.
    """
    words = words_to_paste(*overrides, config_dir=config_dir)
    return f"{program('firstlight')} {verb} {words}".rstrip()


def words_to_paste(*overrides: str, config_dir: str | None = None) -> str:
    """Write what follows the verb in such a command."""
    words = [typed(word, config_dir) for word in overrides]
    if config_dir is not None:
        words += ["--config-dir", config_dir]
    return " ".join(map(shell_word, words))


def is_quoted(value: str) -> bool:
    """Whether `value` is one text in Hydra's quotes."""
    return _QUOTED.fullmatch(value) is not None


def named(key: str, value: str) -> str:
    """Write `value` without its key, as in `firstlight sweep resume DIR`, if it can be so given."""
    # Such a word would be read as an override, an option or a deletion.
    needs_key = "=" in value or value.startswith(("-", "~"))
    return setting(key, value) if needs_key else value


def program(name: str) -> str:
    """Write `name` as this shell finds it: its path if the environment is not activated.

    Where it is not installed as a program (python -m, a folder of packages), its module is run.
    """
    if shutil.which(name):
        return name
    beside = Path(sys.executable).parent / name
    if not beside.is_file():
        return f"{_as_typed_in_shell(sys.executable)} -m {MODULES.get(name, name)}"
    return _as_typed_in_shell(str(beside))


def _as_typed_in_shell(path: str) -> str:
    """The path of a program, from the working folder."""
    with suppress(OSError):  # the working folder may have been removed since
        path = os.path.relpath(path)
    if os.sep not in path:  # a shell looks for a bare name on its PATH only
        path = f"{os.curdir}{os.sep}{path}"
    return shell_word(path)
