"""Does a decoding strategy keep the contract of `Decoding`?"""

from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn

from firstlight.decoding.base import Continuation, Decoding
from firstlight.decoding.prompt_lookup import PromptLookup
from firstlight.decoding.stepwise import Stepwise, gather
from firstlight.model.base import LanguageModel
from firstlight.model.gpt import GPT
from firstlight.testing.properties import Broken, NotApplicable, Property, check_all

# Prompts of different lengths, and one that repeats itself, which prompt lookup guesses from.
PROMPTS = ([3, 1, 4], [1], [5, 9, 2, 6, 5], [3, 5, 8, 9, 3, 5, 8])
SEEDS = (11, 12, 13, 14)
NEW = 12
"""New tokens: some of them beyond the model's context."""


def check_decoding(
    decoding: Decoding,
    *,
    model: Callable[[], LanguageModel] | None = None,
    skip: Collection[str] = (),
) -> dict[str, str]:
    """Check that `decoding` keeps the contract of `Decoding`; `model` makes one, None a tiny GPT.

    Returns what became of each property.

    Raises:
        AssertionError: a property does not hold.
    """
    case = _Case(decoding, (model or _tiny_gpt)().eval())
    properties = [
        Property("contract", case.contract, "generate returns num_samples rows for each prompt."),
        Property(
            "length", case.length, "A row ends with max_new_tokens at the latest, as 'length'."
        ),
        Property(
            "end of text",
            case.end_of_text,
            "A row ends with the first eos_id, its last id.",
        ),
        Property("stop", case.stop, "A row ends as soon as stop(new_ids) is true, as 'stop'."),
        Property("unused ids", case.unused, "Ids in the mask `unused` must never be chosen."),
        Property(
            "log-probabilities",
            case.logprobs,
            "logprobs are natural logarithms under the model itself, without temperature, filters.",
        ),
        Property(
            "batch",
            case.batch,
            "The text of a prompt must not depend on the others: draw for a row from its own"
            " generator (stepwise.draw), and look at no other row.",
        ),
        Property(
            "seeds",
            case.seeds,
            "Draw from the generators of the rows alone, which the seeds set.",
        ),
        Property(
            "samples",
            case.samples,
            "Set draws=True on a strategy that draws, and leave it False on one that does not.",
        ),
        Property("model", case.leaves_model, "Leave the model as it was (context.evaluating)."),
        Property("stream", case.stream, "generate of a Stepwise gathers what stream yields."),
        Property(
            "prompt lookup",
            case.prompt_lookup,
            "next_token must be a function of the logits, the ids so far and the generators.",
        ),
    ]
    return check_all(type(decoding).__name__, properties, skip)


def _tiny_gpt() -> LanguageModel:
    torch.manual_seed(0)
    # With dropout, so that a strategy which forgets evaluation mode is found out.
    model = GPT(vocab_size=31, context_length=16, emb_dim=12, n_heads=3, n_layers=2, drop_rate=0.1)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)  # so that its texts are not all the same
    return model


class _Case:
    def __init__(self, decoding: Decoding, model: LanguageModel) -> None:
        self.decoding, self.model = decoding, model

    def texts(
        self, prompts: Sequence[Sequence[int]] = PROMPTS, **settings: Any
    ) -> list[list[Continuation]]:
        settings = {"max_new_tokens": NEW, "seeds": SEEDS[: len(prompts)]} | settings
        return self.decoding.generate(self.model, prompts, **settings)

    def first(self, **settings: Any) -> list[Continuation]:
        """The first continuation of each prompt."""
        return [rows[0] for rows in self.texts(**settings)]

    def contract(self) -> None:
        self.decoding.check(self.model, 1)
        found = self.texts()
        if len(found) != len(PROMPTS):
            raise Broken(f"for {len(PROMPTS)} prompts it returns {len(found)} lists")
        for number, rows in enumerate(found):
            if len(rows) != 1 or not isinstance(rows[0], Continuation):
                raise Broken(f"prompt {number} has {rows!r}, it should be one Continuation")
            if not rows[0].ids or not all(0 <= i < self.model.vocab_size for i in rows[0].ids):
                raise Broken(f"prompt {number} has the ids {rows[0].ids}")
            if len(rows[0].logprobs) != len(rows[0].ids):
                raise Broken(
                    f"prompt {number} has {len(rows[0].ids)} ids, {len(rows[0].logprobs)} logprobs"
                )

    def length(self) -> None:
        for n in (1, NEW):
            for number, row in enumerate(self.first(max_new_tokens=n)):
                if len(row.ids) != n or row.finish_reason != "length":
                    raise Broken(
                        f"with max_new_tokens={n} prompt {number} has {len(row.ids)} ids, and ends"
                        f" for {row.finish_reason!r}"
                    )

    def end_of_text(self) -> None:
        plain = self.first()
        # An id that it does choose: another one might never come.
        eos_id = plain[0].ids[len(plain[0].ids) // 2]
        for number, row in enumerate(self.first(eos_id=eos_id)):
            if eos_id in row.ids[:-1]:
                raise Broken(f"prompt {number} continues after eos_id ({eos_id}): {row.ids}")
            is_end = row.ids[-1] == eos_id
            if is_end != (row.finish_reason == "end_of_text"):
                raise Broken(f"prompt {number} has {row.ids}, and ends for {row.finish_reason!r}")

    def stop(self) -> None:
        for number, row in enumerate(self.first(stop=lambda new: len(new) >= 3)):
            if len(row.ids) != 3 or row.finish_reason != "stop":
                raise Broken(
                    f"told to stop after 3 ids prompt {number} has {len(row.ids)}, and ends for"
                    f" {row.finish_reason!r}"
                )

    def unused(self) -> None:
        """Those that it would choose are ruled out, again and again."""
        unused = torch.zeros(self.model.vocab_size, dtype=torch.bool)
        for _ in range(4):
            rows = self.first(unused=unused)
            for number, row in enumerate(rows):
                chosen = [i for i in row.ids if unused[i]]
                if chosen:
                    raise Broken(f"prompt {number} has the unused id {chosen[0]}")
            unused[[row.ids[0] for row in rows]] = True

    def logprobs(self) -> None:
        for number, (prompt, row) in enumerate(zip(PROMPTS, self.first(), strict=True)):
            ids = [*prompt]
            for token, logprob in zip(row.ids, row.logprobs, strict=True):
                # From scratch for each token, so that no cache can be wrong here as well.
                window = torch.tensor([ids[-self.model.context_length :]])
                with torch.no_grad():
                    wanted = float(self.model(window)[0, -1].float().log_softmax(-1)[token])
                if abs(wanted - logprob) > 1e-3 * max(1.0, abs(wanted)):
                    raise Broken(
                        f"prompt {number}, id {token} after {len(ids)} ids: it says {logprob:.4f},"
                        f" the model {wanted:.4f}"
                    )
                ids.append(token)

    def batch(self) -> None:
        together = self.first()
        for number, prompt in enumerate(PROMPTS):
            [[alone]] = self.texts([prompt], seeds=SEEDS[number : number + 1])
            if alone.ids != together[number].ids:
                raise Broken(f"prompt {number} alone has {alone.ids}, not {together[number].ids}")

    def seeds(self) -> None:
        state = torch.get_rng_state()
        first = self.first()
        if not torch.equal(torch.get_rng_state(), state):
            raise Broken("it draws from torch's global generator")
        # Whoever reads the global generator gets other draws now.
        torch.manual_seed(99)
        if [row.ids for row in self.first()] != [row.ids for row in first]:
            raise Broken("called twice with the same seeds it has different ids")

    def samples(self) -> None:
        # Four times: two texts of a strategy that draws may be equal by chance.
        others = [self.first(seeds=[seed + 1000 * n for seed in SEEDS]) for n in range(4)]
        texts = {str([row.ids for row in rows]) for rows in others}
        if self.decoding.draws != (len(texts) > 1):
            raise Broken(f"draws is {self.decoding.draws}, four seeds have {len(texts)} texts")
        if not self.decoding.draws:
            return
        self.decoding.check(self.model, 3)
        found = self.texts(num_samples=3)
        if [len(rows) for rows in found] != [3] * len(PROMPTS):
            raise Broken(f"with num_samples=3 there are {[len(rows) for rows in found]} texts")

    def leaves_model(self) -> None:
        before = {name: tensor.clone() for name, tensor in self.model.state_dict().items()}
        for is_training in (True, False):
            self.model.train(is_training)
            self.texts()
            if self.model.training is not is_training:
                raise Broken("it leaves the model in another mode (training or evaluation)")
        for name, tensor in self.model.state_dict().items():
            if not torch.equal(tensor, before[name]):
                raise Broken(f"it changes {name}")

    def stream(self) -> None:
        strategy = self._stepwise()
        tokens = strategy.stream(self.model, PROMPTS, max_new_tokens=NEW, seeds=SEEDS)
        self._must_be_same(gather(tokens, len(PROMPTS), 1), "stream")

    def prompt_lookup(self) -> None:
        # One prompt at a time: guesses belong to one row.
        strategy, found = self._stepwise(), []
        lookup = partial(PromptLookup, max_guesses=4)
        for prompt, seed in zip(PROMPTS, SEEDS, strict=True):
            tokens = strategy.stream(
                self.model, [prompt], max_new_tokens=NEW, seeds=[seed], make_context=lookup
            )
            found += gather(tokens, 1, 1)
        self._must_be_same(found, "prompt lookup")

    def _stepwise(self) -> Stepwise:
        if not isinstance(self.decoding, Stepwise):
            raise NotApplicable("it does not settle one token after another (Stepwise)")
        return self.decoding

    def _must_be_same(self, found: list[list[Continuation]], how: str) -> None:
        for number, ([one], [other]) in enumerate(zip(found, self.texts(), strict=True)):
            if one.ids != other.ids:
                raise Broken(f"with {how} prompt {number} has {one.ids}, without {other.ids}")
