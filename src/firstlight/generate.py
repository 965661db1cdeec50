"""`firstlight generate`: continue a prompt with a checkpoint."""

import sys
from typing import Any

import torch
from omegaconf import DictConfig
from pydantic import PositiveInt

from firstlight.config import Seed, blame, build, check_config
from firstlight.decoding.base import Decoding
from firstlight.errors import ConfigError
from firstlight.weights.checkpoint import load_checkpoint
from firstlight.weights.find import find_checkpoint


def generate(
    *,
    checkpoint: str,
    prompt: str,
    decoding: Decoding,
    max_new_tokens: PositiveInt = 200,
    num_samples: PositiveInt = 1,
    seed: Seed = 123,
    accelerator: str = "auto",
) -> list[str]:
    """Continue `prompt` with the model of `checkpoint`; return prompt and continuation, `num_samples` of them.

    Raises:
        ConfigError: no such checkpoint or device, an empty prompt, or one longer than the model's context.
    """
    place = _device(accelerator)
    loaded = load_checkpoint(find_checkpoint(checkpoint))
    model, tokenizer = loaded.build_model().to(place), loaded.build_tokenizer()
    prompt_ids = tokenizer.encode(prompt)
    if not prompt_ids:
        raise ConfigError('prompt is empty; give prompt="some words to continue"')
    if len(prompt_ids) > model.context_length:
        raise ConfigError(
            f"prompt has {len(prompt_ids)} tokens, more than the model's context of {model.context_length}: shorten it"
        )
    try:
        decoding.check(model)
    except ValueError as error:
        raise blame("decoding", error) from error
    ids = torch.tensor([prompt_ids] * num_samples, device=place)  # (B, T)
    new = decoding.generate(
        model,
        ids,
        max_new_tokens=max_new_tokens,
        eos_id=tokenizer.end_of_text,
        generator=torch.Generator(place).manual_seed(seed),
    )
    return [tokenizer.decode_document(row) for row in new.tolist()]


def arguments(config: DictConfig) -> dict[str, Any]:
    """The composed config as plain arguments of `generate`.

    Raises:
        ConfigError: it is not valid.
    """
    return check_config(config, generate)


def main(config: DictConfig) -> None:
    """Print the samples, with a line between them if there are several."""
    texts = generate(**build(arguments(config)))
    sys.stdout.write(("\n" + "-" * 80 + "\n").join(texts) + "\n")


def _device(accelerator: str) -> torch.device:
    """The device to generate on; "auto" takes CUDA, then MPS, then the CPU.

    Raises:
        ConfigError: it is not to be had here.
    """
    best = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    name = {"auto": best, "gpu": best if best != "cpu" else "cuda"}.get(accelerator, accelerator)
    try:
        device = torch.device(name)
        torch.Generator(device)
        float(torch.zeros(1, device=device))
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = (str(error).splitlines() or [""])[0]
        raise ConfigError(
            f"accelerator ({accelerator}) is not to be had here: {reason} (accelerator=cpu always works)"
        ) from None
    return device
