"""YAML that holds plain data: what firstlight writes, and what it reads from elsewhere."""

from pathlib import Path
from typing import Any

import yaml
from yaml.composer import ComposerError

from firstlight.data.files import read_limited
from firstlight.errors import one_line, with_article

MAX_BYTES = 2**20
"""The largest file: PyYAML reads half a megabyte a second, and a composed config has some 3 kB."""
MAX_DIGITS = 100
"""The longest number: reading takes time quadratic in its digits, hours for a sexagesimal
1:1:1:..."""
TAGS = {
    f"tag:yaml.org,2002:{kind}" for kind in ("map", "seq", "str", "int", "float", "bool", "null")
}


def read_plain_yaml(file: Path) -> Any:
    """The content of a file: mappings with text keys, lists and scalars.

    Raises:
        ValueError: it is not YAML, or holds more than that: tags, dates, or aliases, by which a
            small file can unfold without end.
        OSError: it cannot be read, or is too large.
    """
    try:
        return _PlainLoader(read_limited(file, MAX_BYTES).decode("utf-8")).get_single_data()
    except yaml.MarkedYAMLError as error:
        raise ValueError(yaml_problem(error)) from None
    except yaml.YAMLError as error:
        raise ValueError(one_line(error)) from None
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def yaml_problem(error: yaml.MarkedYAMLError) -> str:
    """What `error` says, without the name of the file."""
    if error.problem_mark is None:
        return str(error.problem)
    return f"{error.problem} in line {error.problem_mark.line + 1}"


def dump_plain_yaml(node: Any) -> str:
    """`node`, plain data, as YAML text from which `read_plain_yaml` reads the same data."""
    return yaml.dump(node, Dumper=_PlainDumper, sort_keys=False, allow_unicode=True)


class _PlainDumper(yaml.SafeDumper):
    """PyYAML writes U+0085 (next line) as it is, but reads it as a newline. Here it is escaped."""

    def represent_str(self, data: str) -> yaml.ScalarNode:
        node = super().represent_str(data)
        if "\x85" in data:
            node.style = '"'
        return node


_PlainDumper.add_representer(str, _PlainDumper.represent_str)


class _PlainLoader(yaml.SafeLoader):
    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        # Before the node is made: nine lines of aliases unfold to billions of nodes.
        if self.check_event(yaml.AliasEvent):
            raise ComposerError(None, None, "there is an alias (*)", self.peek_event().start_mark)
        node = super().compose_node(parent, index)
        assert node is not None
        is_key = isinstance(parent, yaml.MappingNode) and index is None
        kind = node.tag.rpartition(":")[2]
        if node.tag not in TAGS or (is_key and kind != "str"):
            raise ComposerError(
                None,
                None,
                f"there is {with_article(kind)}, which is not plain data",
                node.start_mark,
            )
        if kind in ("int", "float") and len(node.value) > MAX_DIGITS:
            raise ComposerError(None, None, "there is a number of too many digits", node.start_mark)
        return node
