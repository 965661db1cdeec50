"""The answers that lm-eval gets of a model: computed by hand, and by its own `HFLM` from the same
weights.
"""

import pytest
import torch

pytest.importorskip("lm_eval")

from lm_eval.api.instance import Instance
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from firstlight.data.tokenizers.bpe import BPETokenizer
from firstlight.data.tokenizers.bytes import BytesTokenizer
from firstlight.decoding.greedy import Greedy
from firstlight.decoding.sample import Sample
from firstlight.errors import ConfigError
from firstlight.foreign.gpt2 import to_gpt2
from firstlight.lm_eval.adapter import HarnessLM, decoding_of, windows

pytestmark = pytest.mark.cpu

CONTEXT = 16
END = 256
PAIRS = [
    ("The lamp", " is lit"),
    ("The lamp", "!"),
    ("", "fog"),
    ("", "."),
    ("The lamp ", "was out"),  # the space belongs to the continuation
    ("one<|endoftext|>two", " three"),
    ("all the ships came home before the fog did", " at last"),  # 16 tokens are cut on the left
    ("quay", "0123456789abcdef"),  # as long as the model's context
]
LONG = ("the quay", " was dark, and nobody on it knew why")
TEXTS = ["fog", "sixteen letters!", "and then some more than that: forty-six letters", ""]
QUESTIONS = ["The lamp", "fog", "", "one lamp", "ü", "all the ships came home before the fog did"]


@pytest.fixture
def tokenizer():
    tokenizer = BytesTokenizer()
    tokenizer.fit([])
    return tokenizer


@pytest.fixture
def model(tiny_gpt):
    return tiny_gpt(vocab_size=257, context_length=CONTEXT)


@pytest.fixture
def lm(model, tokenizer):
    return lambda batch_size=3: HarnessLM(model, tokenizer, batch_size=batch_size)


def asked(kind, *arguments):
    return [Instance(kind, {}, each, number) for number, each in enumerate(arguments)]


def ids_of(text):
    parts = text.split("<|endoftext|>")
    return [i for n, part in enumerate(parts) for i in [END] * (n > 0) + list(part.encode())]


def by_hand(model, context, continuation):
    """The log-likelihood of ids that fit into the context, one token after another, and whether
    each is the best.
    """
    total, greedy = 0.0, True
    for place, wanted in enumerate(continuation):
        before = (context + continuation[:place])[-(CONTEXT - (len(continuation) - 1 - place)) :]
        logits = model(torch.tensor([before]))[0, -1].double()
        total += logits.log_softmax(dim=-1)[wanted].item()
        greedy &= logits.argmax().item() == wanted
    return total, greedy


@torch.no_grad()
def test_log_likelihoods_are_sums_of_those_of_the_tokens(model, lm):
    found = lm().loglikelihood(asked("loglikelihood", *PAIRS), disable_tqdm=True)
    for (context, continuation), answer in zip(PAIRS, found, strict=True):
        spaces = context[len(context.rstrip()) :]
        expected = by_hand(model, ids_of(context.rstrip()) or [END], ids_of(spaces + continuation))
        assert answer[0] == pytest.approx(expected[0], abs=1e-4), (context, continuation)
        assert answer[1] == expected[1]


@torch.no_grad()
def test_what_the_model_would_say_itself_is_greedy(model, lm):
    ids = ids_of("fog")
    for _ in range(3):
        ids.append(model(torch.tensor([ids]))[0, -1].argmax().item())
    other = [*ids[3:5], (ids[5] + 1) % 256]
    requests = [(("fog", "?"), ids[:3], ids[3:]), (("fog", "?"), ids[:3], other)]
    assert [greedy for _, greedy in lm()._loglikelihood_tokens(requests)] == [True, False]


def test_neither_the_batch_nor_the_order_changes_a_log_likelihood(lm):
    requests = asked("loglikelihood", *PAIRS, LONG)
    alone = lm(1).loglikelihood(requests, disable_tqdm=True)
    together = lm(8).loglikelihood(requests[::-1], disable_tqdm=True)[::-1]
    assert [total for total, _ in alone] == pytest.approx(
        [total for total, _ in together], abs=1e-4
    )
    assert [greedy for _, greedy in alone] == [greedy for _, greedy in together]


@torch.no_grad()
def test_a_continuation_longer_than_the_context_is_scored_in_parts(model, lm):
    context, rest = map(ids_of, LONG)
    parts = [
        (context + rest[:16], rest[16:32]),
        (context + rest[:32], rest[32:]),
        (context, rest[:16]),
    ]
    expected = sum(by_hand(model, *part)[0] for part in parts)
    ((total, _),) = lm().loglikelihood(asked("loglikelihood", LONG), disable_tqdm=True)
    assert total == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("n_tokens", [1, 5, 16, 17, 32, 33, 100])
def test_rolling_windows_are_those_of_lm_eval(n_tokens):
    ids = list(range(n_tokens))
    theirs = get_rolling_token_windows(ids, prefix_token=END, max_seq_len=CONTEXT, context_len=1)
    pairs = [make_disjoint_window(window) for window in theirs]
    assert [(inputs, targets) for inputs, targets in windows([END], ids, CONTEXT)] == [
        ((before + targets)[:-1], targets) for before, targets in pairs
    ]


def test_answers_to_one_question_are_computed_once(model, lm):
    rows = []
    hidden = model.hidden
    model.hidden = lambda ids, cache=None: rows.append(len(ids)) or hidden(ids, cache)
    choices = [("Which lamp?", letter) for letter in "ABCD"]
    lm().loglikelihood(asked("loglikelihood", *choices), disable_tqdm=True)
    assert rows == [1]


def test_a_continuation_without_a_token_of_its_own_is_refused(tiny_gpt):
    tokenizer = BPETokenizer(vocab_size=300)
    tokenizer.fit(["the lamp and the fog " * 9])
    merged = next(
        pair
        for pair in (("la", "mp"), ("f", "og"), ("th", "e"))
        if len(tokenizer.encode("".join(pair))) == 1
    )
    lm = HarnessLM(tiny_gpt(vocab_size=300), tokenizer, batch_size=2)
    with pytest.raises(ConfigError, match="has no token of its own: begin it with a space"):
        lm.loglikelihood(asked("loglikelihood", merged), disable_tqdm=True)


@torch.no_grad()
def greedily(model, question, until, n_tokens):
    """A greedy answer, with everything computed afresh for each token."""
    kept = CONTEXT - n_tokens if n_tokens < CONTEXT else CONTEXT
    ids = (ids_of(question) or [END])[-kept:]
    new = []
    for _ in range(n_tokens):
        new.append(model(torch.tensor([ids[-CONTEXT:]]))[0, -1].argmax().item())
        ids.append(new[-1])
        if new[-1] == END:
            break
    data = bytes(i for i in new if i != END)
    ends = [data.index(stop.encode()) for stop in until if stop.encode() in data]
    return data[: min(ends, default=len(data))].decode(errors="replace")


@pytest.mark.parametrize("n_tokens", [4, 12, 16, 24])
@pytest.mark.parametrize("batch_size", [1, 4])
def test_answers_are_those_of_an_uncached_loop(model, lm, n_tokens, batch_size):
    free = greedily(model, "The lamp", [], n_tokens)
    until = [free[2], "\n"]
    requests = asked(
        "generate_until", *((q, {"until": until, "max_gen_toks": n_tokens}) for q in QUESTIONS)
    )
    expected = [greedily(model, question, until, n_tokens) for question in QUESTIONS]
    assert lm(batch_size).generate_until(requests) == expected
    assert expected[0] == free[: free.index(free[2])]


def test_settings_may_differ_between_requests_and_draws_do_not_depend_on_the_batch(lm):
    drawn = {"until": [], "max_gen_toks": 6, "do_sample": True, "temperature": 1.5, "top_k": 200}
    few, many = (
        {"until": "x", "max_gen_toks": 2},
        {"until": ["x"], "max_gen_toks": 6, "do_sample": False},
    )
    requests = asked(
        "generate_until", ("a", drawn), ("b", few), ("b", many), ("a", drawn), ("ccc", drawn)
    )
    found = lm(1).generate_until(requests)
    assert found == lm(8).generate_until(requests)
    assert found[2].startswith(found[1]) and found[0] != found[3]


def test_only_what_decoding_can_do_is_accepted():
    strategy = decoding_of({"do_sample": True, "temperature": 0.5, "top_p": 0.9, "until": ["\n"]})
    assert isinstance(strategy, Sample) and (strategy.temperature, strategy.top_p) == (0.5, 0.9)
    decoding_of({"num_beams": 1, "max_new_tokens": 5})
    with pytest.raises(ConfigError, match="num_beams is not available"):
        decoding_of({"num_beams": 3})


@pytest.fixture
def hflm(model):
    """lm-eval's own adapter, over transformers' GPT-2 with our weights and a tokenizer of bytes."""
    pytest.importorskip("accelerate")
    transformers = pytest.importorskip("transformers")
    from lm_eval.models.huggingface import HFLM
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    # GPT-2's characters for the bytes: printable ones are themselves, the others follow from U+0100
    # on.
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [i for i in range(256) if i not in shown]
    vocabulary = {chr(i): i for i in shown} | {chr(256 + n): i for n, i in enumerate(hidden)}
    fast = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    fast.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    fast.decoder = decoders.ByteLevel()
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=fast,
        eos_token="<|endoftext|>",
        bos_token="<|endoftext|>",
        clean_up_tokenization_spaces=False,
    )
    sizes = {"n_positions": CONTEXT, "n_embd": 12, "n_head": 3, "n_layer": 2}
    config = transformers.GPT2Config(vocab_size=257, bos_token_id=END, eos_token_id=END, **sizes)
    config.tie_word_embeddings = False
    theirs = transformers.GPT2LMHeadModel(config).eval()
    theirs.load_state_dict(to_gpt2(model.state_dict(), n_layers=2))
    return HFLM(pretrained=theirs, tokenizer=tokenizer, batch_size=3)


def test_answers_are_those_of_lm_evals_own_adapter(hflm, lm):
    ours = lm()
    assert ours.tok_encode("ü<|endoftext|>x y") == hflm.tok_encode("ü<|endoftext|>x y")
    for kind, requests in {
        "loglikelihood": asked("loglikelihood", *PAIRS),
        "loglikelihood_rolling": asked("loglikelihood_rolling", *((text,) for text in TEXTS)),
    }.items():
        found = getattr(ours, kind)(requests, disable_tqdm=True)
        expected = getattr(hflm, kind)(requests, disable_tqdm=True)
        assert torch.tensor(found, dtype=torch.double).allclose(
            torch.tensor(expected, dtype=torch.double), atol=1e-3
        )
    settings = {"until": ["a", "\n"], "max_gen_toks": 10}
    requests = asked(
        "generate_until", *((question, settings) for question in QUESTIONS if question)
    )
    assert ours.generate_until(requests) == hflm.generate_until(requests, disable_tqdm=True)


def test_an_answer_has_no_id_that_stands_for_no_token(tiny_gpt, tokenizer):
    padded = tiny_gpt(vocab_size=300, context_length=CONTEXT)
    padded.output_weight.data[257:] *= 100  # what is chosen, if it may be
    settings = {"until": [], "max_gen_toks": 12}
    [free] = Greedy().generate(padded, [tokenizer.encode("fog")], max_new_tokens=12)
    assert max(free[0].ids) > 256
    [answer] = HarnessLM(padded, tokenizer, batch_size=1).generate_until(
        asked("generate_until", ("fog", settings))
    )
    unused = tokenizer.without_token(300)
    [bound] = Greedy().generate(
        padded, [tokenizer.encode("fog")], max_new_tokens=12, eos_id=END, unused=unused
    )
    assert answer == tokenizer.text_bytes(bound[0].ids).decode("utf-8", errors="replace")
