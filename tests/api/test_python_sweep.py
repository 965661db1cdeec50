"""A sweep from a script, and what Python tells of it afterwards."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_api import TINY

import firstlight

SCRIPT = f"""
import firstlight
print("the script begins")
swept = firstlight.sweep("optimizer.lr=1e-3,1e-2", **{TINY!r}, output_dir="sweep")
print("best:", swept.best.folder.name)
"""


@pytest.fixture(scope="module")
def swept(tmp_path_factory) -> firstlight.Sweep:
    """A sweep of a script without `if __name__ == "__main__"`."""
    folder = tmp_path_factory.mktemp("swept")
    script = folder / "script.py"
    script.write_text(SCRIPT)
    done = subprocess.run([sys.executable, script], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("the script begins") == 1
    assert "best: 1_optimizer.lr-0.01" in done.stdout
    return firstlight.Sweep(folder / "sweep")


def test_its_trials_are_runs(swept, trained):
    assert [trial.state for trial in swept.trials] == ["done", "done"]
    assert [trial.overrides for trial in swept.trials] == [
        ["optimizer.lr=0.001"],
        ["optimizer.lr=0.01"],
    ]
    assert swept.runs == [trial.run for trial in swept.trials]
    assert swept.best == swept.runs[1]
    assert swept.best.metrics["val/loss"] == swept.trials[1].metrics["val/loss"]
    assert swept.status()["objectives"] == ["val/loss"]
    assert Path(swept) == swept.folder and "1e-2" not in swept._repr_html_()
    assert "optimizer.lr=0.01" in swept._repr_html_()


def test_its_trials_beside_each_other(swept, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = swept.compare(out="report", windows=16)
    assert found.best == swept.best and found.runs == [swept.runs[1], swept.runs[0]]
    assert found.configs[0]["verdict"].startswith("the best here, which may be chance")  # one seed
    assert found.page == Path("report/compare.html") and found.page.is_file()
    assert "optimizer" not in str(found).splitlines()[0] and "the best" in str(found)
    assert all(len(line) <= 100 for line in str(found).splitlines())
    assert "best logged" in str(found)
    page = found._repr_html_()
    assert "the best" in page and "data:image/png;base64," in page
    one, two = swept.runs
    pair = one.compare(two, metric="val/perplexity", windows=0, out=None)
    assert (
        pair.page is None and pair.best == two and list(tmp_path.iterdir()) == [tmp_path / "report"]
    )


def test_what_is_shown_of_a_sweep_is_of_one_moment(swept, monkeypatch):
    """Another process may be working on it: its ledger is read once."""
    status, read = swept.status(), []
    monkeypatch.setattr(firstlight.Sweep, "status", lambda sweep: read.append(1) or status)
    assert swept.best in [trial.run for trial in swept.trials] and len(read) == 2
    assert "<table>" in swept._repr_html_() and len(read) == 3


def test_a_sweep_that_is_done_is_resumed_without_a_trial(swept, capsys):
    assert swept.resume() is swept
    assert "2 trials: 2 done" in capsys.readouterr().out


def test_the_same_call_again_works_on_the_same_sweep(swept, tiny, monkeypatch):
    monkeypatch.chdir(swept.folder.parent)
    again = firstlight.sweep("optimizer.lr=1e-3,1e-2", **tiny, output_dir="sweep")
    assert again.status() == swept.status()
    with pytest.raises(firstlight.Error, match="holds another sweep"):
        firstlight.sweep(**tiny, **{"optimizer.lr": firstlight.choice(1, 2)}, output_dir="sweep")


def test_more_values_extend_it(swept, tiny, tmp_path, monkeypatch):
    shutil.copytree(swept.folder, tmp_path / "sweep")
    monkeypatch.chdir(tmp_path)
    more = firstlight.Sweep("sweep").extend(optimizer={"lr": firstlight.choice(1e-3, 2e-2)})
    assert [trial.overrides for trial in more.trials[2:]] == [["optimizer.lr=0.02"]]
    assert [trial.state for trial in more.trials] == ["done", "done", "done"]
    again = firstlight.sweep("optimizer.lr=1e-3,1e-2,2e-2", **tiny, output_dir="sweep")
    assert again.status() == more.status()
    with pytest.raises(firstlight.Error, match="cannot be added"):
        more.extend(loss="cross_entropy")


def test_mistakes_are_told_before_anything_is_written(tiny, tmp_path):
    for words, settings, message in (
        (["optimizer.lr=1e-3,abc"], {}, "optimizer.lr: expected float > 0, got 'abc'"),
        (["seeds=0"], {}, "^seeds: expected int >= 1"),
        ([], {"optimizer": {"lrs": firstlight.choice(1, 2)}}, "^optimizer.lrs: "),
        (["resume=last", "seed=1,2"], {}, "^resume: "),
        (["seed=1"], {}, "^a sweep needs several values: "),
    ):
        with pytest.raises(firstlight.Error, match=message):
            firstlight.sweep(*words, **tiny, **settings)
    with pytest.raises(firstlight.Error, match="give the values"):
        firstlight.choice()
    with pytest.raises(firstlight.Error, match="not a sweep"):
        firstlight.Sweep(tmp_path)
    with pytest.raises(firstlight.Error, match=r"^last: "):
        firstlight.Sweep("last")
    with pytest.raises(firstlight.Error, match=r"^compare: name the runs"):
        firstlight.compare()
    assert list(tmp_path.iterdir()) == []


def test_an_interval_is_drawn_from(tiny):
    assert firstlight.interval(1e-4, 1e-2, log=True).text == "tag(log,interval(0.0001,0.01))"
    assert firstlight.interval(1, 8, whole=True).text == "tag(int,interval(1,8))"
    assert firstlight.interval(0, 1).text == "interval(0,1)"


def test_the_composed_config(tiny, tmp_path):
    config = firstlight.compose(**tiny, **{"optimizer.lr": 3e-4})
    assert config["optimizer"]["lr"] == 3e-4 and config["model"]["emb_dim"] == 16
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(firstlight.Error, match=r"^optimizer\.lr: expected float > 0"):
        firstlight.compose("optimizer.lr=-1")
