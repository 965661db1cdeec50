"""Makes `tensorflow_fixture/` with TensorFlow itself, to test our reader against it.

Not run by the tests: what it made is committed. It needs a throw-away environment of its own:

    python3 -m venv /tmp/tf && /tmp/tf/bin/pip install tensorflow-cpu==2.21.0
    /tmp/tf/bin/python tests/foreign/make_tensorflow_fixture.py

The folder is a GPT-2 as OpenAI published it, of 2 layers and 70,000 weights: saved by
`tf.compat.v1.train.Saver`, with `hparams.json`, `encoder.json` and `vocab.bpe`. `expected.json` has
the shape and the sha256 of every tensor as `tf.train.load_checkpoint` reads it back.
"""

import contextlib
import hashlib
import json
from pathlib import Path

import numpy as np
import tensorflow as tf

FOLDER = Path(__file__).parent / "tensorflow_fixture"
MERGES = [
    "Ġ t",
    "h e",
    "Ġt he",
    "a m",
    "l am",
    "lam p",
    "Ġ lamp",
    "o g",
    "f og",
    "Ġ fog",
    "i n",
    "e r",
]
HPARAMS = {"n_vocab": 256 + len(MERGES) + 1, "n_ctx": 16, "n_embd": 48, "n_head": 4, "n_layer": 2}


def stand_ins() -> list[str]:
    """GPT-2's printable characters for the 256 bytes, in OpenAI's order (bytes_to_unicode)."""
    printable = [
        *range(ord("!"), ord("~") + 1),
        *range(ord("¡"), ord("¬") + 1),
        *range(ord("®"), ord("ÿ") + 1),
    ]
    return [chr(b) for b in printable] + [chr(256 + n) for n in range(256 - len(printable))]


def weights() -> dict[str, np.ndarray]:
    """Random weights with the names and shapes of OpenAI's src/model.py."""
    vocab, context, c = HPARAMS["n_vocab"], HPARAMS["n_ctx"], HPARAMS["n_embd"]
    shapes: dict[str, tuple[int, ...]] = {
        "wte": (vocab, c),
        "wpe": (context, c),
        "ln_f/g": (c,),
        "ln_f/b": (c,),
    }
    for layer in range(HPARAMS["n_layer"]):
        for norm in ("ln_1", "ln_2"):
            shapes |= {f"h{layer}/{norm}/g": (c,), f"h{layer}/{norm}/b": (c,)}
        for name, n_in, n_out in (
            ("attn/c_attn", c, 3 * c), ("attn/c_proj", c, c), ("mlp/c_fc", c, 4 * c), ("mlp/c_proj", 4 * c, c),
        ):  # fmt: skip
            shapes |= {f"h{layer}/{name}/w": (1, n_in, n_out), f"h{layer}/{name}/b": (n_out,)}
    random = np.random.default_rng(123)
    return {
        f"model/{name}": random.normal(0, 0.3, shape).astype(np.float32)
        for name, shape in shapes.items()
    }


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    with contextlib.chdir(FOLDER), tf.Graph().as_default(), tf.compat.v1.Session() as session:
        for name, value in weights().items():
            tf.compat.v1.get_variable(name, initializer=value)
        session.run(tf.compat.v1.global_variables_initializer())
        tf.compat.v1.train.Saver().save(session, "model.ckpt", write_meta_graph=False)
    reader = tf.train.load_checkpoint(str(FOLDER / "model.ckpt"))
    expected = {}
    for name in sorted(reader.get_variable_to_shape_map()):
        tensor = reader.get_tensor(name)
        expected[name] = {
            "shape": tensor.shape,
            "sha256": hashlib.sha256(tensor.tobytes()).hexdigest(),
        }
    vocabulary = [*stand_ins(), *(merge.replace(" ", "") for merge in MERGES), "<|endoftext|>"]
    for file, content in (
        ("expected.json", expected),
        ("hparams.json", HPARAMS),
        ("encoder.json", {token: number for number, token in enumerate(vocabulary)}),
    ):
        (FOLDER / file).write_text(json.dumps(content), encoding="utf-8")
    (FOLDER / "vocab.bpe").write_text("\n".join(["#version: 0.2", *MERGES, ""]), encoding="utf-8")


if __name__ == "__main__":
    main()
