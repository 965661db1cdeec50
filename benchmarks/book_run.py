"""Compare the whole run of the book's chapter 5 (124M, ten epochs): the book's loop and firstlight.

Each is a process of its own, one after the other, timed from start to end, including imports and reading the text. Both
evaluate as often as the book does; the book samples after each epoch, firstlight after each evaluation. `fast` is for
users who do not need the book's exact numbers: bf16-mixed where the machine supports it, dropout from few bits, the
seeded order. The book saves nothing while it trains, and neither does the last row, which is run with several seeds.

    .venv/bin/python benchmarks/book_run.py path/to/the-verdict.txt      # about half an hour on two cores
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import tiktoken
import torch
from options import described, existing_file, positive
from rich.console import Console
from rich.table import Table

from firstlight.runs.run_folder import RunFolder

BOOK = "the book's loop"
FAST = ["order=seeded", "trainer.precision=auto", "model.dropout=fast"]
RUNS = {
    "firstlight, fast, with checkpoints": FAST,
    "firstlight, fast": [*FAST, "~callbacks.checkpoint"],
}


def run_page(file: Path) -> None:
    """Run the book's last script, with its model, loaders and loop."""
    from page import GPTDatasetV1, GPTModel, train_model_simple

    from firstlight.model.gpt import GPT

    text, tokenizer = file.read_text(encoding="utf-8"), tiktoken.get_encoding("gpt2")
    split = int(0.9 * len(text))
    torch.manual_seed(123)
    ours = GPT(vocab_size=50257, context_length=256, emb_dim=768, n_heads=12, n_layers=12)
    torch.manual_seed(123)  # the book's model draws what ours drew
    model = GPTModel(ours, drop_rate=0.1)
    loaders = [
        torch.utils.data.DataLoader(
            GPTDatasetV1(tokenizer.encode(part), 256, 256),
            batch_size=2,
            shuffle=train,
            drop_last=train,
        )
        for part, train in ((text[:split], True), (text[split:], False))
    ]
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0004, weight_decay=0.1)
    start = torch.tensor(tokenizer.encode("Every effort moves you")).unsqueeze(0)
    evaluations = train_model_simple(
        model, *loaders, optimizer, 10, eval_freq=5, eval_iter=5, start_context=start
    )
    print(*(loss for _, _, loss in evaluations))


def timed(command: list[str]) -> tuple[float, str]:
    began = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return time.perf_counter() - began, done.stdout


def run_firstlight(file: Path, seed: int, overrides: list[str]) -> tuple[float, list[float]]:
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable, "-m", "firstlight", "train", "experiment=book_chapter5",
            f"data.folder='{file.resolve().parent}'", "trainer.accelerator=cpu", f"seed={seed}",
            f"output_dir={folder}/run", *overrides,
        ]  # fmt: skip
        seconds, _ = timed(command)
        rows = RunFolder(Path(folder, "run")).rows
    losses = [float(row["val/loss"]) for row in rows if row["val/loss"]]
    # The first loss is that of the untrained model, which the book does not evaluate.
    return seconds, losses[1:]


def main() -> None:
    parser = described(__doc__)
    parser.add_argument("file", type=existing_file, help="the-verdict.txt")
    parser.add_argument("--seeds", type=positive, default=3, help="runs of the last row")
    parser.add_argument("--page", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    # firstlight looks for a file of this name in data.folder.
    if args.file.name != "the-verdict.txt":
        parser.error(f"{args.file}: must be named the-verdict.txt")
    if args.page:
        run_page(args.file)
        return
    seconds, out = timed([sys.executable, "-W", "ignore", __file__, str(args.file), "--page"])
    losses = [float(loss) for loss in out.splitlines()[-1].split()]
    print(f"{BOOK}: {seconds:.0f} s, {losses[-1]:.3f}", flush=True)
    runs = {BOOK: [(seconds, losses)]}
    plan = [(name, 123) for name in RUNS] + [
        ([*RUNS][-1], seed) for seed in range(124, 123 + args.seeds)
    ]
    for name, seed in plan:
        runs.setdefault(name, []).append(run_firstlight(args.file, seed, RUNS[name]))
        print(
            f"{name}, seed {seed}: {runs[name][-1][0]:.0f} s, {runs[name][-1][1][-1]:.3f}",
            flush=True,
        )
    Console(width=120).print(table_of(runs))


def table_of(runs: dict[str, list[tuple[float, list[float]]]]) -> Table:
    table = Table()
    for column in (
        "run",
        "seconds",
        "of the book's",
        "last validation loss, by seed",
        "lowest, by seed",
    ):
        table.add_column(column, justify="left" if column == "run" else "right")
    page = runs[BOOK][0][0]
    for name, found in runs.items():
        seconds = statistics.median(taken for taken, _ in found)
        last, lowest = (
            ", ".join(f"{f(losses):.3f}" for _, losses in found) for f in (lambda x: x[-1], min)
        )
        table.add_row(name, f"{seconds:.0f}", f"{seconds / page:.2f}", last, lowest)
    return table


if __name__ == "__main__":
    main()
