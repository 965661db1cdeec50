"""YAML that holds plain data and nothing else: what firstlight writes, and what is read of files from elsewhere."""

from pathlib import Path
from typing import Any

import yaml
from yaml.composer import ComposerError

from firstlight.data.files import read_limited
from firstlight.errors import one_line

MAX_BYTES = 2**20
"""Of a file: PyYAML reads half a megabyte a second; a composed config has some 3 kB."""
MAX_DIGITS = 100
TAGS = {f"tag:yaml.org,2002:{kind}" for kind in ("map", "seq", "str", "int", "float", "bool", "null")}


def read_plain_yaml(file: Path) -> Any:
    """Mappings by text, lists and scalars.

    Raises:
        ValueError: it is no YAML, too large, or holds more than that: tags, dates, or aliases, which a small file can
            unfold without end.
        OSError: it cannot be read.
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
    """What `error` says, without the name of the file, which it repeats."""
    line = f" in line {error.problem_mark.line + 1}" if error.problem_mark else ""
    return f"{error.problem}{line}"


def dump_plain_yaml(node: Any) -> str:
    """`node`, plain data, as a YAML text from which `read_plain_yaml` reads the same data."""
    return yaml.dump(node, Dumper=_PlainDumper, sort_keys=False, allow_unicode=True)


class _PlainDumper(yaml.SafeDumper):
    """PyYAML's, which writes U+0085 (next line) as it is and reads it back as a newline; here it is escaped."""


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"' if "\x85" in text else None)


_PlainDumper.add_representer(str, _represent_text)


class _PlainLoader(yaml.SafeLoader):
    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise ComposerError(None, None, "there is an alias (*)", self.peek_event().start_mark)
        node = super().compose_node(parent, index)
        assert node is not None
        is_key = isinstance(parent, yaml.MappingNode) and index is None
        if node.tag not in TAGS or (is_key and not node.tag.endswith(":str")):
            raise ComposerError(None, None, f"there is a {node.tag.rpartition(':')[2]}, no plain data", node.start_mark)
        if node.tag.endswith((":int", ":float")) and len(node.value) > MAX_DIGITS:  # 1:1:1:... would take hours
            raise ComposerError(None, None, "there is a number of too many digits", node.start_mark)
        return node
