"""Prompts that a model continues: what `firstlight generate` and the Python API both do."""

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from firstlight.config import blame
from firstlight.data.tokenizers.base import END_OF_TEXT, Tokenizer
from firstlight.decoding.base import Continuation, Decoding, derived_seed
from firstlight.decoding.prompt_lookup import NGrams, PromptLookup
from firstlight.decoding.stepwise import Stepwise, Token, gather
from firstlight.decoding.stop import StopStrings
from firstlight.errors import ConfigError, shorten
from firstlight.model.base import LanguageModel
from firstlight.model.int8 import quantize_int8


@dataclass(frozen=True)
class Prompt:
    """A text to continue, and the seed that alone decides what is drawn for it."""

    text: str
    ids: list[int]
    seed: int


@dataclass(frozen=True, kw_only=True)
class Request:
    """How prompts are continued; `conf/generate.yaml` explains each."""

    decoding: Decoding
    special_tokens: bool | None = None
    max_new_tokens: int = 200
    num_samples: int = 1
    stop: Sequence[str] = ()
    seed: int = 123
    batch_size: int = 8
    prompt_lookup: int | None = None
    lookup_text: str = ""


def prompts_for(
    model: LanguageModel, tokenizer: Tokenizer, texts: Sequence[str], request: Request
) -> list[Prompt]:
    """The prompts of `texts`.

    Raises:
        ConfigError: one cannot be continued as it is, or not by this decoding.
    """
    prompts = []
    for number, text in enumerate(texts):
        ids = _encode(text, tokenizer, request.special_tokens, model.context_length)
        # By the number of the prompt, not its text: two equal prompts get different samples.
        prompts.append(Prompt(text, ids, derived_seed(request.seed, prompt=number)))
    _check_decoding(request.decoding, model, request.num_samples)
    return prompts


def encoded(
    key: str, text: str, tokenizer: Tokenizer, special_tokens: bool | None = None
) -> list[int]:
    """The ids of `text`, the value of `key`.

    Raises:
        ConfigError: it has a special token in it, and it is not said what that means.
    """
    if special_tokens is None and END_OF_TEXT in text:
        raise ConfigError(
            f"{key} ({shorten(repr(text))}) contains {END_OF_TEXT}: give special_tokens=true for"
            " the token that ends a document, special_tokens=false for these characters"
        )
    return tokenizer.encode(text, special_tokens=bool(special_tokens))


def stops_of(request: Request, tokenizer: Tokenizer) -> StopStrings:
    """What ends a continuation."""
    return StopStrings(request.stop, tokenizer.text_bytes)


def continuations(
    model: LanguageModel, tokenizer: Tokenizer, prompts: list[Prompt], request: Request
) -> Iterator[tuple[Prompt, Continuation]]:
    """Each prompt with each of its continuations, in order."""
    if isinstance(request.decoding, Stepwise) and request.prompt_lookup:
        # One continuation after another: what is guessed belongs to one text.
        return _gathered(token_streams(model, tokenizer, prompts, request))
    decode = functools.partial(
        request.decoding.generate,
        model,
        num_samples=request.num_samples,
        **_settings(model, tokenizer, request),
    )
    # batch_size counts rows, and every sample of a prompt is one.
    size = max(1, request.batch_size // request.num_samples)
    return _in_batches(prompts, size, model.context_length - request.max_new_tokens, decode)


def token_streams(
    model: LanguageModel, tokenizer: Tokenizer, prompts: list[Prompt], request: Request
) -> Iterator[tuple[Prompt, Iterator[Token]]]:
    """Each prompt with each of its continuations as a stream of tokens.

    They are the same as those of `continuations`. The decoding is a `Stepwise`.
    """
    assert isinstance(request.decoding, Stepwise)
    settings = _settings(model, tokenizer, request)
    if request.prompt_lookup:
        n_grams = NGrams(tokenizer.encode(request.lookup_text))
        settings["make_context"] = functools.partial(
            PromptLookup, max_guesses=request.prompt_lookup, text=n_grams
        )
    decode = functools.partial(request.decoding.stream, model, **settings)
    return _one_by_one(prompts, request.num_samples, decode)


def _settings(model: LanguageModel, tokenizer: Tokenizer, request: Request) -> dict[str, Any]:
    return {
        "max_new_tokens": request.max_new_tokens,
        "eos_id": tokenizer.end_of_text,
        "stop": stops_of(request, tokenizer) if request.stop else None,
        "unused": tokenizer.without_token(model.vocab_size),
    }


def _in_batches(
    prompts: list[Prompt], size: int, room: int, decode: Callable[..., list[list[Continuation]]]
) -> Iterator[tuple[Prompt, Continuation]]:
    """Continue the prompts, `size` of them at a time, each with all of its samples."""
    for first in range(0, len(prompts), size):
        batch = prompts[first : first + size]
        found: dict[int, list[Continuation]] = {}
        # Prompts of more than `room` tokens run past the model's context, where every key and value
        # is computed again for each token. They are decoded apart: the others need not wait.
        for is_long in (False, True):
            numbers = [n for n, prompt in enumerate(batch) if (len(prompt.ids) > room) is is_long]
            if numbers:
                rows = decode(
                    [batch[n].ids for n in numbers], seeds=[batch[n].seed for n in numbers]
                )
                found.update(zip(numbers, rows, strict=True))
        # In the order of the prompts.
        for number, prompt in enumerate(batch):
            for continuation in found[number]:
                yield prompt, continuation


def _one_by_one(
    prompts: list[Prompt], num_samples: int, decode: Callable[..., Iterator[Token]]
) -> Iterator[tuple[Prompt, Iterator[Token]]]:
    """Yield each continuation of each prompt as a stream of tokens, the same as in a batch."""
    for prompt in prompts:
        for sample in range(num_samples):
            yield prompt, decode([prompt.ids], seeds=[derived_seed(prompt.seed, sample=sample)])


def _gathered(
    streams: Iterator[tuple[Prompt, Iterator[Token]]],
) -> Iterator[tuple[Prompt, Continuation]]:
    """Collect the tokens of each stream into a continuation."""
    for prompt, tokens in streams:
        [[continuation]] = gather(tokens, 1, 1)
        yield prompt, continuation


def _encode(
    text: str, tokenizer: Tokenizer, special_tokens: bool | None, context_length: int
) -> list[int]:
    """Encode a prompt.

    Raises:
        ConfigError: it is empty, too long, or has a special token that may be meant as characters.
    """
    ids = encoded("prompt", text, tokenizer, special_tokens)
    if not ids:
        raise ConfigError('prompt is empty; give prompt="some words to continue"')
    if len(ids) > context_length:
        raise ConfigError(
            f"prompt ({shorten(repr(text))}) has {len(ids)} tokens, more than the model's context"
            f" of {context_length}; shorten it"
        )
    return ids


def _check_decoding(decoding: Decoding, model: LanguageModel, num_samples: int) -> None:
    """Check that `decoding` suits the model and the number of samples.

    Raises:
        ConfigError: it does not.
    """
    # A strategy's own ValueError names its setting; here the section is put before it.
    try:
        decoding.check(model, num_samples)
    except ValueError as error:
        raise blame("decoding", error) from error


def placed(model: LanguageModel, device: torch.device, precision: str) -> LanguageModel:
    """Move the model to `device` in `precision`, in place; with int8 it is changed for decoding."""
    if precision == "int8":  # the CPU only, see `device_for`
        return quantize_int8(model.fused())
    return model.to(device, torch.bfloat16 if precision == "bf16-true" else torch.float32)


def device_for(accelerator: str, precision: str) -> torch.device:
    """Find the device to generate on; "auto" takes CUDA, then MPS, then the CPU.

    Raises:
        ConfigError: it is not available, or not suited to the precision.
    """
    best = "cpu"
    if torch.cuda.is_available():
        best = "cuda"
    elif torch.backends.mps.is_available():
        best = "mps"
    # Lightning's names ("gpu", "auto") and torch's ("cuda:1", "mps") are both taken.
    name = accelerator
    if accelerator == "auto":
        name = best
    elif accelerator == "gpu":
        name = "mps" if best == "mps" else "cuda"
    # A name that torch knows may still not work here: try a tensor, and a generator of draws.
    try:
        device = torch.device(name)
        float(torch.zeros(1, device=device))
        torch.Generator(device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = shorten(str(error).partition("\n")[0])
        raise ConfigError(
            f"accelerator ({accelerator}) is not available on this machine: {reason}"
            " (accelerator=cpu always works)"
        ) from None
    if precision == "int8" and device.type != "cpu":
        raise ConfigError(
            f"precision=int8 is for the CPU, not {device}: give accelerator=cpu, or"
            " precision=bf16-true"
        )
    return device
