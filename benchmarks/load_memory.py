"""Measure the memory that loading a GPT-2 takes, as a multiple of its float32 size.

Writes a GPT-2 with random weights as a Hugging Face folder, reads it in a process of its own, and
compares the peak of that process's resident memory with what it was before. Linux only (VmHWM).

    .venv/bin/python benchmarks/load_memory.py gpt2 gpt2-xl
    .venv/bin/python benchmarks/load_memory.py 12x768 --dtype float16 --folder /big/disk
"""

import argparse
import json
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from firstlight.foreign.gpt2 import GPT2Config
from firstlight.foreign.huggingface import SINGLE

SIZES = {
    "gpt2": (12, 768),
    "gpt2-medium": (24, 1024),
    "gpt2-large": (36, 1280),
    "gpt2-xl": (48, 1600),
}
DTYPES = {"float32": "F32", "float16": "F16"}

READ = """
import json, sys, time
from pathlib import Path
from firstlight.foreign.huggingface import read_huggingface

def memory(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))

before, began = memory("VmRSS"), time.perf_counter()
weights, *_ = read_huggingface(Path(sys.argv[1]))
seconds = time.perf_counter() - began
size = sum(tensor.numel() * 4 for tensor in weights.values())
print(json.dumps({"size": size, "peak": memory("VmHWM") - before, "seconds": seconds}))
"""


def write_gpt2(folder: Path, n_layers: int, width: int, dtype: str) -> None:
    """Write a GPT-2 in Hugging Face's layout, by tensor: it may be larger than memory."""
    config = {
        "vocab_size": 50257,
        "n_positions": 1024,
        "n_embd": width,
        "n_layer": n_layers,
        "n_head": width // 64,
    }
    (folder / "config.json").write_text(json.dumps({"model_type": "gpt2", **config}))
    shapes = dict(GPT2Config(**config).shapes())
    header, end = {}, 0
    for name, shape in shapes.items():
        begin, end = end, end + int(np.prod(shape)) * np.dtype(dtype).itemsize
        header[name] = {"dtype": DTYPES[dtype], "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    draw = np.random.default_rng(1)
    with (folder / SINGLE).open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for shape in shapes.values():
            file.write(draw.standard_normal(shape, dtype=np.float32).astype(dtype).tobytes())


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument(
        "sizes", nargs="*", default=["gpt2"], help="a published GPT-2, or LAYERSxWIDTH"
    )
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="of the file")
    parser.add_argument("--folder", help="where to write the model (as large as it is)")
    arguments = parser.parse_args()
    print(f"{'model':<12} {'float32 size':>12} {'peak':>10} {'peak / size':>12} {'seconds':>8}")
    for size in arguments.sizes:
        n_layers, width = SIZES[size] if size in SIZES else map(int, size.split("x"))
        with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
            write_gpt2(Path(name), n_layers, width, arguments.dtype)
            out = subprocess.run(
                [sys.executable, "-c", READ, name], check=True, capture_output=True, text=True
            ).stdout
        read = json.loads(out)
        ratio = read["peak"] / read["size"]
        sizes = f"{read['size'] / 1e6:>9,.0f} MB {read['peak'] / 1e6:>7,.0f} MB"
        print(f"{size:<12} {sizes} {ratio:>12.3f} {read['seconds']:>8.1f}", flush=True)


if __name__ == "__main__":
    main()
