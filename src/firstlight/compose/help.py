"""`firstlight VERB --help`: every key of the composed config, with the comment in its YAML file."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from firstlight.compose.chosen import chosen_files, chosen_in
from firstlight.compose.compose import compose_config
from firstlight.compose.yaml_files import choices, following_groups, with_bases
from firstlight.conf_files import commented, conf_dirs


def help_text(verb: str, purpose: str, overrides: list[str], config_dir: str | None) -> str:
    """The page that `--help` prints for `verb`, composed with `overrides`."""
    # Composed, not read from files: a key that an override adds or removes is on the page, or not.
    config = compose_config(verb, overrides, config_dir, with_hydra=True)
    folders = conf_dirs(config_dir)
    chosen = chosen_in(config)
    plain: Any = OmegaConf.to_container(config, resolve=False)
    del plain["hydra"]

    lines = [f"firstlight {verb}: {purpose}", "", f"usage: firstlight {verb} [key=value ...]", ""]
    # The groups, and the choices of each.
    group_lines: list[str] = []
    for group in sorted({*chosen, *_groups(verb, folders)}):
        options = choices(group, config_dir)
        if options:  # none for decoding@callbacks.sample_generation.decoding
            choice = chosen.get(group, "none")
            shown = choice if isinstance(choice, str) else f"[{','.join(choice)}]"
            group_lines.append(f"  {group}={shown}  of: {', '.join(options)}")
    if group_lines:
        heading = (
            "Groups: choose one with group=choice (callbacks, logger and metrics take a list:"
            " callbacks=[default,x])"
        )
        lines += [heading, "", *group_lines, ""]
    # The keys.
    values = (
        "Values: text: as typed, or what is inside Hydra's quotes; prose: every character as typed"
    )
    keys = "Keys: set one with key=value; the value shown is the default of this composition"
    lines += [values, "", keys, ""]
    for line in _key_lines(plain, "", _all_comments(verb, chosen, folders)):
        lines.append(f"  {line}")
    return "\n".join(lines) + "\n"


def _groups(verb: str, folders: list[Path]) -> set[str]:
    """The groups of which the primary config of `verb`, or a file it is based on, has a choice."""
    groups: set[str] = set()
    for part in with_bases(Path(f"{verb}.yaml"), "", folders):
        for item in part.content.get("defaults", []):
            if isinstance(item, dict):
                # "override /model" and "/model" are the group model
                groups.update(str(key).split()[-1].lstrip("/") for key in item)
    return groups - following_groups()


def _key_lines(node: Any, path: str, comments: dict[str, str]) -> Iterator[str]:
    """Yield a line for each key of a section, and of the sections in it."""
    for key, value in node.items():
        name = f"{path}{key}"
        if str(key).startswith("_"):  # _target_, _partial_
            continue
        if isinstance(value, dict):
            # A section with a comment, of whose keys none has one, is a value: sweep.params={}
            is_value = comments.get(name) and not any(
                known.startswith(f"{name}.") for known in comments
            )
            if not is_value:
                yield from _key_lines(value, f"{name}.", comments)
                continue
        setting = f"{name}={_show(value)}"
        comment = comments.get(name, "")
        yield f"{setting:<52} # {comment}" if comment else setting


def _show(value: Any) -> str:
    """Write a value as it is typed on the command line."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | dict):
        return str(value).replace("'", "")
    return str(value)


def _all_comments(verb: str, chosen: dict[str, Any], folders: list[Path]) -> dict[str, str]:
    """The comment of each dotted key, from the primary config and every chosen file."""
    comments: dict[str, str] = {}
    for part in chosen_files(verb, chosen, folders):
        for name, _, comment in commented(part.text):
            # Later files win: they are more special.
            comments[f"{part.package}.{name}".lstrip(".")] = comment
    return comments
