"""`firstlight compare` on trained runs: what it refuses, what it tells, what the page holds."""

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest
from rich.console import Console

from firstlight.cli import main
from firstlight.compare.plot import comparison_figure
from firstlight.compare.runs import _short_names
from firstlight.compare.table import tables

pytestmark = pytest.mark.cpu

TINY = [
    *(
        "model.emb_dim=16",
        "model.n_layers=1",
        "model.n_heads=2",
        "model.context_length=16",
        "model.drop_rate=0",
    ),
    *(
        "tokenizer=bytes",
        "data=text",
        "data.batch_size=4",
        "data.eval_batches=4",
        "trainer.max_steps=12",
    ),
    *(
        "trainer.eval_every_n_steps=6",
        "trainer.log_every_n_steps=3",
        "scheduler.warmup_steps=2",
        "logger=[csv]",
    ),
    "metrics=[default,top1_accuracy]",
    *(
        "callbacks=[checkpoint,throughput,sample_generation]",
        "callbacks.sample_generation.max_new_tokens=4",
    ),
    *("callbacks.sample_generation.prompt=</script><b>lamp", "callbacks.throughput.peak_flops=1e9"),
]
RUNS = {
    "a": ["data.path=one.txt", "optimizer.lr=1e-2"],
    "b": ["data.path=one.txt", "optimizer.lr=1e-4"],
    "b2": ["data.path=one.txt", "optimizer.lr=1e-4", "seed=7"],
    "other_text": ["data.path=two.txt"],
    "other_tokenizer": ["data.path=one.txt", "tokenizer=bpe", "tokenizer.vocab_size=270"],
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with the RUNS."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        Path("one.txt").write_text("The lamp was lit, and the boats came home again. " * 80)
        Path("two.txt").write_text("Nobody knew where the other road would lead. " * 80)
        for name, overrides in RUNS.items():
            assert main(["train", *TINY, *overrides, f"output_dir={name}"]) == 0
    return folder


@pytest.fixture
def place(trained, monkeypatch):
    monkeypatch.chdir(trained)
    return trained


@pytest.fixture
def found(place, capsys):
    """A function: what compare.json holds after `firstlight compare` with these words."""

    def compare(*words: str) -> dict:
        shutil.rmtree("out", ignore_errors=True)
        assert main(["compare", *words, "out=out"]) == 0
        return json.loads(Path("out/compare.json").read_text())

    return compare


def test_runs_are_ranked_with_what_they_differ_in_and_seeds_are_repetitions(found, capsys):
    result = found("b", "a", "b2")
    best, other = result["configs"]
    assert best["settings"] == {"optimizer.lr": "0.01"} and other["settings"] == {
        "optimizer.lr": "0.0001"
    }
    assert (best["seeds"], other["seeds"]) == ([123], [123, 7])
    assert other["spread"] > 0 and best["spread"] is None
    difference = other["difference"]
    assert difference["value"] == pytest.approx(other["mean"] - best["mean"])
    assert difference["low"] < difference["value"] < difference["high"]
    assert difference["is_told_apart"] and not other["could_be_best"]
    said = capsys.readouterr().out
    assert "worse, by more than chance" in said and "the best" in said and "0.0001" in said


def test_configs_that_differ_in_much_have_a_table_of_it(found, capsys):
    result = found("b", "a")
    for config, value in zip(result["configs"], ("one", "two"), strict=True):
        config["settings"] = {f"model.key_{n}": value for n in range(12)}
    capsys.readouterr()
    for table in tables(result):
        Console(width=140).print(table)
    said = capsys.readouterr().out
    assert re.search(r"key +lr=0\.01 +lr=0\.0001", said) and re.search(
        r"model\.key_11 +one +two", said
    )
    assert "from the best" in said  # in one piece: the first table has room for its own columns


def test_the_measured_loss_is_that_of_evaluate(found, capsys):
    result = found("a", "b")
    capsys.readouterr()
    assert main(["evaluate", "format=json", "checkpoint=a"]) == 0
    loss = json.loads(capsys.readouterr().out)["val/loss"]
    assert result["configs"][0]["mean"] == pytest.approx(loss, rel=1e-6)
    result = found("a", "b", "metric=val/bits_per_byte")
    assert result["configs"][0]["mean"] == pytest.approx(
        loss / 0.6931471805599453, rel=1e-6
    )  # bytes are tokens


def test_a_metric_to_maximise_is_measured_and_the_highest_is_the_best(found, capsys):
    result = found("b", "a", "metric=val/top1_accuracy")
    assert "(higher is better)" in capsys.readouterr().out
    best, other = result["configs"]
    assert result["is_measured"] and result["windows"]["measured"] >= 8
    assert best["settings"] == {"optimizer.lr": "0.01"} and best["mean"] > other["mean"]
    assert other["difference"]["value"] == pytest.approx(other["mean"] - best["mean"])
    assert main(["evaluate", "format=json", "checkpoint=a"]) == 0
    accuracy = json.loads(capsys.readouterr().out)["val/top1_accuracy"]
    assert best["mean"] == pytest.approx(accuracy, abs=0.01)
    [run, *_] = result["runs"]
    assert run["best"]["value"] == max(point["value"] for point in run["curve"])
    with_logged = found("b", "a", "metric=val/top1_accuracy", "windows=0")
    assert [config["settings"] for config in with_logged["configs"]] == [
        c["settings"] for c in result["configs"]
    ]


def test_curves_are_over_steps_tokens_and_seconds(found):
    result = found("a", "b")
    assert result["axes"] == ["step", "tokens", "seconds"]
    [a, *_] = result["runs"]
    assert [point["step"] for point in a["curve"]] == [0, 6, 12]
    assert [point["tokens"] for point in a["curve"]] == [0, 384, 768]
    seconds = [point["seconds"] for point in a["curve"]]
    assert seconds[0] == 0 < seconds[1] < seconds[2]


def test_with_one_seed_each_the_verdict_speaks_of_the_text_alone(found):
    best, other = found("a", "b")["configs"]
    assert other["verdict"].startswith("higher on this text; another seed may reverse it")
    assert best["could_be_best"] and other["could_be_best"]
    assert other["difference"]["low"] is None and other["difference"]["value"] > 0
    [_, other] = found("a", "b", "windows=0")["configs"]
    assert other["verdict"] == "cannot be told: one seed of each; run each with seeds=3"


@pytest.fixture
def short_text(place, monkeypatch):
    """The names of runs of two configs, two seeds each, whose validation has five windows."""
    Path("short.txt").write_text("The lamp was lit, and the boats came home again. " * 17)
    names = [f"short_{lr}_{seed}" for lr in ("1e-2", "1e-4") for seed in (1, 2)]
    for name in names:
        _, lr, seed = name.split("_")
        if not Path(name).is_dir():
            short = ["data.path=short.txt", "data.test_ratio=0", "trainer.max_steps=6"]
            of_run = [f"optimizer.lr={lr}", f"seed={seed}", f"output_dir={name}"]
            assert main(["train", *TINY, *short, *of_run]) == 0
    return names


def test_too_little_text_is_told_in_the_table_the_data_the_page_and_the_figure(
    found, short_text, capsys
):
    """Of one window of 16 tokens nobody knows how another one would differ."""
    result = found(*short_text, "windows=1")
    best, other = result["configs"]
    assert result["windows"] == {"measured": 1, "blocks": 1}
    assert best["verdict"] == "the best here, which may be chance: 1 other could be the best"
    assert not other["difference"]["is_told_apart"] and other["difference"]["low"] is None
    told = "cannot be told: too little text; measure all of it: windows=5"
    assert other["verdict"] == told
    said = " ".join(capsys.readouterr().out.split())
    assert "too little text" in said and "more than chance" not in said
    assert told in Path("out/compare.html").read_text()
    titles = [axes.get_title() for axes in comparison_figure(result).axes]
    assert titles[-1] == "none is told to be worse than another"
    # The five windows, and the shorter one at the end.
    assert found(*short_text)["windows"] == {"measured": 5, "blocks": 6}


def test_of_what_runs_have_logged_the_seeds_alone_are_told(found, short_text):
    verdict = found(*short_text, "windows=0")["configs"][1]["verdict"]
    assert (
        "worse on this text, by more than the chance of the seeds" in verdict
        or "not told apart" in verdict
    )
    assert found(*short_text, "windows=0")["windows"] == {"measured": None, "blocks": None}


def test_unfinished_runs_and_other_numbers_of_tokens_are_named_before_anything_is_said(
    found, place, capsys
):
    shutil.copytree("b2", "killed", dirs_exist_ok=True)
    Path("killed/model.safetensors").unlink()
    metrics = Path("killed/metrics.csv")
    metrics.write_text(
        "".join(line for line in metrics.read_text().splitlines(True) if not line.startswith("12,"))
    )
    result = found("a", "b", "killed")
    assert [run["name"] for run in result["runs"] if not run["is_finished"]] == ["killed"]
    assert result["notes"][:2] == [
        "not all runs have seen the same number of tokens: killed 384; the others 768;"
        " at=equal_tokens compares them after 384",
        "killed is unfinished (step 6): it may still change",
    ]
    assert "killed is unfinished" in capsys.readouterr().err
    order = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Console, "print", lambda *_: order.append("table"))
        patch.setattr("builtins.print", lambda text, **_: order.append(str(text)))
        assert main(["compare", "a", "b", "killed", "out=null"]) == 0
    assert order[0].startswith("note: not all runs have seen") and order[-1] == "table"


def test_a_trial_beside_a_run_of_another_place_is_named_with_its_sweep(tmp_path):
    for folder in ("mysweep/0", "mysweep/1", "ft"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "mysweep" / "sweep.yaml").touch()
    trials, run = [tmp_path / "mysweep" / "0", tmp_path / "mysweep" / "1"], tmp_path / "ft"
    assert list(_short_names(trials).values()) == ["0", "1"]
    assert list(_short_names([trials[0], run]).values()) == ["mysweep/0", "ft"]


def test_the_same_run_under_two_names_is_one(place, capsys):
    assert main(["compare", "a", "./a"]) == 2
    assert "comparing takes two" in capsys.readouterr().err


def test_a_config_and_a_seed_count_once_whatever_does_not_change_training(found, place, capsys):
    for name in ("a", "b"):
        shutil.copytree(name, f"copy_of_{name}", dirs_exist_ok=True)
        config = Path(f"copy_of_{name}/.hydra/config.yaml")
        text = config.read_text()
        assert "num_workers: 0" in text and "max_new_tokens: 4" in text
        config.write_text(
            text.replace("num_workers: 0", "num_workers: 2").replace("_tokens: 4", "_tokens: 8")
        )
    result = found("a", "b", "copy_of_a", "copy_of_b")
    assert [config["seeds"] for config in result["configs"]] == [[123], [123]]
    assert sum("is left out" in note for note in result["notes"]) == 2


def test_one_text_at_two_places_is_one_text(found, place):
    shutil.copytree("b", "moved", dirs_exist_ok=True)
    config = Path("moved/.hydra/config.yaml")
    config.write_text(config.read_text().replace("path: one.txt", f"path: {place}/one.txt"))
    difference = found("a", "moved")["configs"][1]["difference"]
    assert difference is not None and difference["value"] > 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.replace("\n12,", "\nx,"), "not what firstlight writes"),
        (lambda text: "", "has logged nothing yet"),
        (
            lambda text: (
                text + "18,1152,1.0,nan,nan" + "," * (text.splitlines()[0].count(",") - 4) + "\n"
            ),
            "is nan at step 18",
        ),
    ],
    ids=["no number", "empty", "nan"],
)
def test_metrics_that_cannot_be_compared_are_told(place, capsys, change, message):
    shutil.copytree("a", "spoilt", dirs_exist_ok=True)
    metrics = Path("spoilt/metrics.csv")
    assert metrics.read_text().startswith("step,tokens,epoch,train/loss,val/loss,")
    metrics.write_text(change(metrics.read_text()))
    assert main(["compare", "spoilt", "b", "out=null"]) == 2
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1


@pytest.mark.parametrize("name", ["metrics.csv", "samples.txt"])
def test_a_file_of_a_run_that_is_larger_than_any_is_not_read(place, capsys, name):
    shutil.copytree("a", "huge", dirs_exist_ok=True)
    with Path("huge", name).open("r+b") as file:
        file.truncate(100 * 2**30)  # a hole: nothing is written
    assert main(["compare", "huge", "b", "out=null"]) == 2
    err = capsys.readouterr().err
    assert (
        f"huge/{name}): not what firstlight writes (File too large: over " in err
        and err.count("\n") == 1
    )


@pytest.mark.parametrize("windows", ["windows=256", "windows=0"])
@pytest.mark.parametrize(
    ("other", "what"), [("other_text", "texts"), ("other_tokenizer", "tokenizers")]
)
def test_losses_of_different_things_are_refused_and_bits_of_a_byte_are_not(
    place, capsys, other, what, windows
):
    assert main(["compare", "a", other, "out=null", windows]) == 2
    err = capsys.readouterr().err
    assert f"different {what}" in err and "metric=val/bits_per_byte" in err and err.count("\n") == 1
    assert main(["compare", "a", other, "out=null", windows, "metric=val/bits_per_byte"]) == 0
    said = capsys.readouterr()
    # Another tokenizer is measured on the same places of the same text.
    assert ("measured on different texts" in said.err) == (what == "texts")
    assert ("measured on another text than the best" in " ".join(said.out.split())) == (
        what == "texts"
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["a", "nowhere"], "nowhere): no such folder"),
        (["a"], "comparing takes two"),
        (
            ["."],
            "not a run folder, it has no .hydra/config.yaml; name the runs in",
        ),
        (["a", "b", "metric=val/los"], "did you mean 'val/loss'"),
        (["a", "b", "confidence=1"], "confidence"),
        (["a", "b", "out=one.txt/x"], "out (one.txt/x) cannot be made"),
        (["a", "b", "windows=-1"], "windows"),
        (["a", "b", "metric=step"], "has not logged it"),
        (["a", "b", "windows=0", "weights=best"], "weights=best"),
        (["a", "b", "metric=val/perplexity", "weights=best"], "weights=best: val/perplexity"),
    ],
)
def test_a_mistake_is_one_line(place, capsys, words, message):
    out = [] if any(word.startswith("out=") for word in words) else ["out=null"]
    assert main(["compare", *words, *out]) == 2
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1


class Page(HTMLParser):
    """What a browser would load, and how many scripts there are."""

    def __init__(self):
        super().__init__()
        self.loaded, self.tags = [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.loaded += [value for name, value in attrs if name in ("src", "href", "srcset", "data")]


def test_the_page_needs_no_network_and_a_sample_stays_text(found):
    result = found("a", "b")
    assert "</script><b>lamp" in result["runs"][0]["samples"]["12"]
    text = Path("out/compare.html").read_text()
    page = Page()
    page.feed(text)
    assert page.loaded == [] and "b" not in page.tags and page.tags.count("script") == 1
    assert not re.search(r"https?://|@import|url\(|fetch\(|import\(", text)
    data = json.loads(text.partition("const data = ")[2].partition(";\n")[0])
    assert data == result
    assert Path("out/compare.png").read_bytes().startswith(b"\x89PNG")


MOUSE = """<script>
document.getElementById("axes").children[1].click();
const place = document.getElementById("plot").getBoundingClientRect();
const at = { clientX: place.left + place.width * .98, clientY: place.top + place.height * .1 };
document.getElementById("plot").dispatchEvent(new MouseEvent("mousemove", at));
</script>"""


def test_a_browser_shows_the_page_and_what_the_mouse_is_at(found, tmp_path):
    """Chromium runs the script: table, curves and samples are there, and samples are text."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("there is no Chromium")
    found("a", "b")
    page = tmp_path / "page.html"
    page.write_text(Path("out/compare.html").read_text().replace("</body>", f"{MOUSE}</body>"))
    options = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        f"--user-data-dir={tmp_path}/profile",
        "--dump-dom",
    ]
    command = [chromium, *options, page.as_uri()]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    body = shown.partition("</script>")[0].partition("<body>")[2]
    assert body.count("<path ") == 2 and "the best" in body
    assert "&lt;/script&gt;&lt;b&gt;lamp" in body
    assert 'aria-pressed="true">step 12<' in body
    assert (
        'aria-pressed="true">training tokens<' in body
        and 'aria-pressed="false">optimizer steps<' in body
    )
    tip = body.partition('<div id="tip"')[2]
    assert re.search(
        r"<b>[ab]</b><br>12 optimizer steps, 768 training tokens, .* seconds of"
        r" training<br>val/loss \d",
        tip,
    )


def test_the_test_split_is_compared_with_the_best_weights(found, capsys):
    result = found("a", "b", "metric=test/loss")
    assert result["settings"]["weights"] == "best" and result["is_measured"]
    capsys.readouterr()
    assert main(["evaluate", "format=json", "checkpoint=a", "split=test"]) == 0
    loss = json.loads(capsys.readouterr().out)["test/loss"]
    assert result["configs"][0]["mean"] == pytest.approx(loss, rel=1e-6)
    [run, *_] = result["runs"]
    assert run["final"]["value"] == pytest.approx(loss, rel=1e-6)  # as the run logged it


def _one_more(match: re.Match[str]) -> str:
    step, tokens = match[1], int(match[2])
    return f"{step},{tokens + 1 if tokens else 0}"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["a", "stopped", "metric=test/loss"], "stopped is unfinished, and its test split is"),
        (["a", "short_1e-2_1", "metric=test/loss"], "has no test split (data.test_ratio is 0"),
        (["a", "b", "metric=test/los"], "has not logged it; did you mean 'test/loss'?"),
        (["a", "b", "metric=test/loss", "at=equal_tokens"], "scored at the end alone"),
        (["a", "b", "weights=best", "at=equal_tokens"], "measures no weights; leave it out"),
        (["a", "b", "metric=nonsense", "at=equal_tokens"], "has not logged it"),
        (["a", "elsewhen", "at=equal_tokens"], "there is no number of tokens after which"),
    ],
)
def test_what_has_no_test_score_or_no_equal_tokens_is_refused(
    place, short_text, capsys, words, message
):
    if not Path("stopped").is_dir():
        shutil.copytree("b2", "stopped")
        Path("stopped/model.safetensors").unlink()
        shutil.copytree("b2", "elsewhen")
        metrics = Path("elsewhen/metrics.csv")
        # One token more in every row but that of the untrained model.
        metrics.write_text(re.sub(r"(?m)^(\d+),(\d+)", _one_more, metrics.read_text()))
    capsys.readouterr()
    assert main(["compare", *words, "out=null"]) == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1


def test_runs_are_compared_at_the_last_number_of_tokens_that_all_have_seen(found, place, capsys):
    assert main(["train", *TINY, *RUNS["a"], "trainer.max_steps=18", "output_dir=long"]) == 0
    result = found("long", "b", "b2", "at=equal_tokens")
    assert not result["is_measured"]
    assert {run["final"]["tokens"] for run in result["runs"]} == {768}
    assert result["notes"][0].startswith("compared after 768 tokens, the most after which all")
    assert result["notes"][1].startswith("trained further: long;") and len(result["notes"]) == 2
    rows = Path("long/metrics.csv").read_text().splitlines()
    [row] = [row.split(",") for row in rows if row.startswith("12,")]
    best = result["configs"][0]
    assert best["mean"] == float(row[rows[0].split(",").index("val/loss")])
