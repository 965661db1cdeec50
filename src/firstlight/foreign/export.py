"""Models for others to use: GPT-2, Qwen3 or Llama in Hugging Face's format, and our own weights as safetensors."""

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from firstlight.checkpoints.model_file import save_model_file
from firstlight.data.tokenizers.base import Tokenizer
from firstlight.data.tokenizers.huggingface import write_tokenizer
from firstlight.errors import ConfigError, one_line, shorten
from firstlight.files import replace_text
from firstlight.foreign.gpt2 import to_gpt2
from firstlight.foreign.huggingface import SINGLE
from firstlight.foreign.huggingface_gpt2 import gpt2_config
from firstlight.foreign.huggingface_llama import llama_config
from firstlight.foreign.llama import to_llama
from firstlight.model.base import LanguageModel
from firstlight.model.gpt import GPT
from firstlight.model.modern import ModernGPT


def export_huggingface(model: LanguageModel, tokenizer: Tokenizer, folder: Path) -> None:
    """Write `folder`, from which `transformers.AutoModelForCausalLM` and `AutoTokenizer` load the same model.

    Raises:
        ConfigError: transformers has no such model, its tokenizer is not of GPT-2's kind, or the folder is there or
            not writable.
    """
    config, state = _in_their_words(model)
    ends = dict.fromkeys(("bos_token_id", "eos_token_id"), tokenizer.end_of_text)
    config |= {
        "vocab_size": model.vocab_size,
        "initializer_range": 0.02,
        "tie_word_embeddings": "lm_head.weight" not in state,
        "dtype": str(model.output_weight.dtype).removeprefix("torch."),
        **ends,
    }
    with _appearing(folder) as temporary:
        temporary.mkdir()
        try:
            write_tokenizer(tokenizer.state_dict(), temporary, context_length=model.context_length)
        except ValueError as error:
            raise ConfigError(f"format=hf: {error}") from error
        for name, content in {"config.json": config, "generation_config.json": ends}.items():
            replace_text(temporary / name, json.dumps(content, indent=2) + "\n")
        safetensors.torch.save_file(state, temporary / SINGLE, metadata={"format": "pt"})
        shutil.copymode(temporary / "config.json", temporary / SINGLE)  # safetensors lets nobody else read it


def export_safetensors(model: LanguageModel, tokenizer: Tokenizer, file: Path, *, config: dict[str, Any]) -> None:
    """Write the weights with our names, and the config and the tokenizer as metadata, to a file that is not there yet.

    Raises:
        ConfigError: the file is there, or not writable.
    """
    with _appearing(file) as temporary:
        save_model_file(model.state_dict(), temporary, config=config, tokenizer=tokenizer.state_dict())


def check_free(out: Path) -> None:
    """Refuse to write to `out` what would replace something.

    Raises:
        ConfigError: it is a file, or a folder that is not empty.
    """
    try:
        is_full, is_file = out.is_dir() and any(out.iterdir()), out.is_symlink() or (out.exists() and not out.is_dir())
    except OSError as error:
        raise ConfigError(f"out ({shorten(str(out))}): cannot be written ({error.strerror})") from None
    if is_full:
        raise ConfigError(f"out ({out}): the folder is not empty; nothing is overwritten, choose another")
    if is_file:
        raise ConfigError(f"out ({out}): the file is there already; nothing is overwritten, choose another")


@contextmanager
def _appearing(out: Path) -> Iterator[Path]:
    """A path to write to, of the same name, which becomes `out` if the block succeeds; if not, nothing is left.

    Raises:
        ConfigError: `out` is there already, or cannot be written.
    """
    out = out.absolute()
    check_free(out)
    made = [folder for folder in (out.parent, *out.parent.parents) if not folder.exists()]
    workshop = None
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        workshop = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
        yield workshop / out.name
        check_free(out)
        (workshop / out.name).replace(out)
    except (OSError, SafetensorError) as error:
        raise ConfigError(f"out ({out}): cannot be written ({one_line(error)}); nothing is left of it") from error
    finally:
        if workshop is not None:
            shutil.rmtree(workshop)
        for folder in made if not out.exists() else []:
            with suppress(OSError):  # never made, or in use by now
                folder.rmdir()


def _in_their_words(model: LanguageModel) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The part of `config.json` that is an architecture's own, and the state dict.

    Raises:
        ConfigError: transformers has no such architecture.
    """
    if isinstance(model, GPT):
        return gpt2_config(model), to_gpt2(model.state_dict(), n_layers=len(model.trf_blocks))
    if isinstance(model, ModernGPT):
        config = llama_config(model)
        is_qwen3 = config["model_type"] == "qwen3"
        return config, to_llama(model.state_dict(), n_layers=len(model.trf_blocks), qk_norm=is_qwen3)
    raise ConfigError(
        f"{type(model).__name__} is no architecture that format=hf is for (GPT and ModernGPT are); "
        f"format=safetensors takes any"
    )
