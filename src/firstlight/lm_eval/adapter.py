"""A model and its tokenizer as lm-eval sees them: log-likelihoods and continuations, in batches."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from lm_eval.api.instance import Instance  # pyright: ignore[reportMissingImports]
from lm_eval.api.model import TemplateLM  # pyright: ignore[reportMissingImports]
from lm_eval.models.utils import (  # pyright: ignore[reportMissingImports]
    Collator,
    normalize_gen_kwargs,
)
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm

from firstlight.data.tokenizers.base import Tokenizer
from firstlight.decoding.base import derived_seed
from firstlight.decoding.context import evaluating
from firstlight.decoding.greedy import Greedy
from firstlight.decoding.sample import Sample
from firstlight.decoding.stepwise import Stepwise, logprobs
from firstlight.decoding.stop import StopStrings
from firstlight.errors import ConfigError, shorten
from firstlight.model.base import LanguageModel

SAMPLING = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")
"""How a task may ask for its answers to be drawn."""

Request = tuple[tuple[str, str], list[int], list[int]]
"""Context and continuation, as text and as the ids of each."""


class HarnessLM(TemplateLM):
    """Gives the answers of lm-eval's own `HFLM` for the same weights, and some that it refuses.

    A continuation that is longer than the model's context is scored in parts, each after as many of
    the tokens before it as fit. For answers as long as the context the window slides.
    `<|endoftext|>` is put before a text without a context, and is the special token inside one.
    """

    def __init__(self, model: LanguageModel, tokenizer: Tokenizer, *, batch_size: int) -> None:
        super().__init__()
        self.model, self.vocabulary, self.batch_size = model, tokenizer, batch_size

    @property
    def eot_token_id(self) -> int:
        return self.vocabulary.end_of_text

    @property
    def max_length(self) -> int:
        """The model's context length; lm-eval keeps it with the results."""
        return self.model.context_length

    @property
    def max_gen_toks(self) -> int:
        """Length of an answer whose task does not give one: that of `HFLM`."""
        return 256

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **kwargs: Any
    ) -> list[int]:
        return self.vocabulary.encode(string, special_tokens=True)

    def loglikelihood_rolling(
        self, requests: list[Instance], disable_tqdm: bool = False
    ) -> list[float]:
        asked: list[Request] = []
        for request in requests:
            text = request.args[0]
            asked.append((("", text), [self.eot_token_id], self.tok_encode(text)))
        return [total for total, _ in self._loglikelihood_tokens(asked)]

    @torch.no_grad()
    def _loglikelihood_tokens(
        self, requests: list[Request], **kwargs: Any
    ) -> list[tuple[float, bool]]:
        # By the inputs of the model: requests (by number) that need them, as the answers to one
        # question do.
        asked: dict[tuple[int, ...], list[tuple[int, list[int]]]] = defaultdict(list)
        for number, (texts, context, continuation) in enumerate(requests):
            _check_continuation(*texts, continuation)
            for inputs, targets in windows(context, continuation, self.max_length):
                asked[tuple(inputs)].append((number, targets))
        totals = [0.0] * len(requests)
        greedy = [True] * len(requests)
        batches = Collator(list(asked), sort_fn=lambda ids: -len(ids)).get_batched(
            n=self.batch_size
        )
        # disable=None: a bar only on a terminal.
        for batch in tqdm(list(batches), desc="log-likelihoods", disable=None):
            for inputs, hidden in zip(batch, self._hidden(batch), strict=True):
                for number, ids in asked[inputs]:
                    targets = torch.tensor(ids, device=hidden.device)
                    ends = hidden[len(inputs) - len(ids) : len(inputs)]  # (n, C)
                    logits = self.model.project(ends)  # (n, V)
                    totals[number] += logprobs(logits, targets).cpu().double().sum().item()
                    greedy[number] &= torch.equal(logits.argmax(dim=-1), targets)
        return list(zip(totals, greedy, strict=True))

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        rows: list[Any] = []  # context, settings and seed of each
        for number, request in enumerate(requests):
            rows.append((*request.args, derived_seed(0, prompt=number)))
        # Longest first, and only requests with equal settings in a batch; get_original undoes the
        # order.
        ordered = Collator(
            rows,
            sort_fn=lambda row: -len(row[0]),
            group_by="gen_kwargs",
            group_fn=lambda row: row[1],
        )
        texts: list[str] = []
        for batch in tqdm(
            list(ordered.get_batched(n=self.batch_size)), desc="answers", disable=None
        ):
            contexts, settings, seeds = zip(*batch, strict=True)
            texts += self._continued(contexts, settings[0], seeds)
        return ordered.get_original(texts)

    def _continued(
        self, contexts: Sequence[str], settings: dict[str, Any], seeds: Sequence[int]
    ) -> list[str]:
        known: dict[str, Any] = {**normalize_gen_kwargs(settings, self.max_gen_toks)}
        stops = StopStrings([stop for stop in known["until"] if stop], self.vocabulary.text_bytes)
        new = known["max_gen_toks"]
        # Room for the whole answer, if it can fit at all; otherwise the window slides.
        kept = self.max_length
        if new < kept:
            kept -= new
        prompts = []
        for context in contexts:
            ids = self.tok_encode(context) or [self.eot_token_id]
            prompts.append(ids[-kept:])
        found = decoding_of(settings).generate(
            self.model,
            prompts,
            max_new_tokens=new,
            seeds=seeds,
            eos_id=self.eot_token_id,
            stop=stops,
            unused=self.vocabulary.without_token(self.model.vocab_size),
        )
        return [stops.text(row.ids) for (row,) in found]

    def _hidden(self, batch: Sequence[Sequence[int]]) -> torch.Tensor:
        """Hidden states (B, T, C) of rows of different lengths."""
        # Padded at their end, which the positions before it do not see in a causal model.
        ids = pad_sequence([torch.tensor(row) for row in batch], batch_first=True)  # (B, T)
        with evaluating(self.model):
            return self.model.hidden(ids.to(self.model.device))


def windows(
    context: list[int], continuation: list[int], length: int
) -> Iterator[tuple[list[int], list[int]]]:
    """Cut a continuation into parts: inputs of at most `length` ids, and the ids they predict."""
    # Each part is predicted from as many of the ids before it as fit; each id is predicted once.
    for first in range(0, len(continuation), length):
        targets = continuation[first : first + length]
        yield (context + continuation[:first] + targets)[-length - 1 : -1], targets


def decoding_of(settings: dict[str, Any]) -> Stepwise:
    """The strategy that the `generation_kwargs` of a task describe.

    Raises:
        ConfigError: they have a setting that is not available.
    """
    sampling, unknown = {}, []
    known: dict[str, Any] = {**normalize_gen_kwargs(settings)}
    for name, value in known.items():
        if (
            value is None
            or name in ("do_sample", "until", "max_gen_toks")
            or (name, value) == ("num_beams", 1)
        ):
            continue
        if name in SAMPLING:
            sampling[name] = value
        else:
            unknown.append(name)
    if unknown:
        raise ConfigError(
            f"generation_kwargs: {', '.join(sorted(unknown))} is not available;"
            f" {', '.join(SAMPLING)} are"
        )
    return Sample(**sampling) if known["do_sample"] else Greedy()


def _check_continuation(context: str, continuation: str, ids: list[int]) -> None:
    if continuation and not ids:
        end, start = shorten(repr(context[-20:])), shorten(repr(continuation))
        raise ConfigError(
            f"tasks: {start} after {end} has no token of its own: begin it with a space, or with a"
            " line"
        )
