"""`firstlight generate`: continue prompts with a checkpoint."""

import functools
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from omegaconf import DictConfig
from pydantic import Field

from firstlight.config import BatchSize, NewTokens, NonEmpty, Seed, blame, build, check_config
from firstlight.data.files import read_text, user_path
from firstlight.data.tokenizers.base import END_OF_TEXT, Tokenizer
from firstlight.decoding.base import Continuation, Decoding, derived_seed
from firstlight.decoding.prompt_lookup import NGrams, PromptLookup
from firstlight.decoding.stepwise import Stepwise, Token, gather
from firstlight.decoding.stop import StopStrings, TextStream
from firstlight.errors import ConfigError, shorten
from firstlight.model.base import LanguageModel
from firstlight.model.int8 import quantize_int8
from firstlight.output import is_unicode, note, write
from firstlight.sources import find_checkpoint, load_checkpoint

RULE = "-" * 80 + "\n"
"""The line between two texts."""


@dataclass(frozen=True)
class Prompt:
    """A text to continue, and the seed that alone decides what is drawn for it."""

    text: str
    ids: list[int]
    seed: int


def generate(
    *,
    checkpoint: NonEmpty,
    decoding: Decoding,
    prompt: str | None = None,
    prompts: NonEmpty | None = None,
    special_tokens: bool | None = None,
    max_new_tokens: NewTokens = 200,
    num_samples: Annotated[int, Field(gt=0, le=4096)] = 1,
    stop: NonEmpty | list[NonEmpty] | None = None,
    seed: Seed = 123,
    stream: bool = False,
    format: Literal["text", "jsonl"] = "text",
    logprobs: bool = False,
    batch_size: BatchSize = 8,
    prompt_lookup: Annotated[int, Field(ge=2, le=1024)] | None = None,
    lookup_text: NonEmpty | None = None,
    accelerator: str = "auto",
    precision: Literal["32-true", "bf16-true", "int8"] = "32-true",
) -> Iterator[str]:
    """Continue prompts; return the output in pieces. The arguments are the keys of generate.yaml.

    Raises:
        ConfigError: no such checkpoint, file or device; an unusable prompt (see `_encode`);
            settings that contradict each other.
    """
    _check_settings(decoding, stream, format, logprobs, prompt_lookup, lookup_text)
    texts = _texts(prompt, prompts)
    device = _device(accelerator, precision)
    lookup = _read("lookup_text", lookup_text) if lookup_text else ""
    model, tokenizer = _load(checkpoint)  # after all that can be refused without it
    todo = _prompts(texts, seed, tokenizer, special_tokens, model.context_length)
    _check_decoding(decoding, model, num_samples)
    model = _placed(model, device, precision)
    stops = StopStrings(_stop_strings(stop), tokenizer.text_bytes)
    settings: dict[str, Any] = {
        "max_new_tokens": max_new_tokens,
        "eos_id": tokenizer.end_of_text,
        "stop": stops if stop else None,
        "unused": tokenizer.without_token(model.vocab_size),
    }
    if isinstance(decoding, Stepwise) and (stream or prompt_lookup):
        # One continuation after another: what is shown, or guessed, belongs to one text.
        if prompt_lookup:
            n_grams = NGrams(tokenizer.encode(lookup))
            guess = functools.partial(PromptLookup, max_guesses=prompt_lookup, text=n_grams)
            settings["make_context"] = guess
        decode = functools.partial(decoding.stream, model, **settings)
        streams = _one_by_one(todo, num_samples, decode)
        if stream:
            return _streamed(streams, stops)
        found = _gathered(streams)
    else:
        room = model.context_length - max_new_tokens
        decode = functools.partial(decoding.generate, model, num_samples=num_samples, **settings)
        found = _in_batches(todo, max(1, batch_size // num_samples), room, decode)
    if format == "jsonl":
        return _json_lines(found, stops, tokenizer if logprobs else None)
    return _as_text(found, stops)


def _load(checkpoint: str) -> tuple[LanguageModel, Tokenizer]:
    """Load model and tokenizer, in a function of its own so that nothing else keeps the weights."""
    loaded = load_checkpoint(find_checkpoint(checkpoint))
    return loaded.build_model(), loaded.build_tokenizer()


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


def _streamed(
    streams: Iterator[tuple[Prompt, Iterator[Token]]], stops: StopStrings
) -> Iterator[str]:
    """Yield the texts as they are generated."""
    reasons: list[str | None] = []
    for prompt, tokens in streams:
        if reasons:
            yield RULE
        yield prompt.text
        text = TextStream(stops)
        reason = None
        for token in tokens:
            reason = token.finish_reason
            # Holds back what may turn out to be half of a character, or of a stop string.
            yield text.feed([token.id], last=reason is not None)
        reasons.append(reason)
        yield "\n"
    _note_missing_stop(stops, reasons)


def _as_text(found: Iterator[tuple[Prompt, Continuation]], stops: StopStrings) -> Iterator[str]:
    """Yield the prompts with their continuations, with a line between two texts."""
    reasons: list[str | None] = []
    for prompt, row in found:
        if reasons:
            yield RULE
        yield f"{prompt.text}{stops.text(row.ids)}\n"
        reasons.append(row.finish_reason)
    _note_missing_stop(stops, reasons)


def _json_lines(
    found: Iterator[tuple[Prompt, Continuation]], stops: StopStrings, tokenizer: Tokenizer | None
) -> Iterator[str]:
    """Yield a JSON object for each continuation; with a `tokenizer`, also tokens and logprobs."""
    for prompt, row in found:
        record: dict[str, Any] = {
            "prompt": prompt.text,
            "text": stops.text(row.ids),
            "finish_reason": row.finish_reason,
        }
        if row.score is not None:  # of a beam
            record["score"] = row.score
        if tokenizer is not None:
            tokens = [tokenizer.decode([token]) for token in row.ids]
            record |= {"ids": row.ids, "tokens": tokens, "logprobs": row.logprobs}
        # Where standard output lacks characters, JSON's own escapes: those of Python are not JSON.
        yield json.dumps(record, ensure_ascii=not is_unicode()) + "\n"


def _note_missing_stop(stops: StopStrings, reasons: Sequence[str | None]) -> None:
    """Say on standard error how many texts ended without a stop string, if one was given."""
    missing = reasons.count("length")
    if stops.stops and missing:
        note(f"no stop string came within max_new_tokens ({missing} of {len(reasons)} texts)")


def _check_settings(
    decoding: Decoding,
    stream: bool,
    format: str,
    logprobs: bool,
    prompt_lookup: int | None,
    lookup_text: str | None,
) -> None:
    """Refuse settings that contradict each other.

    Raises:
        ConfigError: they do.
    """
    if stream and format == "jsonl":
        raise ConfigError(
            "stream=true shows text as it comes, format=jsonl writes whole lines: choose one of"
            " them"
        )
    if logprobs and format != "jsonl":
        raise ConfigError("logprobs=true needs format=jsonl")
    if not isinstance(decoding, Stepwise):
        needed = "needs a decoding that settles one token after another; beam search does not"
        if stream:
            raise ConfigError(f"stream=true {needed}")
        if prompt_lookup:
            raise ConfigError(f"prompt_lookup {needed}")
    if lookup_text and not prompt_lookup:
        raise ConfigError(
            "lookup_text is a further text for prompt_lookup: give prompt_lookup=7 with it"
        )


def _check_decoding(decoding: Decoding, model: LanguageModel, num_samples: int) -> None:
    """Check that `decoding` suits the model and the number of samples.

    Raises:
        ConfigError: it does not.
    """
    try:
        decoding.check(model, num_samples)
    except ValueError as error:
        raise blame("decoding", error) from error


def _texts(prompt: str | None, file: str | None) -> list[str]:
    """The prompts: the one on the command line, or the lines of a file that are not blank."""
    if (prompt is None) == (file is None):
        raise ConfigError(
            'give either prompt="some words to continue" or prompts=FILE with one prompt per line'
        )
    if prompt is not None:
        return [prompt]
    assert file is not None
    # Not splitlines(): it would also split at \x0b, \x85 and others that may be in a prompt.
    lines = [line for line in _read("prompts", file).split("\n") if line.strip()]
    if not lines:
        raise ConfigError(f"prompts ({file}): no prompt in it; write one per line")
    return lines


def _read(key: str, file: str) -> str:
    """Read a text file that the setting `key` names."""
    try:
        return read_text(user_path(file))
    except ValueError as error:
        raise ConfigError(f"{key}: {error}") from None


def _prompts(
    texts: list[str],
    seed: int,
    tokenizer: Tokenizer,
    special_tokens: bool | None,
    context_length: int,
) -> list[Prompt]:
    """Encode the prompts; each has a seed of its own, so that its draws depend on no other."""
    prompts = []
    for number, text in enumerate(texts):
        ids = _encode(text, tokenizer, special_tokens, context_length)
        prompts.append(Prompt(text, ids, derived_seed(seed, prompt=number)))
    return prompts


def _encode(
    text: str, tokenizer: Tokenizer, special_tokens: bool | None, context_length: int
) -> list[int]:
    """Encode a prompt.

    Raises:
        ConfigError: it is empty, too long, or has a special token that may be meant as characters.
    """
    shown = shorten(repr(text))
    if special_tokens is None and END_OF_TEXT in text:
        raise ConfigError(
            f"prompt ({shown}) contains {END_OF_TEXT}: give special_tokens=true for the token that"
            " ends a document, special_tokens=false for these characters"
        )
    ids = tokenizer.encode(text, special_tokens=bool(special_tokens))
    if not ids:
        raise ConfigError('prompt is empty; give prompt="some words to continue"')
    if len(ids) > context_length:
        raise ConfigError(
            f"prompt ({shown}) has {len(ids)} tokens, more than the model's context of"
            f" {context_length}; shorten it"
        )
    return ids


def _stop_strings(stop: str | list[str] | None) -> list[str]:
    """The stop strings, with `\\n` as typed in a shell turned into a newline."""
    if stop is None:
        return []
    strings = [stop] if isinstance(stop, str) else stop
    return [string.replace("\\n", "\n") for string in strings]


def _placed(model: LanguageModel, device: torch.device, precision: str) -> LanguageModel:
    """Move the model to `device` in `precision`, and change it in place for fast inference."""
    if precision == "int8":  # the CPU only, see `_device`
        return quantize_int8(model.fused())
    return model.to(device, torch.bfloat16 if precision == "bf16-true" else torch.float32).fused()


def _device(accelerator: str, precision: str) -> torch.device:
    """Find the device to generate on; "auto" takes CUDA, then MPS, then the CPU.

    Raises:
        ConfigError: it is not available, or not suited to the precision.
    """
    best = "cpu"
    if torch.cuda.is_available():
        best = "cuda"
    elif torch.backends.mps.is_available():
        best = "mps"
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


def arguments(config: DictConfig) -> dict[str, Any]:
    """Check the composed config as arguments of `generate`.

    Raises:
        ConfigError: it is not valid.
    """
    return check_config(config, generate)


def main(config: DictConfig) -> None:
    """Print the texts as they come."""
    for piece in generate(**build(arguments(config))):
        write(piece)
