"""Compare the time that `firstlight plan` expects after three steps with that of the run.

Each config is planned and trained in turn, on whatever machine this is; the time of a run is that
between its config.yaml, which is written right before training, and its model.safetensors, which is
written at the end.

    .venv/bin/python benchmarks/plan_time.py
    .venv/bin/python benchmarks/plan_time.py "default, 200 steps" --rounds 3
"""

import tempfile
from pathlib import Path

from options import described, positive

import firstlight

CONFIGS = {
    "default, 200 steps": ["trainer.max_steps=200"],
    "modern and Muon": [
        "model=modern_nano", "optimizer=muon", "trainer.max_steps=100", "trainer.eval_every_n_steps=25",
    ],
    "many evaluations": [
        "data=pydoc", "tokenizer=bytes", "trainer.max_steps=40", "trainer.eval_every_n_steps=10",
    ],
}  # fmt: skip
COMMON = ("trainer.accelerator=cpu", "scheduler.warmup_steps=5")


def seconds_of(words: list[str]) -> float:
    """Seconds from the first evaluation of a run to its end."""
    with tempfile.TemporaryDirectory() as folder:
        run = firstlight.train(*words, output_dir=f"{folder}/run")
        began = Path(run.folder, "config.yaml").stat().st_mtime
        return Path(run.folder, "model.safetensors").stat().st_mtime - began


def main() -> None:
    parser = described(__doc__)
    parser.add_argument("configs", nargs="*", help=f"of: {', '.join(CONFIGS)}")
    parser.add_argument("--rounds", type=positive, default=1)
    args = parser.parse_args()
    lines: list[str] = []
    for name in args.configs or CONFIGS:
        words = [*COMMON, *CONFIGS[name]]
        for _ in range(args.rounds):
            expected = firstlight.plan(*words)["time"]["total"]
            taken = seconds_of(words)
            lines.append(
                f"{name:<22} expected {expected:6.1f} s, took {taken:6.1f} s: {expected / taken:.2f}"
            )
    print("\n".join(lines))


if __name__ == "__main__":
    main()
