"""Compare the memory that `firstlight plan` expects with the peak of the run, on a CPU.

Eight small configs differ in what decides the memory of a step: architecture, precision, dropout,
grouped-query attention, optimizer, micro-batches, vocabulary. Each is planned and trained in a
process of its own; what Python and the libraries take when they have been imported is not counted.
Linux only.

    .venv/bin/python benchmarks/memory.py
    .venv/bin/python benchmarks/memory.py "GPT, float32" --steps 10
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from options import described, positive

PROGRAM = str(Path(sys.executable).with_name("firstlight"))
COMMON = (
    "data=pydoc", "tokenizer=bytes", "model.vocab_size=1024", "model.emb_dim=128",
    "model.n_heads=8", "model.n_layers=6", "model.context_length=256", "data.batch_size=16",
    "data.stride=null", "data.eval_batches=1", "trainer.accelerator=cpu", "trainer.precision=32-true",
    "callbacks.sample_generation.max_new_tokens=4", "~callbacks.plots",
)  # fmt: skip
GPT, MODERN, BFLOAT16 = "model=nano", "model=modern_nano", "trainer.precision=bf16-mixed"
CONFIGS = {
    "GPT, float32": [GPT, "model.drop_rate=0.1"],
    "GPT, bfloat16": [GPT, BFLOAT16, "model.drop_rate=0.1"],
    "GPT, no dropout": [GPT, "model.drop_rate=0", "data.batch_size=32"],
    "modern, 2 of 8 heads": [MODERN, "model.drop_rate=0", "data.batch_size=32"],
    "modern, bfloat16": [MODERN, BFLOAT16, "model.n_kv_heads=8", "model.drop_rate=0"],
    "modern, Muon, dropout": [MODERN, "optimizer=muon", "model.drop_rate=0.1"],
    "GPT, micro-batches": [GPT, "data.batch_size=32", "trainer.micro_batch_size=8"],
    "GPT, 50,257 ids": [
        GPT, "model.vocab_size=50257", "model.tie_weights=false", "model.emb_dim=256",
        "data.batch_size=2", "model.n_layers=3",
    ],
}  # fmt: skip
IMPORTS = "from firstlight.commands import train; import matplotlib.pyplot, tensorboard.summary"


def peak_of(words: list[str]) -> int:
    """The most memory, in bytes, that a process with these words has held."""
    with subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        told = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise SystemExit(told)
    return 1024 * usage.ru_maxrss  # Linux counts in KiB


def expected(words: list[str]) -> dict[str, Any]:
    """What the plan says of the memory, by part."""
    command = [PROGRAM, "plan", *words, "plan.steps=0", "plan.format=json"]
    told = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(told.stdout)["memory"]


def measured(words: list[str], steps: int) -> int:
    """The peak of a run of so many steps."""
    length = [f"trainer.max_steps={steps}", f"trainer.eval_every_n_steps={steps}"]
    with tempfile.TemporaryDirectory() as folder:
        return peak_of([PROGRAM, "train", *words, *length, f"output_dir={folder}/run"])


def main() -> None:
    parser = described(__doc__)
    parser.add_argument("configs", nargs="*", help=f"of: {', '.join(CONFIGS)}")
    parser.add_argument("--steps", type=positive, default=4)
    args = parser.parse_args()
    imports = peak_of([sys.executable, "-c", IMPORTS])
    print(f"imports: {imports / 1e6:.0f} MB")
    print(f"{'config':<30} {'expected':>9} {'peak':>7}  ratio   MB beyond the imports")
    for name in args.configs or CONFIGS:
        words = [*COMMON, *CONFIGS[name], "scheduler.warmup_steps=1"]
        peak = measured(words, args.steps) - imports
        memory = expected(words)
        total = memory["total"] - imports
        parts = " ".join(f"{part} {size / 1e6:.0f}" for part, size in memory["parts"].items())
        print(
            f"{name:<30} {total / 1e6:>9.0f} {peak / 1e6:>7.0f} {total / peak:>6.2f}   {parts}",
            flush=True,
        )


if __name__ == "__main__":
    main()
