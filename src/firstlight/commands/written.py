"""How `firstlight generate` writes continuations: as text, JSON lines or an HTML page."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, TypeVar

from rich.text import Text

from firstlight.commands.continuing import Prompt
from firstlight.commands.copied import TrainingText
from firstlight.data.tokenizers.base import Tokenizer
from firstlight.decoding.base import Continuation
from firstlight.decoding.stepwise import Token
from firstlight.decoding.stop import StopStrings, TextStream
from firstlight.memorisation.marked import Marked, as_data, as_text
from firstlight.memorisation.page import page
from firstlight.output import as_json, is_unicode, note

Format = Literal["text", "jsonl", "html"]
Shown = TypeVar("Shown", str, Text)
"""What is printed: without colours or with them."""
RULE = "-" * 80 + "\n"
"""The line between two texts."""


def written(
    found: Iterator[tuple[Prompt, Continuation]],
    stops: StopStrings,
    format: Format,
    tokenizer: Tokenizer | None,
    training: TrainingText | None,
) -> Iterator[str] | Iterator[Text]:
    """Yield the continuations in a format; `tokenizer` and `training` as for `_json_lines`.

    With `training` the pieces of a text have colours, for a terminal.
    """
    if format == "jsonl":
        return _json_lines(found, stops, tokenizer, training)
    if training is None:
        return _as_text(found, stops)
    if format == "html":
        return _as_page(found, stops, training)
    return _in_colours(found, stops, training)


def streamed(
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

    def shown(prompt: Prompt, row: Continuation) -> str:
        return f"{prompt.text}{stops.text(row.ids)}\n"

    return _in_turn(found, stops, shown, RULE)


def _in_colours(
    found: Iterator[tuple[Prompt, Continuation]], stops: StopStrings, training: TrainingText
) -> Iterator[Text]:
    """Yield what `_as_text` does, with what is copied in colours, and a list of it."""

    def shown(prompt: Prompt, row: Continuation) -> Text:
        return as_text(training.marked(prompt.text, row, stops))

    return _in_turn(found, stops, shown, Text(RULE))


def _in_turn(
    found: Iterator[tuple[Prompt, Continuation]],
    stops: StopStrings,
    shown: Callable[[Prompt, Continuation], Shown],
    rule: Shown,
) -> Iterator[Shown]:
    reasons: list[str | None] = []
    for prompt, row in found:
        if reasons:
            yield rule
        yield shown(prompt, row)
        reasons.append(row.finish_reason)
    _note_missing_stop(stops, reasons)


def _as_page(
    found: Iterator[tuple[Prompt, Continuation]], stops: StopStrings, training: TrainingText
) -> Iterator[str]:
    """Yield one HTML page with all texts."""
    reasons: list[str | None] = []
    samples: list[Marked] = []
    for prompt, row in found:
        samples.append(training.marked(prompt.text, row, stops))
        reasons.append(row.finish_reason)
    yield page(samples, "what was copied from the training text")
    _note_missing_stop(stops, reasons)


def _json_lines(
    found: Iterator[tuple[Prompt, Continuation]],
    stops: StopStrings,
    tokenizer: Tokenizer | None,
    training: TrainingText | None,
) -> Iterator[str]:
    """Yield a JSON object for each continuation; with a `tokenizer`, also tokens and logprobs.

    With `training`, also what is copied from that text.
    """
    for prompt, row in found:
        record: dict[str, Any] = {
            "prompt": prompt.text,
            "text": stops.text(row.ids),
            "finish_reason": row.finish_reason,
        }
        if row.score is not None:  # of a beam
            record["score"] = row.score
        if tokenizer is not None:
            # One by one: a token may be half of a character, which is U+FFFD then.
            tokens = [tokenizer.decode([token]) for token in row.ids]
            record |= {"ids": row.ids, "tokens": tokens, "logprobs": row.logprobs}
        if training is not None:
            record["copied"] = as_data(training.marked(prompt.text, row, stops))
        # Where standard output lacks characters, JSON's own escapes: those of Python are not JSON.
        yield as_json(record, ensure_ascii=not is_unicode()) + "\n"


def _note_missing_stop(stops: StopStrings, reasons: Sequence[str | None]) -> None:
    """Say on standard error how many texts ended without a stop string, if one was given."""
    missing = reasons.count("length")
    if stops.stops and missing:
        note(f"no stop string came within max_new_tokens ({missing} of {len(reasons)} texts)")
