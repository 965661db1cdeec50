"""Properties of a model in decoding: with a cache, in padded batches, beyond its context."""

import torch
from torch import Tensor

from firstlight.decoding.context import Context
from firstlight.model.base import LanguageModel
from firstlight.model.cache import ENDLESS, Cache
from firstlight.testing.model_case import ModelCase
from firstlight.testing.properties import Broken, NotApplicable, must_agree

NO_CACHE = "the model has no cache (new_cache returns None): it is sampled by computing all anew"


class ModelInDecoding:
    """The model of `case` in decoding."""

    def __init__(self, case: ModelCase) -> None:
        self.case, self.tolerance = case, case.tolerance

    @torch.no_grad()
    def fused(self) -> None:
        model = self.case.model()
        ids = self.case.ids(model)
        wanted = model(ids)
        # `generate` fuses a model that may be fused already.
        for time in ("", " a second time"):
            fused = model.fused()
            what = f"fused{time}, the model has different logits at {{place}}"
            must_agree(fused(ids), wanted, self.tolerance, what)
        rows = [row[:n].tolist() for row, n in zip(ids, (1, 3, 2), strict=True)]
        self._compare(Context(fused, rows).start(), self.case.model(), rows, "after fused()")

    @torch.no_grad()
    def cache(self) -> None:
        model = self.case.model()
        ids = self.case.ids(model)
        wanted, n_tokens = model(ids), ids.shape[1]
        # Token by token as in decoding, in halves, and in uneven pieces as with guesses.
        for cuts in ([1], [n_tokens // 2], [2, 3], list(range(1, n_tokens))):
            cache = _cache_of(model)
            for start, end in zip([0, *cuts], [*cuts, n_tokens], strict=True):
                found = model(ids[:, start:end], cache)
                what = (
                    f"tokens {start} to {end - 1} after a cache of {start} have different logits"
                    " than without a cache, (row, place, id) = {place}"
                )
                must_agree(found, wanted[:, start:end], self.tolerance, what)
                if cache.length != end:
                    raise Broken(f"after {end} tokens cache.length is {cache.length}")

    @torch.no_grad()
    def padding(self) -> None:
        model = self.case.model()
        ids = self.case.ids(model, n_rows=4)
        most = ids.shape[1] - 2
        # Both a single token and nearly the whole text among them: most padding, and hardly any.
        rows = [ids[n, :k].tolist() for n, k in enumerate((1, most, 2, (most + 1) // 2))]
        context = Context(model, rows)
        self._compare(context.start(), model, rows, "in a batch of unequal prompts")
        for step in range(2):
            rows = self._extended(context, model, rows, step, "in a batch of unequal prompts")

    @torch.no_grad()
    def select(self) -> None:
        model = self.case.model()
        _cache_of(model)
        ids = self.case.ids(model)
        rows = [ids[0, :1].tolist(), ids[1, :2].tolist(), ids[2, :1].tolist()]
        context = Context(model, rows)
        context.start()
        # Rows are repeated (samples, beams), left out (complete ones) and put in another order.
        for step, numbers in enumerate(([2, 0, 0, 1], [3, 1], [1, 0])):
            context.select(torch.tensor(numbers))
            rows = [list(rows[number]) for number in numbers]
            rows = self._extended(context, model, rows, step, f"after select({numbers})")

    @torch.no_grad()
    def rewind(self) -> None:
        model = self.case.model()
        cache = _cache_of(model)
        ids, others = self.case.ids(model), self.case.ids(model, seed=1)
        half = ids.shape[1] // 2
        lengths = [0, half] if cache.can_rewind else [0]
        for length in lengths:
            cache = _cache_of(model)
            model(ids, cache)
            cache.rewind(length)
            if cache.length != length:
                raise Broken(f"after rewind({length}) cache.length is {cache.length}")
            changed = torch.cat([ids[:, :length], others[:, length:]], dim=1)
            found = model(others[:, length:], cache)
            what = f"after rewind({length}) other tokens have wrong logits at {{place}}"
            must_agree(found, model(changed)[:, length:], self.tolerance, what)

    @torch.no_grad()
    def window(self) -> None:
        model = self.case.model()
        cache = model.new_cache()
        if cache is not None and cache.room == ENDLESS:
            raise NotApplicable("the state has no end (context_length=None)")
        generator = torch.Generator().manual_seed(2)
        n = model.context_length
        ids = torch.randint(model.vocab_size, (3, n + 3), generator=generator)
        # Rows just below the end, far below it and beyond it slide at different times.
        rows = [ids[number, :k].tolist() for number, k in enumerate((n - 1, 2, n + 3))]
        context = Context(model, rows)
        self._compare(context.start(), model, rows, "around the end of the context")
        for step in range(3):
            rows = self._extended(context, model, rows, step, "around the end of the context")

    def _extended(
        self, context: Context, model: LanguageModel, rows: list[list[int]], seed: int, where: str
    ) -> list[list[int]]:
        """`rows` with a further token each, whose logits in `context` have been compared."""
        generator = torch.Generator().manual_seed(seed)
        new = torch.randint(model.vocab_size, (len(rows),), generator=generator)
        rows = [[*row, token] for row, token in zip(rows, new.tolist(), strict=True)]
        self._compare(context.append(new[:, None])[:, 0], model, rows, where)
        return rows

    def _compare(
        self, found: Tensor, model: LanguageModel, rows: list[list[int]], where: str
    ) -> None:
        """Compare logits (B, V) with those after each row alone, without a cache.

        Raises:
            Broken: they differ.
        """
        for number, row in enumerate(rows):
            # Without padding, cache or batch: the definition itself.
            wanted = model(torch.tensor([row[-model.context_length :]]))[0, -1]
            what = f"{where}, row {number} (of {len(row)} tokens) has different logits than alone"
            must_agree(found[number], wanted, self.tolerance, what)


def _cache_of(model: LanguageModel) -> Cache:
    """An empty cache of `model`.

    Raises:
        NotApplicable: it has none.
    """
    cache = model.new_cache()
    if cache is None:
        raise NotApplicable(NO_CACHE)
    if cache.length != 0:
        raise Broken(f"new_cache returns one that has {cache.length} tokens in it")
    return cache
