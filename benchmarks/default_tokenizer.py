"""Compare tokenizers by the text that the default experiment reaches in the same training time.

Bits per byte are comparable between tokenizers. Each trains for about `SECONDS`: the number of
steps follows from its own measured speed. Prints a table and a sample of each.

    .venv/bin/python benchmarks/default_tokenizer.py
"""

import csv
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from options import described

SECONDS = 60
CASES = {
    "bytes": ["tokenizer=bytes", "model.context_length=128", "data.batch_size=8"],
    "bpe 512": ["tokenizer.vocab_size=512"],
    "bpe 1024": ["tokenizer.vocab_size=1024"],
    "bpe 2048": ["tokenizer.vocab_size=2048"],
}


def train(folder: Path, steps: int, overrides: list[str]) -> list[dict[str, str]]:
    command = [
        sys.executable,
        "-m",
        "firstlight",
        "train",
        f"output_dir={folder}",
        f"trainer.max_steps={steps}",
        "scheduler.warmup_steps=20",
    ]
    evaluations = f"trainer.eval_every_n_steps={max(1, steps // 4)}"
    subprocess.run([*command, evaluations, *overrides], check=True, stdout=subprocess.DEVNULL)
    with (folder / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def main() -> None:
    parser = described(__doc__)
    parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as name:
        for case, overrides in CASES.items():
            folder = Path(name) / case.replace(" ", "")
            trial = train(folder.with_suffix(".trial"), 40, overrides)
            speed = statistics.median(
                float(row["tokens_per_second"]) for row in trial if row["tokens_per_second"]
            )
            steps = round(SECONDS * speed / (float(trial[-1]["tokens"]) / 40))
            run = train(folder, steps, overrides)
            best = min(float(row["val/bits_per_byte"]) for row in run if row["val/bits_per_byte"])
            sample = (
                (folder / "samples.txt")
                .read_text(encoding="utf-8")
                .split("--- step ")[-1]
                .partition("\n")[2]
            )
            rows.append((case, steps, speed, best, " ".join(sample.split())))
    print(f"{'tokenizer':<10} {'steps':>6} {'tokens/s':>9} {'best bits/byte':>15}")
    for case, steps, speed, best, _ in rows:
        print(f"{case:<10} {steps:>6} {speed:>9,.0f} {best:>15.3f}")
    for case, *_, sample in rows:
        print(f"\n{case}: {sample}")


if __name__ == "__main__":
    main()
