"""A model with its tokenizer: texts continued and measured."""

import copy
import functools
import inspect
import operator
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, overload

from firstlight.api import words
from firstlight.api.call import command, ends_in_one_line
from firstlight.api.surroundings import on_cpu
from firstlight.errors import ConfigError, counted, shown

if TYPE_CHECKING:
    from torch import Tensor

    from firstlight.commands.continuing import Request
    from firstlight.data.tokenizers.base import Tokenizer
    from firstlight.decoding.base import Continuation
    from firstlight.model.base import LanguageModel as Model

Precision = Literal["32-true", "bf16-true", "int8"]
Text = str | Sequence[int]
"""A text, or its ids."""
AT_ONCE = 4096
"""Tokens that go through a model at once."""
ELSEWHERE = {
    "prompt": "it is the first argument",
    "prompts": "give them as a list in place of the prompt",
    "stream": "firstlight.LanguageModel.stream shows text as it comes",
    "format": "the result is a text that has .prompt, .continuation and .finish_reason",
    "logprobs": "the result has .ids and .logprobs",
    "data": "it belongs to copied",
    "copied": "firstlight.memorisation.copies looks for .ids in any text",
    "num_samples": "it is a keyword: num_samples=4",
    "checkpoint": "it is the argument of firstlight.load",
    "accelerator": "it is an argument of firstlight.load",
    "precision": "it is an argument of firstlight.load",
}
"""Keys of `firstlight generate` that `LanguageModel.generate` has in another place."""


class Generated(str):
    """A text that was generated: the prompt and its continuation."""

    # A str, so that it can be printed, searched and compared as the text that nearly every caller
    # wants.
    prompt: str
    continuation: str
    ids: list[int]
    """The new tokens, including the one that ended them."""
    logprobs: list[float]
    """The natural logarithm of each one's probability under the model itself."""
    finish_reason: Literal["end_of_text", "stop", "length"]
    score: float | None
    """Of beam search: by which it ranks."""

    @classmethod
    def of(cls, prompt: str, continuation: str, found: "Continuation") -> Self:
        """The text of a continuation that was found."""
        text = cls(prompt + continuation)
        text.prompt, text.continuation = prompt, continuation
        text.ids, text.logprobs = found.ids, found.logprobs
        text.finish_reason, text.score = found.finish_reason, found.score
        return text


class LanguageModel:
    """A model with its tokenizer, as `firstlight.load` returns it: it continues and measures texts.

    model = firstlight.load("last")
    model.generate("The lamp", max_new_tokens=20, decoding={"temperature": 0.7})  # a str, and more
    for piece in model.stream("The lamp"): ...    # the same, as it comes
    model.loss("The lamp was lit.")               # mean, in nats a token
    model.logprobs("The lamp was lit.")           # (N - 1,), of each token but the first
    model.logits("The lamp")                      # (T, V)
    model.tokenizer.encode("The lamp")            # ids; .decode(ids) is the way back
    model.model                                   # the nn.Module: ids (B, T) -> logits (B, T, V)
    model.path, model.config                      # where it is from, and how it was trained

    All use the present weights of `model.model`, on its device, without dropout. A text may also be
    given as its ids. `special_tokens` says whether `<|endoftext|>` in a text is the token of that
    name (True) or these characters (False); a text that has it is refused until that is said.

    Raises:
        Error: `model` or `tokenizer` is something else.
    """

    def __init__(
        self,
        model: "Model",
        tokenizer: "Tokenizer",
        *,
        path: Path | None = None,
        config: dict[str, Any] | None = None,
    ) -> None:
        from firstlight.data.tokenizers.base import Tokenizer
        from firstlight.model.base import LanguageModel as Model

        for name, value, kind in (("model", model, Model), ("tokenizer", tokenizer, Tokenizer)):
            if not isinstance(value, kind):
                raise ConfigError(
                    f"{name} ({shown(value)}): give a {kind.__module__}.{kind.__name__}"
                )
        self.model, self.tokenizer = model, tokenizer
        self.path = path
        """Where it was loaded from."""
        self.config: dict[str, Any] = config or {}
        """The config that it was trained with."""

    def __repr__(self) -> str:
        model = self.model
        length = model.context_length
        parts = [
            type(model).__name__,
            f"{model.n_parameters:,} parameters",
            f"{model.vocab_size:,} ids",
            # A model with a state in place of keys and values reads texts of any length.
            "any context" if length is None else f"context {length:,}",
            f"{model.output_weight.dtype} on {model.device}".removeprefix("torch."),
        ]
        if self.path is not None:
            parts.append(str(self.path))
        return f"LanguageModel({', '.join(parts)})"

    @overload
    def generate(
        self, prompt: str, *overrides: str, num_samples: None = None, **settings: Any
    ) -> Generated: ...
    @overload
    def generate(
        self, prompt: str, *overrides: str, num_samples: int, **settings: Any
    ) -> list[Generated]: ...
    @overload
    def generate(
        self,
        prompt: list[str] | tuple[str, ...],
        *overrides: str,
        num_samples: None = None,
        **settings: Any,
    ) -> list[Generated]: ...
    @overload
    def generate(
        self,
        prompt: list[str] | tuple[str, ...],
        *overrides: str,
        num_samples: int,
        **settings: Any,
    ) -> list[list[Generated]]: ...
    @ends_in_one_line
    def generate(
        self,
        prompt: str | list[str] | tuple[str, ...],
        *overrides: str,
        num_samples: int | None = None,
        **settings: Any,
    ) -> Any:
        """Continue a prompt, or each of a list of prompts.

        The result of a prompt is a text; with `num_samples` a list of that many. `settings` are the
        keys of `firstlight generate` (`decoding`, `max_new_tokens`, `stop`, `seed`, ...; see
        `firstlight generate --help`), `overrides` the same as on the command line.

        Raises:
            Error: a mistake in the settings, or a prompt that cannot be continued.
        """
        # Late, here and below: `from firstlight import load` must not import torch.
        from firstlight.commands.continuing import continuations, prompts_for, stops_of

        # Everything that can be refused is refused before the model computes.
        texts = _texts(prompt)
        request = _request(overrides, settings, num_samples)
        found: list[Generated] = []
        with on_cpu():
            todo = prompts_for(self.model, self.tokenizer, texts, request)
            stops = stops_of(request, self.tokenizer)
            for one, row in continuations(self._fused(), self.tokenizer, todo, request):
                found.append(Generated.of(one.text, stops.text(row.ids), row))
        n = request.num_samples
        # `continuations` yields them prompt by prompt, each with its samples in a row.
        by_prompt = [found[first : first + n] for first in range(0, len(found), n)]
        if num_samples is None:
            return found[0] if isinstance(prompt, str) else found
        return by_prompt[0] if isinstance(prompt, str) else by_prompt

    @ends_in_one_line
    def stream(self, prompt: str, *overrides: str, **settings: Any) -> Iterator[str]:
        """What `generate` gives for a prompt, in pieces as they come, the prompt first.

        Raises:
            Error: see `generate`; or a decoding that settles no token before the end.
        """
        from firstlight.commands.continuing import prompts_for, stops_of, token_streams
        from firstlight.decoding.stop import TextStream

        if not isinstance(prompt, str):
            raise ConfigError(f"prompt: {shown(prompt)}: stream continues one text")
        request = _request(overrides, settings, None, stream=True)
        text = TextStream(stops_of(request, self.tokenizer))
        with on_cpu():
            todo = prompts_for(self.model, self.tokenizer, [prompt], request)
            # One prompt and one sample: exactly one stream.
            [(_, tokens)] = token_streams(self._fused(), self.tokenizer, todo, request)

        def pieces() -> Iterator[str]:
            yield prompt
            while True:
                with on_cpu():  # not around the loop: between two pieces other code runs
                    token = next(tokens, None)
                if token is None:
                    return
                yield text.feed([token.id], last=token.finish_reason is not None)

        return pieces()

    @ends_in_one_line
    def logits(self, text: Text, *, special_tokens: bool | None = None) -> "Tensor":
        """The logits (T, V), float32, after each token of a text of at most the context's length.

        Raises:
            Error: it has no token, or too many.
        """
        import torch

        from firstlight.decoding.context import evaluating

        ids = self._ids(text, special_tokens, at_least=1)
        if len(ids) > self.model.context_length:
            raise ConfigError(
                f"text: it has {len(ids):,} tokens, more than the model's context of"
                f" {self.model.context_length}; logprobs and loss take longer ones"
            )
        # no_grad, not inference_mode: a caller may use the result in a computation with gradients.
        with on_cpu(), torch.no_grad(), evaluating(self.model):
            return self.model(torch.tensor([ids], device=self.model.device))[0].float()

    @ends_in_one_line
    def logprobs(self, text: Text, *, special_tokens: bool | None = None) -> "Tensor":
        """The natural log-probability of each token but the first: (N - 1,), float32, on the CPU.

        A text longer than the context is cut into windows, as an evaluation does it: each token is
        predicted once, from at most as many before it as the model takes.

        Raises:
            Error: it has fewer than two tokens.
        """
        import torch

        from firstlight.data.windows import TensorWindows
        from firstlight.decoding.context import evaluating

        tokens = self._ids(text, special_tokens, at_least=2)
        length = min(self.model.context_length, len(tokens) - 1)
        parts: list[Tensor] = []
        with on_cpu(), torch.no_grad(), evaluating(self.model):
            # Windows that do not overlap, and the rest as one of its own, as in an evaluation with
            # data.eval_last_window: the mean of these numbers is that loss.
            windows = TensorWindows(torch.tensor(tokens), context_length=length, stride=length)
            batches = list(torch.arange(len(windows)).split(max(AT_ONCE // length, 1)))
            if windows.n_rest > 0:
                batches.append(windows.rest_index)
            for index in batches:
                inputs, targets = (part.to(self.model.device) for part in windows[index])  # (B, T)
                # In float32 before the softmax: a bfloat16 logarithm has three digits.
                scores = self.model(inputs).float().log_softmax(dim=-1)  # (B, T, V)
                # To the CPU window by window: all of a long text's (T, V) would not fit on a
                # device.
                parts.append(scores.gather(-1, targets[..., None]).flatten().cpu())
        return torch.cat(parts)

    @ends_in_one_line
    def loss(self, text: Text, *, special_tokens: bool | None = None) -> float:
        """The mean loss of a text in nats a token: minus the mean of its `logprobs`.

        Raises:
            Error: it has fewer than two tokens.
        """
        # In float64: a sum of a million float32 numbers would lose its last digits.
        return -float(self.logprobs(text, special_tokens=special_tokens).double().mean())

    def _ids(self, text: Text, special_tokens: bool | None, *, at_least: int) -> list[int]:
        from firstlight.commands.continuing import encoded

        if special_tokens not in (None, True, False):
            raise ConfigError(f"special_tokens ({shown(special_tokens)}): True, False or None")
        if isinstance(text, str):
            ids = encoded("text", text, self.tokenizer, special_tokens)
        else:
            ids = _whole_numbers(text)
            for i in ids:
                if not 0 <= i < self.model.vocab_size:
                    raise ConfigError(f"text: the id {i} is not below {self.model.vocab_size}")
        if len(ids) < at_least:
            raise ConfigError(
                f"text: it has {counted(len(ids), 'token')}, and {at_least} are needed"
            )
        return ids

    def _fused(self) -> "Model":
        """A copy for decoding, which shares the weights."""
        # deepcopy takes what its memo knows for copied already: the copy gets the same parameters,
        # and the memory of the weights is needed once.
        shared: dict[int, Any] = {}
        for tensor in (*self.model.parameters(), *self.model.buffers()):
            shared[id(tensor)] = tensor
        requires_grad = [parameter.requires_grad for parameter in self.model.parameters()]
        fused = copy.deepcopy(self.model, shared).fused()
        # `fused` froze them, in the copy and, as they are shared, in the user's model.
        for parameter, needed in zip(self.model.parameters(), requires_grad, strict=True):
            parameter.requires_grad_(needed)
        return fused


@command
def load(
    source: words.Path,
    *,
    best: bool = True,
    accelerator: str = "auto",
    precision: Precision = "32-true",
) -> LanguageModel:
    """The language model of a run, of a checkpoint, or a published one.

    `source` is a run (its best checkpoint, or without `best` its newest), "last" (the newest run),
    a checkpoint's folder or file, or a published model: "gpt2", "hf:REPO", "hf:FOLDER",
    "openai:124M". `accelerator` and `precision` are those of `firstlight generate`.

    Raises:
        Error: it does not exist or is damaged, or the device is not available.
    """
    from firstlight.commands.continuing import device_for, placed
    from firstlight.sources import find_checkpoint, load_checkpoint

    text = words.path_text("source", source)
    if not text:
        raise ConfigError('source is empty; give a run, its folder, "last", ...')
    if not isinstance(best, bool):
        raise ConfigError(f"best ({shown(best)}): True or False")
    # Checked as keys of `firstlight generate`: the same ranges, and the same words for a mistake.
    settings = {"checkpoint": text, "accelerator": accelerator, "precision": precision}
    plain = _plain(tuple(words.arguments("generate", (), settings).overrides))
    device = device_for(plain["accelerator"], plain["precision"])
    loaded = load_checkpoint(find_checkpoint(plain["checkpoint"], best=best, key="source"))
    model, tokenizer = loaded.build_model(), loaded.build_tokenizer()
    model = placed(model, device, plain["precision"])
    return LanguageModel(model, tokenizer, path=loaded.path, config=loaded.config)


def _texts(prompt: str | list[str] | tuple[str, ...]) -> list[str]:
    if not isinstance(prompt, str | list | tuple):
        raise ConfigError(f"prompt ({shown(prompt)}): give a text, or a list of texts")
    texts = [prompt] if isinstance(prompt, str) else list(prompt)
    for text in texts:
        if not isinstance(text, str):
            raise ConfigError(f"prompt: {shown(text)}: give a text, or a list of texts")
    if not texts:
        raise ConfigError("prompt: the list is empty; give some words to continue")
    return texts


def _whole_numbers(text: object) -> list[int]:
    """The ids in a list, a tensor or an array."""
    try:
        if isinstance(text, bytes | dict):
            raise TypeError
        return [operator.index(number) for number in text]  # type: ignore[attr-defined]
    except TypeError:
        raise ConfigError(f"text ({shown(text)}): give one text, or the list of its ids") from None


def _request(
    overrides: Sequence[object],
    settings: Mapping[str, Any],
    num_samples: int | None,
    *,
    stream: bool = False,
) -> "Request":
    from firstlight.commands.generate import as_list, request_of
    from firstlight.config import build
    from firstlight.overrides import key_of

    # The user's own words apart from ours, to tell which of them belong in another place.
    given = words.arguments("generate", overrides, settings).overrides
    for word in given:
        key = key_of(word).partition(".")[0]
        if key in ELSEWHERE:
            raise ConfigError(f"{key}: {ELSEWHERE[key]}")
    samples = {} if num_samples is None else {"num_samples": num_samples}
    # The key is mandatory in the config, and not used here: the model is at hand.
    all_given = {"checkpoint": "last", **samples, "stream": stream}
    own = words.arguments("generate", (), all_given).overrides
    built = build(_plain((*own, *given)))
    built["stop"] = as_list(built["stop"])
    return request_of(**{name: built[name] for name in inspect.signature(request_of).parameters})


def _plain(overrides: tuple[str, ...]) -> dict[str, Any]:
    """The arguments of `firstlight generate`."""
    from firstlight.conf_files import files_of_config

    return _remembered(overrides, files_of_config(), frozenset(os.environ.items()))


@functools.lru_cache(maxsize=256)
def _remembered(overrides: tuple[str, ...], *depends_on: Any) -> dict[str, Any]:
    """Composed once while `depends_on` is the same: Hydra takes a third of a second for it."""
    return _composed(overrides)


@command
def _composed(overrides: tuple[str, ...]) -> dict[str, Any]:
    from firstlight.api.composed import composed
    from firstlight.commands import generate

    with composed("generate", overrides, {}) as config:
        return generate.arguments(config)
