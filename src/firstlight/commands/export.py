"""`firstlight export`: write a checkpoint in a format that other programs read."""

from pathlib import Path
from typing import Any, Literal

from omegaconf import DictConfig

from firstlight.config import NonEmpty, build, check_config
from firstlight.data.files import user_path
from firstlight.errors import ConfigError
from firstlight.foreign.export import check_free, export_huggingface, export_safetensors
from firstlight.output import say
from firstlight.overrides import setting, words_to_paste
from firstlight.sources import check_named, find_checkpoint, load_checkpoint


def export(
    *, checkpoint: NonEmpty, out: NonEmpty, format: Literal["hf", "safetensors"] = "hf"
) -> Path:
    """Write the model of `checkpoint` to `out`, which appears whole or not at all; return its path.

    Raises:
        ConfigError: no such checkpoint, a model that `format` cannot hold, or `out` exists or is
            not writable.
    """
    check_named(checkpoint)
    path = user_path(out)
    if format == "safetensors" and path.suffix != ".safetensors":
        raise ConfigError(
            f"out ({out}): format=safetensors writes one file; give out=FILE.safetensors"
        )
    check_free(path)  # before the checkpoint is loaded, which may take a while
    loaded = load_checkpoint(find_checkpoint(checkpoint))
    model, tokenizer = loaded.build_model(), loaded.build_tokenizer()
    if format == "hf":
        export_huggingface(model, tokenizer, path)
    else:
        export_safetensors(model, tokenizer, path, config=loaded.config)
    return path


def arguments(config: DictConfig) -> dict[str, Any]:
    """Check the composed config as arguments of `export`.

    Raises:
        ConfigError: it is not valid.
    """
    return check_config(config, export)


def main(config: DictConfig) -> None:
    """Print what was written, where, its size, and how to load it."""
    plain = arguments(config)
    path = export(**build(plain))
    if plain["format"] == "hf":
        megabytes = sum(file.stat().st_size for file in path.iterdir()) / 1e6
        load = f"transformers.AutoModelForCausalLM.from_pretrained({str(path)!r})"
        say(
            f"wrote the model in Hugging Face's format to {path} ({megabytes:,.1f} MB); load it"
            f" with {load}"
        )
    else:
        megabytes = path.stat().st_size / 1e6
        load = words_to_paste(setting("checkpoint", str(path)))
        say(f"wrote the weights to {path} ({megabytes:,.1f} MB); load them with {load}")
