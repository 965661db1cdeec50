"""Tab completion: what is offered, in real shells, at once, and the same as Hydra composes."""

import os
import re
import shlex
import shutil
import subprocess
import sys

import pytest
from omegaconf import OmegaConf

from firstlight.cli import OTHERS, VERBS, main
from firstlight.completion.candidates import candidates
from firstlight.completion.line import read_line
from firstlight.compose.compose import compose_config
from firstlight.compose.keys import settings_of
from firstlight.compose.options import OPTIONS
from firstlight.compose.outline import outline
from firstlight.conf_files import conf_dirs


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """A folder to work in, with a run, a text and a folder of YAML files of the user's."""
    (tmp_path / "outputs" / "lamp").mkdir(parents=True)
    (tmp_path / "my texts").mkdir()
    (tmp_path / "my texts" / "a.txt").write_text("a")
    (tmp_path / ".hidden").touch()
    (tmp_path / "mine" / "model").mkdir(parents=True)
    (tmp_path / "mine" / "model" / "own.yaml").write_text("# Mine\nlamps: 3 # how many\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def offered(line):
    followers = {"help": tuple(VERBS), "completion": ("bash", "zsh", "fish")}
    others = {name: (what, followers[name]) for name, what in OTHERS.items()}
    return [found.word for found in candidates(read_line(line), VERBS, others)]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("firstlight ", [*VERBS, *OTHERS]),
        ("firstlight gen", ["generate"]),
        ("firstlight help gen", ["generate"]),
        ("firstlight completion z", ["zsh"]),
        ("firstlight nonsense x", []),
        ("firstlight train opt", ["optimizer=", "optimizer."]),
        ("firstlight train optimizer.we", ["optimizer.weight_decay="]),
        ("firstlight train optimizer=m", ["optimizer=muon"]),
        ("firstlight train +optimizer=m", ["+optimizer=muon"]),
        ("firstlight train -m model=nano,gpt2_x", ["model=nano,gpt2_xl"]),
        (
            "firstlight train 'callbacks=[default,ea",
            ["callbacks=[default,early_stopping", "callbacks=[default,early_stopping]"],
        ),
        ("firstlight train compile=", ["compile=true", "compile=false"]),
        ("firstlight train trainer.max_steps=", ["trainer.max_steps=600"]),
        ("firstlight train resume=", ["resume=last", "resume=auto", "resume=mine/"]),
        (
            "firstlight evaluate split=",
            [f"split={name}" for name in ("train", "val", "test", "all")],
        ),
        ("firstlight evaluate checkpoint=o", ["checkpoint=outputs/"]),
        ("firstlight evaluate checkpoint=outputs/", ["checkpoint=outputs/lamp/"]),
        ("firstlight generate prompt=", []),
        ("firstlight train data=text data.path=my", ["data.path=my texts/"]),
        ("firstlight train data=text data.path=my\\ texts/", ["data.path=my texts/a.txt"]),
        ("firstlight train data=text 'data.path=my texts/", ["data.path=my texts/a.txt"]),
        ("firstlight train data=text data.path=.h", ["data.path=.hidden"]),
        ("firstlight train data.pa", []),  # the default text is no file
        ("firstlight train model=dial model.de", ["model.depth="]),
        ("firstlight train --config-dir mine model=own model.l", ["model.lamps="]),
        ("firstlight train --config-dir m", ["mine/", "my texts/"]),
        ("firstlight train --cfg j", ["job"]),
        ("firstlight train --mu", ["--multirun"]),
        ("firstlight info --mu", []),
        ("firstlight train --help optim", ["optimizer", "optimizer=", "optimizer."]),
        ("firstlight compare outputs/", ["outputs/lamp/"]),
        ("firstlight sweep re", ["resume", "retry"]),
    ],
)
def test_what_is_offered(line, expected):
    found = offered(line)
    if line.endswith("resume="):
        assert set(expected) <= set(found)
    else:
        assert found == expected


COMPOSED = [
    ("train", []),
    ("train", ["experiment=book_chapter5"]),
    ("train", ["model=dial"]),
    ("train", ["data=text", "optimizer=muon", "callbacks=[default,ema]"]),
    ("generate", ["decoding=beam"]),
    ("prepare", ["corpus=tinystories"]),
    ("plan", ["cluster=h100"]),
    *((verb, []) for verb in VERBS if verb not in ("train", "generate", "prepare", "plan")),
]


@pytest.mark.parametrize(("verb", "words"), COMPOSED, ids=lambda value: str(value))
def test_the_keys_offered_are_those_that_hydra_composes(verb, words):
    found = outline(verb, read_line(f"firstlight {verb} {' '.join(words)} ").typed, conf_dirs())
    comments = {name: key.comment for name, key in found.keys.items()}
    composed = OmegaConf.to_container(compose_config(verb, words))
    assert set(found.keys) == set(dict(settings_of(composed, comments)))


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """The environment of a shell in which `firstlight` is this one."""
    folder = tmp_path_factory.mktemp("bin")
    program = folder / "firstlight"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m firstlight "$@"\n')
    program.chmod(0o755)
    path = f"{folder}{os.pathsep}{os.environ['PATH']}"
    return os.environ | {"PATH": path, "HOME": str(folder), "TERM": "dumb"}


def needs(shell):
    return pytest.mark.skipif(shutil.which(shell) is None, reason=f"{shell} is not here")


def output_of(command, environment, **more):
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=120, check=True, **more
    )
    assert done.stderr == ""
    return done.stdout


@needs("bash")
def test_bash_completes(environment):
    # The word that bash asks about begins after the last = or quote.
    typed = [
        ("firstlight gen", "gen", ["generate "]),
        ("firstlight train model=gpt2_x", "gpt2_x", ["gpt2_xl "]),
        ("firstlight train trainer.max_st", "trainer.max_st", ["trainer.max_steps="]),
        ("firstlight info 'checkpoint=my te", "checkpoint=my te", ["checkpoint=my texts/"]),
        ("firstlight info checkpoint=my\\ te", "my\\ te", ["my\\ texts/"]),
        ("firstlight train model=nano model.po", "model.po", []),
    ]
    script = 'eval "$(firstlight completion bash)"\n'
    for line, word, _ in typed:
        script += (
            f"COMP_LINE={shlex.quote(line)}; COMP_POINT={len(line)};"
            f" _firstlight firstlight {shlex.quote(word)} x;"
            ' printf "<%s>" "${COMPREPLY[@]}"; echo\n'
        )
    expected = ["".join(f"<{reply}>" for reply in replies) or "<>" for *_, replies in typed]
    assert output_of(["bash", "-c", script], environment).splitlines() == expected
    assert "_firstlight firstlight" in output_of(
        ["bash", "-c", 'eval "$(firstlight completion bash)"; complete -p firstlight'], environment
    )


@needs("fish")
def test_fish_completes_and_says_what_a_word_is(environment):
    script = "firstlight completion fish | source; complete -C 'firstlight train optimizer=mu'"
    out = output_of(["fish", "--no-config", "-c", script], environment)
    assert out == "optimizer=muon\tMuon for the hidden matrices\n"


@needs("zsh")
def test_zsh_completes(environment):
    """In a terminal of zsh's own, since it completes only where somebody types."""
    script = (
        "zmodload zsh/zpty; zpty z zsh -f -i; zpty -w z 'PS1=; unsetopt zle_bracketed_paste;"
        ' eval "$(firstlight completion zsh)"; echo READY\'; zpty -r z line "*READY*READY*";'
        " zpty -w -n z $'firstlight train optimizer=mu\\t'; zpty -r z line \"*muon*\"; echo $line"
    )
    assert "optimizer=muon" in re.sub(
        r"\x1b\[[\d;?]*\w|\x07", "", output_of(["zsh", "-f", "-c", script], environment)
    )


def test_a_script_for_each_shell_and_a_line_for_others(capsys):
    for words in (["completion", "bash"], ["--shell-completion", "install=bash"], ["-sc", "bash"]):
        assert main(words) == 0
        assert "complete -o nospace -F _firstlight firstlight" in capsys.readouterr().out
    for words in (["-sc"], ["completion", "tcsh"]):
        assert main(words) == 2
        out, err = capsys.readouterr()
        assert out == "" and err.count("\n") == 1 and "firstlight completion bash" in err


def test_nothing_slow_is_imported_for_it():
    slow = ("torch", "hydra", "omegaconf", "numpy", "rich", "lightning", "multiprocessing")
    code = (
        "import sys; from firstlight.cli import main;"
        " main(['--complete', 'bash', 'firstlight train model=', '']);"
        f" print([name for name in {slow} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "[]", done.stderr


def test_every_option_is_offered_with_what_it_does():
    for option in OPTIONS:
        assert option.long in offered(f"firstlight train {option.long}")
        assert option.what
