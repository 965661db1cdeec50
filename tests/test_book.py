"""The figures of "Build a Large Language Model (From Scratch)", chapter 5, on a CPU in float32.

Needs GPT-2's vocabulary (TIKTOKEN_CACHE_DIR) and the text, which are not part of the project:
skipped without them.
"""

from pathlib import Path

import pytest

from firstlight.cli import main
from firstlight.data.order import SeededOrder
from firstlight.data.the_verdict import TheVerdictData
from firstlight.memorisation import Copy, copies
from firstlight.runs.run_folder import RunFolder

pytestmark = pytest.mark.cpu

UNTRAINED = (10.98758347829183, 10.98110580444336)
EVALUATIONS = {  # step of the book, which counts from 0: training loss, validation loss
    0: (9.781, 9.933), 5: (8.111, 8.339), 10: (6.661, 7.048), 15: (5.961, 6.616), 20: (5.726, 6.600),
    25: (5.201, 6.348), 30: (4.417, 6.278), 35: (4.069, 6.226), 40: (3.732, 6.160), 45: (2.850, 6.179),
    50: (2.427, 6.141), 55: (2.104, 6.134), 60: (1.882, 6.233), 65: (1.320, 6.238), 70: (0.985, 6.242),
    75: (0.717, 6.293), 80: (0.541, 6.393), 85: (0.391, 6.452),
}  # fmt: skip
UNTRAINED_SAMPLE = "Every effort moves you rentingetic wasnم refres RexMeCHicular stren"
LAST_SAMPLE = (
    'Every effort moves you know," was one of the axioms he laid down across the Sevres and silver'
    " of an exquisitely appointed luncheon-table, when, on a later day, I had again run over from"
    " Monte Carlo; and Mrs. Gis"
)


def run_the_book(
    verdict: Path, folder: Path, *overrides: str
) -> tuple[dict[int, tuple[float, float]], list[str]]:
    """Losses by our step, which counts updates made, and the samples."""
    arguments = [
        "train",
        "experiment=book_chapter5",
        f"data.folder={verdict.parent}",
        f"output_dir={folder}",
    ]
    assert main([*arguments, "trainer.accelerator=cpu", "~callbacks.checkpoint", *overrides]) == 0
    rows = [row for row in RunFolder(folder).rows if row["val/loss"]]
    samples = (folder / "samples.txt").read_text(encoding="utf-8").split("--- step ")[1:]
    losses = {int(row["step"]): (float(row["train/loss"]), float(row["val/loss"])) for row in rows}
    return losses, [sample.partition("\n")[2].rstrip("\n") for sample in samples]


@pytest.mark.long
def test_the_book_begins_with_the_printed_numbers(gpt2_vocabulary, verdict, tmp_path, capsys):
    losses, samples = run_the_book(
        verdict, tmp_path / "run", "trainer.max_epochs=null", "trainer.max_steps=6",
        "callbacks.sample_generation.max_new_tokens=10",
    )  # fmt: skip
    assert losses[0] == pytest.approx(UNTRAINED, abs=1e-5)
    for step in (0, 5):
        assert losses[step + 1] == pytest.approx(EVALUATIONS[step], abs=0.0006)
    assert samples[0] == UNTRAINED_SAMPLE
    counts = capsys.readouterr().out
    assert "4,612 tokens       18 windows of 256" in counts
    assert "534 tokens        2 windows of 256" in counts
    assert "162,419,712 parameters" in counts


def test_the_last_sample_is_the_story_word_for_word(gpt2_vocabulary, verdict):
    """The figures of docs/memorisation.md, from the sample that the whole run ends with."""
    data = TheVerdictData(
        tokenizer=gpt2_vocabulary,
        order=SeededOrder(seed=0),
        context_length=256,
        url="not needed: the file is here",
        folder=str(verdict.parent),
    )
    data.setup()
    ids = gpt2_vocabulary.encode(LAST_SAMPLE.replace("\n", " "))
    new = ids[len(gpt2_vocabulary.encode("Every effort moves you")) :]
    leakage = data.leakage()
    found = copies(new, data.windows["train"].chunks(), leakage.n)
    assert (leakage.n, leakage.share) == (13, 0.0)
    assert leakage.never_share == pytest.approx(0.114, abs=5e-4)
    assert found.longest == Copy(start=1, length=49, place=1029)
    assert (found.copied, found.n_grams, len(new)) == (37, 38, 50)


@pytest.mark.slow
def test_the_whole_run_of_the_book_gives_all_printed_numbers(gpt2_vocabulary, verdict, tmp_path):
    losses, samples = run_the_book(verdict, tmp_path / "run")
    for step, printed in EVALUATIONS.items():
        assert losses[step + 1] == pytest.approx(printed, abs=0.0006)
    assert samples[-1].replace("\n", " ") == LAST_SAMPLE.replace("\n", " ")
