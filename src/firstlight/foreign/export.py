"""Export to Hugging Face's format (GPT-2, Qwen3, Llama), or to safetensors (any model)."""

import json
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
from firstlight.files import give_usual_mode, replace_text
from firstlight.foreign.gpt2 import gpt2_config, to_gpt2
from firstlight.foreign.huggingface import SINGLE
from firstlight.foreign.llama import llama_config, to_llama
from firstlight.model.base import LanguageModel
from firstlight.model.dialed import DialedGPT
from firstlight.model.gpt import GPT
from firstlight.model.modern import ModernGPT


def export_huggingface(model: LanguageModel, tokenizer: Tokenizer, folder: Path) -> None:
    """Write the new folder `folder` so that transformers loads the same model from it.

    `AutoModelForCausalLM` and `AutoTokenizer` read it.

    Raises:
        ConfigError: transformers has no such model, the tokenizer cuts text in another way than
            GPT-2's, or the folder exists or cannot be written.
    """
    config, state = _in_their_words(model)
    # The same token begins and ends a text, as in GPT-2.
    ends = {"bos_token_id": tokenizer.end_of_text, "eos_token_id": tokenizer.end_of_text}
    config |= {
        "vocab_size": model.vocab_size,
        "initializer_range": 0.02,
        "tie_word_embeddings": "lm_head.weight" not in state,
        "dtype": str(model.output_weight.dtype).removeprefix("torch."),
        **ends,
    }
    # The folder appears whole, with the config, the tokenizer and the weights, or not at all.
    with _appearing(folder) as temporary:
        temporary.mkdir()
        try:
            write_tokenizer(tokenizer.state_dict(), temporary, context_length=model.context_length)
        except ValueError as error:
            raise ConfigError(f"format=hf: {error}") from error
        for name, content in {"config.json": config, "generation_config.json": ends}.items():
            replace_text(temporary / name, json.dumps(content, indent=2) + "\n")
        # The weights last: whoever loads the folder finds the config and the tokenizer beside them.
        safetensors.torch.save_file(state, temporary / SINGLE, metadata={"format": "pt"})
        give_usual_mode(temporary / SINGLE)


def export_safetensors(
    model: LanguageModel, tokenizer: Tokenizer, file: Path, *, config: dict[str, Any]
) -> None:
    """Write the new file `file`: our weights, with the config and the tokenizer as metadata.

    Raises:
        ConfigError: the file exists, or cannot be written.
    """
    with _appearing(file) as temporary:
        save_model_file(
            model.state_dict(), temporary, config=config, tokenizer=tokenizer.state_dict()
        )


def check_free(out: Path) -> None:
    """Refuse to write to `out` if that would replace something. An empty folder may be filled.

    Raises:
        ConfigError: it is a file, a link to nothing, or a folder that is not empty.
    """
    found = ""
    try:
        if out.is_dir():
            if any(out.iterdir()):
                found = "the folder is not empty"
        elif out.is_symlink() or out.exists():
            found = "the file exists"
    except OSError as error:
        raise ConfigError(
            f"out ({shorten(str(out))}): cannot be written ({error.strerror})"
        ) from None
    if found:
        raise ConfigError(f"out ({out}): {found}; nothing is overwritten, choose another")


@contextmanager
def _appearing(out: Path) -> Iterator[Path]:
    """A temporary path that is renamed to `out` if the block succeeds, else removed.

    Raises:
        ConfigError: `out` exists, or cannot be written.
    """
    out = out.absolute()
    check_free(out)
    new_parents = [folder for folder in out.parents if not folder.exists()]
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as workshop:
            yield Path(workshop, out.name)
            check_free(out)  # again: another program may have written there meanwhile
            Path(workshop, out.name).replace(out)
    except (OSError, SafetensorError) as error:
        raise ConfigError(
            f"out ({out}): cannot be written ({one_line(error)}); nothing is left behind"
        ) from error
    finally:
        # After a failure the parent folders that were made for it are removed as well.
        if not out.exists():
            for folder in new_parents:
                with suppress(OSError):  # it was never made, or is in use by now
                    folder.rmdir()


def _in_their_words(model: LanguageModel) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The keys of `config.json` that belong to the architecture, and the state dict.

    Raises:
        ConfigError: transformers has no such architecture.
    """
    # Not of a subclass: it may compute something else with the same weights.
    if type(model) is GPT:
        return gpt2_config(model), to_gpt2(model.state_dict(), n_layers=len(model.trf_blocks))
    if type(model) is ModernGPT or type(model) is DialedGPT:
        config = llama_config(model)
        is_qwen3 = config["model_type"] == "qwen3"
        return config, to_llama(
            model.state_dict(), n_layers=len(model.trf_blocks), qk_norm=is_qwen3
        )
    raise ConfigError(
        f"{type(model).__name__} cannot be exported with format=hf (GPT and ModernGPT can); "
        "format=safetensors exports any model"
    )
