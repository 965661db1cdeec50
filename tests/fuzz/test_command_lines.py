"""Whole command lines through `firstlight.cli.main`: groups, choices, options, keys that do not
exist, sweeps.
"""

import contextlib
import io
import shutil
from pathlib import Path

import pytest
import requests
from fuzzing import TINY, Began, fuzz
from hypothesis import strategies as st
from mutations import mutations, settings_of

from firstlight.cli import main
from firstlight.compose.compose import compose_config
from firstlight.conf_files import conf_dir

CASES = pytest.mark.parametrize(
    "n", [12, pytest.param(60, marks=pytest.mark.long), pytest.param(1000, marks=pytest.mark.slow)]
)
GROUPS = {
    folder.name: sorted(file.stem for file in folder.glob("*.yaml"))
    for folder in Path(conf_dir()).iterdir()
    if folder.is_dir()
}
LISTS = ("callbacks", "logger")
OPTIONS = (
    "-m",
    "--cfg=job",
    "--help",
    "--info",
    "--resolve",
    "--run",
    "--config-dir=nowhere",
    "--config-name=x",
    "--x",
    "-",
)


@st.composite
def choices(draw: st.DrawFn) -> str:
    """A choice for a group, which there may not be."""
    group = draw(st.sampled_from([*sorted(GROUPS), "modle", "model/x", "hydra/launcher"]))
    names = st.sampled_from(
        [*GROUPS.get(group, []), *GROUPS["data"], "nope", "null", "../train", "3", ""]
    )
    if group in LISTS:
        return f"{group}=[{','.join(draw(st.lists(names, max_size=3)))}]"
    where = f"{group}@callbacks.sample_generation.decoding" if group == "decoding" else group
    return f"{where}={draw(names)}"


words = st.one_of(
    choices(),
    choices(),
    choices().map(lambda word: "~" + word.partition("=")[0]),
    st.sampled_from(OPTIONS),
    st.sampled_from(
        [
            "seed=1,2",
            "seed=range(10**9)",
            "resume=last",
            "resume=here",
            "init_from=here",
            "hydra.mode=x",
        ]
    ),
    st.builds(
        "{}={}".format,
        st.sampled_from(["lr", "model.lr", "optimiser.lr", "seeed", "é", "a.b.c", ""]),
        st.just("1"),
    ),
    st.text(max_size=8),
)


@pytest.fixture
def without_a_network(monkeypatch):
    def refuse(*_, **__):
        raise requests.ConnectionError("no network in tests")

    monkeypatch.setattr(requests.Session, "send", refuse)


@CASES
def test_a_command_line_begins_or_is_refused(stops_at_work, without_a_network, place, text, n):
    right = [*TINY, f"data.path={text}", "scheduler.warmup_steps=1"]
    values = mutations(settings_of(compose_config("train", right)))

    def run(case):
        chosen, changed = case
        err = io.StringIO()
        try:
            with contextlib.redirect_stderr(err):
                code = main(["train", *right, *chosen, *changed])
        except Began:
            return None
        if code == 0:  # --help, --cfg, --info
            return None
        assert code == 2
        lines = err.getvalue().splitlines()
        if (
            "-m" in chosen and Path("outputs").is_dir()
        ):  # a job of a sweep failed: Hydra names it, and keeps its folder
            lines = [line for line in lines if not line.startswith("Error executing job")]
            shutil.rmtree("outputs")
        assert all(line.startswith("firstlight: ") for line in lines), lines
        return [line.removeprefix("firstlight: ") for line in lines]

    few = st.one_of(
        st.just([]), st.lists(words, max_size=2)
    )  # what is right alone is seldom right together
    fuzz(st.tuples(few, st.one_of(st.just([]), values)), run, n=n, place=place)
