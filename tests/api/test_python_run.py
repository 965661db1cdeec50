"""A run that is trained from Python is the command line's, and its folder tells what it was."""

import math
import shutil

import pytest
import torch
from safetensors.torch import load_file
from tiny_api import numbers

import firstlight
from firstlight.cli import main
from firstlight.overrides import setting


def test_a_run_is_the_one_of_the_command_line_bit_for_bit(tiny, trained, tmp_path):
    words = [
        "tokenizer=bytes",
        "model.emb_dim=16",
        "model.n_layers=1",
        "model.n_heads=2",
        "model.context_length=16",
        "data.batch_size=2",
        "data.eval_batches=2",
        "scheduler.warmup_steps=1",
        "trainer.max_steps=4",
        "trainer.eval_every_n_steps=2",
        "trainer.log_every_n_steps=1",
        "callbacks.sample_generation.max_new_tokens=4",
    ]
    assert main(["train", *words, setting("output_dir", str(tmp_path / "typed"))]) == 0
    typed = firstlight.Run(tmp_path / "typed")
    assert numbers(typed) == numbers(trained) and typed.samples() == trained.samples()
    own = {"output_dir": None}
    assert typed.config | own == trained.config | own
    again = firstlight.train(*words, output_dir="again")  # in this process, and from strings
    assert numbers(again) == numbers(trained)
    weights = [load_file(run.folder / "model.safetensors") for run in (again, trained)]
    assert all(torch.equal(weight, weights[1][name]) for name, weight in weights[0].items())


def test_a_run_tells_what_it_was(trained):
    history = trained.history()
    assert history["step"] == [0, 1, 2, 3, 4] and history["val/loss"][1] is None
    assert trained.metrics["step"] == 4 and trained.metrics["val/loss"] == history["val/loss"][4]
    assert trained.config["model"]["emb_dim"] == 16
    assert list(trained.samples()) == [0, 2, 4]
    assert trained.is_finished
    assert (
        trained == firstlight.Run(trained.folder) and len({trained, firstlight.Run(trained)}) == 1
    )


def test_a_run_that_was_not_evaluated_yet_has_no_samples(trained, tmp_path):
    folder = shutil.copytree(trained.folder, tmp_path / "young")
    (folder / "metrics.csv").write_text("step,tokens,lr\n1,32,0.001\n")
    assert firstlight.Run(folder).samples() == {}
    assert firstlight.Run(folder).metrics == {"step": 1, "tokens": 32, "lr": 0.001}


def test_the_history_as_a_frame(trained):
    pandas = pytest.importorskip("pandas")
    frame = trained.history("pandas")
    assert isinstance(frame, pandas.DataFrame)
    assert frame["step"].tolist() == [0, 1, 2, 3, 4] and math.isnan(frame["val/loss"][1])
    with pytest.raises(firstlight.Error, match=r"^frame \(arrow\): 'pandas' or 'polars'"):
        trained.history("arrow")  # type: ignore[call-overload]


def test_a_frame_of_a_package_that_is_not_installed_is_refused(trained, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "polars", None)
    with pytest.raises(firstlight.Error, match="not installed: pip install polars"):
        trained.history("polars")


def test_a_run_is_resumed_and_then_longer(tiny):
    run = firstlight.train(**tiny, output_dir="run")
    with pytest.raises(firstlight.Error, match="finished"):
        run.resume()
    longer = run.resume(trainer={"max_steps": 6})
    assert longer == run and longer.metrics["step"] == 6


def test_a_run_is_named_wherever_one_is_asked_for(tiny, trained):
    started = firstlight.train(**tiny, init_from=trained, output_dir="started")
    assert started.history()["val/loss"][0] == pytest.approx(trained.metrics["val/loss"])


def test_runs_are_in_the_order_in_which_they_began(tiny, tmp_path):
    with pytest.raises(firstlight.Error, match=r"^root \(outputs\): no such folder$"):
        firstlight.runs()
    first = firstlight.train(**tiny, output_dir=tmp_path / "outputs" / "b")
    second = firstlight.train(**tiny, output_dir=tmp_path / "outputs" / "a")
    (tmp_path / "outputs" / ".aside").mkdir()
    first.folder.rename(tmp_path / "outputs" / "c")
    assert firstlight.runs() == [firstlight.Run("outputs/c"), second]
    assert firstlight.Run("last") in firstlight.runs()


def test_a_notebook_shows_the_run_and_its_figures(trained):
    page = trained._repr_html_()
    assert "val/loss" in page and "data:image/png;base64," in page
    assert trained.plot()._repr_png_().startswith(b"\x89PNG")  # type: ignore[attr-defined]
    assert repr(trained.plot()).startswith("Figure(")
    assert trained.plot("perplexity").axes[0].get_yscale() == "log"
    with pytest.raises(firstlight.Error, match=r"^kind \(lr\)"):
        trained.plot("lr")  # type: ignore[arg-type]


BAD = {
    "a key": ({"optimiser": {"lr": 1}}, r"^optimiser\.lr: .*optimizer\.lr"),
    "a value": ({"optimizer": {"lr": "abc"}}, r"^optimizer\.lr: expected float > 0, got 'abc'$"),
    "a range": ({"seed": -1}, r"^seed: expected int >= 0"),
    "a choice": ({"model": "nanno"}, "^model=nanno: .*'nano'"),
    "an object": ({"model": object()}, "^model: .* of type object"),
    "not a key": ({"a=b": 1}, "^'a=b': this is not a key"),
    "a number as a key": ({"optimizer": {1: 2}}, "^'optimizer.1': this is not a key"),
    "several devices": ({"trainer": {"devices": 2}}, r"^trainer\.devices \(2\): a run of several"),
    "several values": ({"seed": firstlight.choice(1, 2)}, "^seed: several values make"),
    "a sweep's values": (
        {"optimizer.lr": firstlight.choice(1e-3, 2e-3)},
        r"^optimizer\.lr: several values make a sweep; call firstlight\.sweep\(",
    ),
}


@pytest.mark.parametrize(("settings", "message"), BAD.values(), ids=BAD)
def test_a_mistake_is_one_exception_that_names_the_argument(tiny, settings, message, tmp_path):
    with pytest.raises(firstlight.Error, match=message) as told:
        firstlight.train(**settings)
    assert isinstance(told.value, ValueError) and "\n" not in str(told.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ({"model": "nano"}, "settings in a dict are given as keywords"),
        (3, "give strings as on the command line"),
        (
            "optimizer.lr=1e-3,2e-3",
            r"^optimizer\.lr=1e-3,2e-3: several values make a sweep; call firstlight\.sweep\(",
        ),
        ("-m", "for a sweep, call firstlight.sweep"),
        ("--cfg", "options are for the command line"),
        ("nano", "nano"),
    ],
)
def test_what_is_no_setting_is_refused(tiny, word, message, tmp_path):
    with pytest.raises(firstlight.Error, match=message):
        firstlight.train(word)
    assert list(tmp_path.iterdir()) == []


def test_several_mistakes_are_a_line_each(tiny):
    with pytest.raises(firstlight.Error) as told:
        firstlight.train(seed=-1, optimizer={"lr": -1})
    assert len(str(told.value).splitlines()) == 2


def test_no_line_of_ours_is_in_the_traceback_of_a_mistake(tiny):
    with pytest.raises(firstlight.Error) as told:
        firstlight.train(model="nanno")
    files = [entry.path.name for entry in told.traceback]
    assert files == ["test_python_run.py", "call.py"]
    assert told.value.__suppress_context__
