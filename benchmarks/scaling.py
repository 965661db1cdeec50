"""Print what `firstlight plan` expects of four models on 1 to 1,024 GPUs, as a table for the docs.

Nothing is measured: it is the model of src/firstlight/plan/cluster.py with the values of
conf/cluster/. `--published` compares it with figures that others have measured.

    .venv/bin/python benchmarks/scaling.py
    .venv/bin/python benchmarks/scaling.py --cluster a100 --models 124M 7B
    .venv/bin/python benchmarks/scaling.py --published
"""

from typing import Any

from options import described

import firstlight
from firstlight.plan.cluster import Cluster, Work, outlook

MODELS = {
    "124M": ["model=gpt2_small", "model.context_length=1024"],
    "355M": ["model=gpt2_medium", "model.context_length=1024"],
    "1.5B": ["model=gpt2_xl", "model.context_length=1024"],
    "7B": [
        "model=modern_medium", "model.context_length=2048", "model.emb_dim=4096",
        "model.n_heads=32", "model.n_kv_heads=32", "model.n_layers=32", "model.ff_dim=11008",
        "trainer.activation_checkpointing=true",
    ],
}  # fmt: skip
TOKENS = {"124M": 2**20, "355M": 2**20, "1.5B": 2**20, "7B": 2**22}
"""Tokens of a step: about what such models are trained with."""
COMMON = (
    "data=pydoc", "tokenizer=bytes", "model.vocab_size=50257", "data.stride=null",
    "data.drop_last=false", "trainer.max_steps=1000", "model.tie_weights=true",
)  # fmt: skip
DEVICES = [1, 8, 64, 256, 1024]
KEMPNERFORGE = {1: 1.0, 2: 0.517 / 0.578, 4: 0.538 / 0.578, 8: 0.53, 32: 0.269 / 0.578}
"""GPUs, and tokens a second and GPU relative to one: 7B, FSDP, bfloat16, windows of 4,096, full
activation checkpointing, on machines of four H200 (kempnerinstitute.github.io/KempnerForge,
reference/benchmarks, read in November 2026)."""


def planned(model: str, cluster: str) -> dict[str, Any]:
    """The plan of a model on each number of devices."""
    length = int(next(w for w in MODELS[model] if "context_length" in w).partition("=")[2])
    batch = f"data.batch_size={TOKENS[model] // length}"
    words = [*COMMON, *MODELS[model], batch, f"cluster={cluster}"]
    return firstlight.plan(*words, cluster={"devices": DEVICES})


def print_tables(models: list[str], cluster: str) -> None:
    for model in models:
        plan = planned(model, cluster)
        n, tokens = plan["forecast"]["n_parameters"], TOKENS[model]
        print(f"\n**{model}** ({n / 1e6:,.0f}M parameters, {tokens:,} tokens a step)\n")
        print("| GPUs | | windows | memory | sent a step | tokens/s | efficiency |")
        print("|---|---|---|---|---|---|---|")
        for row in plan["outlook"]:
            print(f"| {row['devices']:,} | {row['strategy']} | {_figures(row)} |")


def _figures(row: dict[str, Any]) -> str:
    if row["problem"]:
        return f"{row['problem']} | | | |"
    slow, fast = (f"{speed / 1e6:.3g}M" for speed in row["tokens_per_second"])
    worse, better = (f"{share:.0%}" for share in row["efficiency"])
    few = " *" if row["note"] else ""
    return (
        f"{row['windows_at_once']} x {row['n_parts']}{few} | {row['memory_gb']:.1f} GB |"
        f" {row['traffic_gb']:.3g} GB | {slow} to {fast} | {worse} to {better}"
    )


def print_published() -> None:
    """Published efficiencies beside the range that is expected of their setting."""
    print(f"{'GPUs':>5} {'published':>9}   expected")
    for devices, published in KEMPNERFORGE.items():
        expected = outlook(kempnerforge(devices), H200, devices, "fsdp2").efficiency
        assert expected is not None  # it fits
        worse, better = expected
        print(f"{devices:>5} {published:>9.0%}   {worse:.0%} to {better:.0%}")


H200 = Cluster(
    devices=1,
    per_machine=4,
    tflops=989,
    memory_gb=141,
    mfu=0.578,
    inside_gb_per_s=[150, 350],
    between_gb_per_s=[15, 45],
    overlap=[0, 0.66],
    latency_us=[20, 5],
)
"""Four GPUs a machine; all ranges are those of conf/cluster/h100.yaml."""


def kempnerforge(devices: int) -> Work:
    """Their 7B, which exchanges bfloat16; the windows of a GPU are not published: four here."""
    return Work(
        n_parameters=6_700_000_000,
        n_trained=6_700_000_000,
        n_optimizer=2 * 6_700_000_000,
        n_blocks=32,
        n_in_blocks=6_400_000_000,
        bytes_per_number=2,
        flops_per_token=6 * 6.7e9,
        context_length=4096,
        batch_size=4 * devices,
        n_batches=1,
        max_steps=1,
        micro_batch_size=4,
        bytes_per_window=10**9,
    )


def main() -> None:
    parser = described(__doc__)
    parser.add_argument("--models", nargs="*", choices=MODELS, default=list(MODELS))
    parser.add_argument("--cluster", default="h100")
    parser.add_argument("--published", action="store_true")
    args = parser.parse_args()
    if args.published:
        print_published()
    else:
        print_tables(args.models, args.cluster)


if __name__ == "__main__":
    main()
