"""Ids of a model that stand for no token of its tokenizer are never chosen, and change nothing
where there are none.
"""

import functools
import json
from pathlib import Path

import pytest
import tiktoken
import torch

from firstlight.cli import main
from firstlight.data.tokenizers.base import END_OF_TEXT, StoredTokenizer, Tokenizer
from firstlight.data.tokenizers.bpe import BPETokenizer
from firstlight.data.tokenizers.bytes import BytesTokenizer
from firstlight.decoding.beam import BeamSearch
from firstlight.decoding.context import Context
from firstlight.decoding.prompt_lookup import PromptLookup
from firstlight.decoding.sample import Sample
from firstlight.decoding.stepwise import gather

UNUSED = torch.tensor([False] * 12 + [True] * 18 + [False])
"""Of 31 ids; the last one stands for a token."""


@pytest.mark.parametrize("prompt_lookup", [None, 4])
def test_no_strategy_chooses_an_id_without_a_token_and_logprobs_stay_the_models_own(
    tiny_gpt, strategy, uncached, prompt_lookup
):
    model, make = tiny_gpt(), Context
    if prompt_lookup is not None:
        make = functools.partial(PromptLookup, max_guesses=prompt_lookup)
    stream = functools.partial(
        strategy.stream, model, [[1, 2, 1, 2]], max_new_tokens=30, make_context=make
    )
    free, bound = (gather(stream(unused=unused), 1, 1)[0][0] for unused in (None, UNUSED))
    assert any(UNUSED[i] for i in free.ids) and not any(UNUSED[i] for i in bound.ids)
    ids = [1, 2, 1, 2]
    for token, logprob in zip(bound.ids, bound.logprobs, strict=True):
        logits = model(torch.tensor([ids[-model.context_length :]]))[0, -1]
        assert logprob == pytest.approx(float(logits.log_softmax(dim=-1)[token].detach()), abs=1e-5)
        ids.append(token)


def test_beam_search_ranks_tokens_alone_by_the_models_own_logprobs(tiny_gpt):
    model = tiny_gpt()
    found = BeamSearch(n_beams=4).generate(
        model, [[1], [5, 2]], max_new_tokens=8, num_samples=4, unused=UNUSED
    )
    rows = [row for rows in found for row in rows]
    assert len(rows) == 8 and not any(UNUSED[i] for row in rows for i in row.ids)
    best = found[0][0]
    logprobs = model(torch.tensor([[1, *best.ids[:7]]]))[0].log_softmax(dim=-1).detach()
    assert best.logprobs[:7] == pytest.approx(
        [float(logprobs[n, i]) for n, i in enumerate(best.ids[:7])], abs=1e-5
    )
    plain = BeamSearch(n_beams=13).generate(
        model, [[1]], max_new_tokens=2, num_samples=13, unused=UNUSED
    )
    assert len({tuple(row.ids) for row in plain[0]}) == 13  # as many beams as there are tokens


class Padded(Tokenizer):
    """Bytes, with `<|endoftext|>` far behind them."""

    vocab_size = 320

    def build(self, documents):
        ranks = {bytes([i]): i for i in range(256)}
        return tiktoken.Encoding(
            "padded", pat_str=r"[\s\S]", mergeable_ranks=ranks, special_tokens={END_OF_TEXT: 300}
        )


def ids_without(tokenizer, n_ids):
    unused = tokenizer.without_token(n_ids)
    return [] if unused is None else unused.nonzero()[:, 0].tolist()


def test_a_tokenizer_knows_the_ids_without_a_token_padded_short_or_with_gaps():
    bytes_, short, padded = BytesTokenizer(), BPETokenizer(vocab_size=2048), Padded()
    for tokenizer in (bytes_, short, padded):
        tokenizer.fit(["the lamp, the lamp, the lamp"])
    assert bytes_.without_token(257) is None and ids_without(bytes_, 260) == [257, 258, 259]
    n_ids = short.encoding.n_vocab
    assert n_ids < 300 and ids_without(short, 2048) == list(range(n_ids, 2048))
    assert ids_without(padded, 304) == [*range(256, 300), 301, 302, 303]


def test_a_vocabulary_with_a_gap_is_stored_and_read_again():
    padded = Padded()
    padded.fit([])
    stored = StoredTokenizer(padded.state_dict())
    assert stored.end_of_text == 300 and ids_without(stored, 320) == ids_without(padded, 320)
    assert stored.decode([72, 105, 299]) == "Hi\ufffd" and stored.encode("Hi") == [72, 105]
    assert stored.byte_lengths.tolist() == padded.byte_lengths.tolist() == [1] * 256 + [0] * 64


def test_a_full_vocabulary_draws_what_it_drew(tiny_gpt):
    settings = {"max_new_tokens": 20, "seeds": [7]}
    none = torch.zeros(31, dtype=torch.bool)
    for unused in (None, none):
        [[row]] = Sample(temperature=1.3, top_p=0.9).generate(
            tiny_gpt(), [[1]], unused=unused, **settings
        )
        [[plain]] = Sample(temperature=1.3, top_p=0.9).generate(tiny_gpt(), [[1]], **settings)
        assert row == plain


@pytest.fixture
def short_run(tmp_path, monkeypatch, capsys):
    """A run whose text is too short for its vocabulary of 2,048 ids, what it said, and the ids of
    its samples.
    """
    monkeypatch.chdir(tmp_path)
    sampled = []
    decode = Tokenizer.decode_document
    monkeypatch.setattr(
        Tokenizer, "decode_document", lambda self, ids: sampled.append(ids) or decode(self, ids)
    )
    Path("text.txt").write_text("the lamp was lit again and nobody in the harbour knew. " * 40)
    sizes = ["model.n_layers=1", "model.emb_dim=16", "model.n_heads=2", "model.context_length=16"]
    lengths = [
        "trainer.max_steps=2",
        "trainer.eval_every_n_steps=1",
        "scheduler=constant",
        "data.batch_size=4",
    ]
    sample = [
        "callbacks.sample_generation.decoding.top_k=null",
        "callbacks.sample_generation.max_new_tokens=20",
    ]
    rest = [
        "trainer.accelerator=cpu",
        "callbacks.throughput.peak_flops=1e9",
        "~callbacks.plots",
        "output_dir=run",
    ]
    assert main(["train", "data=text", "data.path=text.txt", *sizes, *lengths, *sample, *rest]) == 0
    return "run", capsys.readouterr().err, sampled


def test_a_run_says_that_its_text_is_too_short_and_neither_samples_nor_generate_show_ids_without_text(
    short_run, capsys
):
    run, said, sampled = short_run
    assert said.count("the text is too short for tokenizer.vocab_size=2048") == 1
    n_ids = int(said.partition(" ids were learned")[0].rpartition(" ")[2])
    assert len(sampled) == 3 and max(i for ids in sampled for i in ids) < n_ids
    for words in (
        ["decoding.temperature=5", "decoding.top_k=null"],
        ["decoding.temperature=5", "decoding.top_k=null", "prompt_lookup=4"],
        ["decoding=greedy"],
        ["decoding=beam"],
    ):
        command = [
            "generate",
            f"checkpoint={run}",
            "prompt=the lamp",
            "max_new_tokens=30",
            "accelerator=cpu",
        ]
        assert main([*command, "format=jsonl", "logprobs=true", *words]) == 0
        row = json.loads(capsys.readouterr().out)
        assert row["ids"] and max(row["ids"]) < n_ids
