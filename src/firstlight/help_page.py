"""Pages of help: sections of entries, wrapped to the terminal, with colours where it has them."""

import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass

from rich.console import Console
from rich.text import Text

from firstlight import output
from firstlight.console import SafeConsole

WIDEST = 120
"""Columns after which lines are hard to read."""
HANGING = 4
"""Columns before the second line of a key and its value."""
LEFT = 30
"""Most columns of what an entry is about; what is longer has a line of its own."""
RIGHT = 40
"""Fewest columns in which a text beside the names reads well; if fewer are left, it goes below."""
HEADING, NAME, VALUE = "bold", "cyan", "green"


@dataclass(frozen=True)
class Entry:
    """A line of a section: `name`, its `value` (with the = in front), and what it is."""

    name: str
    value: str = ""
    what: str = ""


@dataclass(frozen=True)
class Section:
    """A heading, and the entries below it."""

    heading: str
    entries: list[Entry]


@dataclass(frozen=True)
class Page:
    """A page of help."""

    title: str
    usage: str
    sections: list[Section]


def usage(version: str, verbs: Mapping[str, str], others: Mapping[str, str]) -> Page:
    """The page of `firstlight --help`."""
    examples = [
        Entry("firstlight train", what="train the default model, in about three minutes"),
        Entry("firstlight train --help", what="what to set first; --help all: every key"),
        Entry("firstlight train model=modern_nano optimizer.lr=3e-4", what="with settings"),
        Entry("firstlight train -m optimizer.lr=1e-3,3e-3", what="a sweep: one run for each value"),
        Entry("firstlight train --cfg job", what="only print the composed config"),
    ]
    return Page(
        f"firstlight {version}: pre-train small GPT language models from scratch",
        "firstlight VERB [key=value ...]",
        [
            Section("Verbs", [Entry(verb, what=what) for verb, what in verbs.items()]),
            Section("Besides", [Entry(name, what=what) for name, what in others.items()]),
            Section("Examples", examples),
        ],
    )


def show(page: Page) -> None:
    """Print a page, in colours on a terminal that has them (NO_COLOR turns them off)."""
    width = min(shutil.get_terminal_size().columns, WIDEST)
    text = rendered(page, width)
    if sys.stdout.isatty():
        SafeConsole(width=width).print(text, soft_wrap=True, end="")
    else:
        output.write(text.plain)


def rendered(page: Page, width: int) -> Text:
    """A page in lines of at most `width` columns; only a word that is longer makes a longer one."""
    # A console of this width only measures and wraps; nothing is printed on it.
    console = Console(width=width, file=sys.stdout, force_jupyter=False)
    lines = [*_wrapped(Text(page.title), console, width), Text()]
    lines += [Text.assemble(("Usage:", HEADING), f" {page.usage}")]
    for section in page.sections:
        lines += [Text(), *_wrapped(Text(section.heading, HEADING), console, width)]
        names = [len(entry.name) + len(entry.value) for entry in section.entries]
        left = max((length for length in names if length <= LEFT), default=2)
        for entry in section.entries:
            indent = left + 4 if width - left - 4 >= RIGHT else 6
            lines += _lines_of(entry, indent, console, width)
    return Text("\n").join(lines).append("\n")


def _lines_of(entry: Entry, indent: int, console: Console, width: int) -> list[Text]:
    key = Text.assemble((entry.name, NAME), (entry.value, VALUE))
    # A value may be a list of many words.
    head, *rest = _wrapped(key, console, width - HANGING)
    left = Text("  ").append_text(head)
    if not entry.what:
        return [left, *_shifted(rest, HANGING)]
    right = _indented(Text(entry.what), indent, console, width)
    if rest or len(left) > indent - 2:
        return [left, *_shifted(rest, HANGING), *right]
    first, *others = right
    return [left.append(" " * (indent - len(left))).append_text(first[indent:]), *others]


def _indented(text: Text, indent: int, console: Console, width: int) -> list[Text]:
    return _shifted(_wrapped(text, console, width - indent), indent)


def _shifted(lines: list[Text], indent: int) -> list[Text]:
    return [Text(" " * indent).append_text(line) for line in lines]


def _wrapped(text: Text, console: Console, width: int) -> list[Text]:
    """The lines of a text, broken only between words."""
    # rich would cut a word that is longer than a line.
    longest = max(map(len, text.plain.split()), default=1)
    lines = text.wrap(console, max(width, longest, 1))
    for line in lines:
        line.rstrip()
    return list(lines)
