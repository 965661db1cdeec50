"""`precision: auto`: the fastest that is sound on the device at hand."""

from typing import Literal

import torch

Precision = Literal["auto", "32-true", "64-true", "16-true", "16-mixed", "bf16-true", "bf16-mixed"]

BF16_PRODUCTS_OF_X86 = ("amx_bf16", "avx512_bf16")
BF16_PRODUCTS_OF_ARM = "bf16"
"""What a CPU that multiplies in bfloat16 says of itself."""


def resolve_precision(precision: str, accelerator: str) -> str:
    """`precision`; for "auto" bf16-mixed where the device multiplies in bfloat16, else 32-true.

    bf16-mixed takes products in bfloat16 and keeps weights, gradients and moments in float32. The
    device is what `trainer.accelerator` stands for. MPS stays in float32, as nobody has measured
    it, and so does what only emulates bfloat16 (GPUs before Ampere, older CPUs).
    """
    if precision != "auto":
        return precision
    if accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    elif accelerator in ("auto", "gpu", "mps") and torch.backends.mps.is_available():
        fast = False
    else:
        capabilities = torch.cpu.get_capabilities()
        fast = capabilities.get(BF16_PRODUCTS_OF_ARM, False)
        # torch may be told to use less than the CPU has (ATEN_CPU_CAPABILITY); then some operations
        # fail.
        if torch.backends.cpu.get_cpu_capability().startswith("AVX512"):
            fast = fast or any(capabilities.get(name, False) for name in BF16_PRODUCTS_OF_X86)
    return "bf16-mixed" if fast else "32-true"


def precision_notes(precision: str | None) -> list[str]:
    """What whoever chose `precision` may not have meant."""
    if precision != "16-true":
        return []
    return [
        "trainer.precision=16-true holds weights, gradients and moments in float16, which loses"
        " numbers below 6e-8: it may diverge, or end worse; bf16-true takes as much memory"
    ]
