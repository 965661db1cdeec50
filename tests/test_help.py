"""The pages of help: what is on them, how they are wrapped, and when they are in colour."""

import re
from pathlib import Path

import pytest
from terminal import in_a_terminal

from firstlight.cli import OTHERS, VERBS, main
from firstlight.compose.chosen import choices_with
from firstlight.compose.help import help_page
from firstlight.compose.yaml_files import choices
from firstlight.conf_files import conf_dir
from firstlight.help_page import rendered, usage

COLOUR = re.compile(r"\x1b\[[\d;]+m")


AT_ONCE = [("train", ""), ("train", "all"), ("generate", "")]
LATER = [("train", "callbacks"), *((verb, "") for verb in VERBS if (verb, "") not in AT_ONCE)]


def check_widths(page):
    whole = rendered(page, 10_000).plain.split()
    for width in (64, 80, 120):  # the longest key has 63 columns
        text = rendered(page, width).plain
        assert [line for line in text.splitlines() if len(line) > width] == []
        assert text.split() == whole  # no word is cut


def test_the_page_of_the_program_is_no_wider_than_its_terminal():
    check_widths(usage("1.0", VERBS, OTHERS))


@pytest.mark.parametrize(
    ("verb", "topic"), [*AT_ONCE, *(pytest.param(*case, marks=pytest.mark.long) for case in LATER)]
)
def test_no_page_is_wider_than_its_terminal(verb, topic):
    check_widths(help_page(verb, VERBS[verb], [], None, topic))


def test_a_word_longer_than_the_line_stays_whole():
    page = help_page("train", VERBS["train"], ["data=the_verdict"], None, "data.url")
    assert "main-chapter-code/the-verdict.txt\n" in rendered(page, 80).plain


def lines_of(capsys, *words):
    assert main([*words]) == 0
    return capsys.readouterr().out.splitlines()


def headings(lines):
    return [line.partition(" (")[0] for line in lines[3:] if line and not line.startswith(" ")]


def test_a_page_begins_with_what_to_set_first(capsys):
    of_train = lines_of(capsys, "train", "--help")
    assert headings(of_train) == ["Set first", "Keys", "Groups", "More keys", "Options"]
    of_bench = lines_of(capsys, "bench", "--help")
    keys = of_bench[of_bench.index("Keys (key=value; shown with their defaults)") + 1 :]
    assert keys[0].startswith("  bench.steps=20")  # its own before those of every run
    of_generate = lines_of(capsys, "generate", "-h")
    assert headings(of_generate)[0] == "To be given"
    assert len(of_train) < len(lines_of(capsys, "train", "--help", "all"))


def test_help_verb_is_the_same_page(capsys):
    of_info = lines_of(capsys, "info", "--help")
    assert lines_of(capsys, "help", "info") == lines_of(capsys, "--help", "info") == of_info
    wanted = lines_of(capsys, "train", "--help", "optimizer")
    assert lines_of(capsys, "help", "train", "optimizer") == wanted


def test_a_topic_is_a_group_a_section_or_a_part_of_a_key(capsys):
    of_group = lines_of(capsys, "train", "model=dial", "--help", "model")
    assert "Group model=dial" in of_group and any("gpt2_small " in line for line in of_group)
    assert any(line.startswith("  model.depth=") for line in of_group)
    assert not any(line.startswith("  optimizer.") for line in of_group)
    part = lines_of(capsys, "train", "--help=weight_d")
    keys = [line.split()[0] for line in part if line.startswith("  ")]
    assert keys == ["optimizer.weight_decay=0.1"]
    # An override after --help is an override.
    assert "  model=modern_nano" in "\n".join(
        lines_of(capsys, "train", "--help", "model=modern_nano")
    )


@pytest.mark.parametrize(("verb", "topic"), [("train", "optimzer"), ("info", "model")])
def test_an_unknown_topic_is_one_line(capsys, verb, topic):
    assert main([verb, "--help", topic]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and f"--help {topic}" in err
    assert ("did you mean 'optimizer'" in err) == (topic == "optimzer")


def test_what_to_set_first_exists():
    text = Path(conf_dir(), "_run.yaml").read_text(encoding="utf-8")
    [names] = re.findall(r"^# Set first: (.+)$", text, flags=re.MULTILINE)
    for name in names.split():
        assert choices(name) or choices_with(name, None), name


def test_a_terminal_gets_colours_unless_it_is_told_not_to():
    shown = in_a_terminal("-m", "firstlight", "--help")
    assert COLOUR.search(shown)
    plain = in_a_terminal("-m", "firstlight", "--help", NO_COLOR="1")
    assert "\x1b" not in plain.replace("\x1b[1m", "").replace("\x1b[0m", "")  # bold is no colour
    assert COLOUR.sub("", shown) == COLOUR.sub("", plain)
    assert max(map(len, COLOUR.sub("", shown).splitlines())) <= 80
