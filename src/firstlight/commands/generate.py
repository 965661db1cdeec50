"""`firstlight generate`: continue prompts with a checkpoint."""

import sys
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from omegaconf import DictConfig
from pydantic import Field
from rich.text import Text

from firstlight.commands.continuing import (
    Request,
    continuations,
    device_for,
    placed,
    prompts_for,
    stops_of,
    token_streams,
)
from firstlight.commands.copied import TrainingText
from firstlight.commands.text_section import prepare_text_section
from firstlight.commands.written import Format, streamed, written
from firstlight.config import BatchSize, NewTokens, NonEmpty, Seed, build, check_config
from firstlight.console import SafeConsole
from firstlight.data.files import read_text, user_path
from firstlight.data.leakage import LEAST_N, MOST_N
from firstlight.data.tokenizers.base import Tokenizer
from firstlight.decoding.base import Decoding
from firstlight.decoding.stepwise import Stepwise
from firstlight.errors import ConfigError
from firstlight.model.base import LanguageModel
from firstlight.output import write
from firstlight.sources import check_named, find_checkpoint, load_checkpoint


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
    format: Format = "text",
    logprobs: bool = False,
    copied: Annotated[int, Field(ge=LEAST_N, le=MOST_N)] | Literal["auto"] | None = None,
    data: dict[str, Any] | None = None,
    batch_size: BatchSize = 8,
    prompt_lookup: Annotated[int, Field(ge=2, le=1024)] | None = None,
    lookup_text: NonEmpty | None = None,
    accelerator: str = "auto",
    precision: Literal["32-true", "bf16-true", "int8"] = "32-true",
) -> Iterator[str] | Iterator[Text]:
    """Continue prompts; return the output in pieces. The arguments are the keys of generate.yaml.

    With `copied` the pieces of a text have colours, for a terminal. `data` is the section of the
    text in which copies are looked for; None: the checkpoint's own.

    Raises:
        ConfigError: no such checkpoint, file or device; an unusable prompt (see `prompts_for`);
            settings that contradict each other.
    """
    check_named(checkpoint)
    # What can be refused without the model is refused first: loading one may take minutes.
    _check_output(stream, format, logprobs, copied is not None, data is not None)
    texts = _texts(prompt, prompts)
    device = device_for(accelerator, precision)
    request = request_of(
        decoding=decoding,
        special_tokens=special_tokens,
        max_new_tokens=max_new_tokens,
        num_samples=num_samples,
        stop=[string.replace("\\n", "\n") for string in as_list(stop)],
        seed=seed,
        stream=stream,
        batch_size=batch_size,
        prompt_lookup=prompt_lookup,
        lookup_text=lookup_text,
    )
    # After all that can be refused without it.
    model, tokenizer, training = _load(checkpoint, copied, data)
    todo = prompts_for(model, tokenizer, texts, request)
    # Fused after placing: the joined matrices are then made in the final dtype.
    model, stops = placed(model, device, precision).fused(), stops_of(request, tokenizer)
    if stream:
        return streamed(token_streams(model, tokenizer, todo, request), stops)
    found = continuations(model, tokenizer, todo, request)
    return written(found, stops, format, tokenizer if logprobs else None, training)


def _load(
    checkpoint: str, copied: int | Literal["auto"] | None, data: dict[str, Any] | None
) -> tuple[LanguageModel, Tokenizer, TrainingText | None]:
    """Load model, tokenizer and, with `copied`, the training text.

    In a function of its own so that nothing else keeps the weights.
    """
    loaded = load_checkpoint(find_checkpoint(checkpoint))
    model = loaded.build_model()
    training = None if copied is None else TrainingText(loaded, model, copied, data)
    return model, loaded.build_tokenizer(), training


def _check_output(
    stream: bool, format: Format, logprobs: bool, is_marked: bool, has_data: bool
) -> None:
    """Refuse settings of the output that contradict each other.

    Raises:
        ConfigError: they do.
    """
    if stream and format != "text":
        raise ConfigError(
            f"stream=true shows text as it comes, format={format} writes"
            f" {'whole lines' if format == 'jsonl' else 'a whole page'}: choose one of them"
        )
    if stream and is_marked:
        raise ConfigError(
            "stream=true shows text as it comes, copied=... needs all of it: choose one of them"
        )
    if format == "html" and not is_marked:
        raise ConfigError("format=html shows what was copied: give copied=auto with it")
    if logprobs and format != "jsonl":
        raise ConfigError("logprobs=true needs format=jsonl")
    if has_data and not is_marked:
        raise ConfigError(
            "data is the text in which copies are looked for: give copied=auto with it"
        )


def request_of(
    *,
    decoding: Decoding,
    special_tokens: bool | None,
    max_new_tokens: int,
    num_samples: int,
    stop: list[str],
    seed: int,
    stream: bool,
    batch_size: int,
    prompt_lookup: int | None,
    lookup_text: str | None,
) -> Request:
    """What is asked of a model; `lookup_text` is a file, the others are those of a `Request`.

    Raises:
        ConfigError: they contradict each other, or the file cannot be read.
    """
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
    return Request(
        decoding=decoding,
        special_tokens=special_tokens,
        max_new_tokens=max_new_tokens,
        num_samples=num_samples,
        stop=stop,
        seed=seed,
        batch_size=batch_size,
        prompt_lookup=prompt_lookup,
        lookup_text=_read("lookup_text", lookup_text) if lookup_text else "",
    )


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


def as_list(stop: str | list[str] | None) -> list[str]:
    """The strings that end a continuation."""
    if stop is None:
        return []
    # A single string would otherwise be a sequence of letters.
    return [stop] if isinstance(stop, str) else stop


def arguments(config: DictConfig) -> dict[str, Any]:
    """Check the composed config as arguments of `generate`.

    Raises:
        ConfigError: it is not valid.
    """
    prepare_text_section(config)
    return check_config(config, generate)


def main(config: DictConfig) -> None:
    """Print the texts as they come."""
    plain = arguments(config)
    data = plain.pop("data")  # a section: it is built with the checkpoint's tokenizer
    for piece in generate(**build(plain), data=data):
        if isinstance(piece, str):
            write(piece)
        elif sys.stdout.isatty():
            SafeConsole().print(piece, soft_wrap=True, end="")
        else:
            write(piece.plain)
