"""A language model in Python gives what `firstlight generate` and `evaluate` give."""

import json

import pytest
import torch

import firstlight
from firstlight.cli import main

NO_TEST = ("data=lamplighters", "data.test_ratio=0")


@pytest.fixture(scope="module")
def model(trained) -> firstlight.LanguageModel:
    return firstlight.load(trained)


def typed(capsys, *words: str) -> str:
    """What a command prints."""
    capsys.readouterr()
    assert main(list(words)) == 0
    return capsys.readouterr().out


def test_a_text_is_the_one_of_the_command_line(model, trained, capsys):
    words = ["generate", f"checkpoint={trained.folder}", "prompt=The lamp", "max_new_tokens=24"]
    settings = {"max_new_tokens": 24, "seed": 7, "decoding": {"temperature": 1.5}}
    text = model.generate("The lamp", **settings)
    assert isinstance(text, str)
    assert typed(capsys, *words, "seed=7", "decoding.temperature=1.5") == f"{text}\n"
    assert text == text.prompt + text.continuation and text.prompt == "The lamp"
    assert len(text.ids) == len(text.logprobs) == 24 and text.finish_reason == "length"
    assert "".join(model.stream("The lamp", **settings)) == text


def test_it_shows_its_sizes_and_help_begins_with_what_it_can_do(model, trained):
    shown, module = repr(model), model.model
    assert shown.startswith(f"LanguageModel(GPT, {module.n_parameters:,} parameters, ")
    assert f"{module.vocab_size:,} ids, context {module.context_length}, float32 on cpu" in shown
    assert str(trained.folder) in shown
    own = firstlight.LanguageModel(module, model.tokenizer)
    assert repr(own).endswith("float32 on cpu)")
    words = firstlight.LanguageModel.__doc__
    public = [name for name in vars(firstlight.LanguageModel) if not name.startswith("_")]
    assert all(f"model.{name}" in words for name in [*public, "tokenizer", "model"])


def test_each_decoding_and_its_settings(model, trained, capsys):
    for words in (["decoding=greedy"], ["decoding=beam", "decoding.n_beams=3"]):
        text = model.generate("The", *words, max_new_tokens=5)
        command = ["generate", f"checkpoint={trained.folder}", "prompt=The", "max_new_tokens=5"]
        assert typed(capsys, *command, *words) == f"{text}\n"
    assert text.score is not None
    assert text == model.generate(
        "The", decoding="beam", max_new_tokens=5, **{"decoding.n_beams": 3}
    )
    guessed = model.generate("The", decoding="greedy", max_new_tokens=5, prompt_lookup=4)
    assert guessed == model.generate("The", decoding="greedy", max_new_tokens=5)


def test_lists_of_prompts_and_several_samples(model):
    one, two = model.generate(["The", "A lamp"], max_new_tokens=4)
    assert (one.prompt, two.prompt) == ("The", "A lamp")
    assert model.generate("The", max_new_tokens=4) == one
    samples = model.generate("The", num_samples=3, max_new_tokens=4)
    assert samples[0] == one and len(set(samples)) > 1
    by_prompt = model.generate(("The", "A lamp"), num_samples=2, max_new_tokens=4)
    assert [[text.prompt for text in row] for row in by_prompt] == [["The"] * 2, ["A lamp"] * 2]
    assert by_prompt[0] == samples[:2]


def test_a_text_ends_where_it_is_told(model):
    settings = {"max_new_tokens": 40, "decoding": {"temperature": 1.0, "top_k": None}}
    text = model.generate("The", **settings)
    stop = next(c for c in text.continuation if c.isascii() and c.isprintable())
    ended = model.generate("The", stop=["never there \\n", stop], **settings)
    assert ended.finish_reason == "stop"
    assert ended.continuation == text.continuation[: text.continuation.index(stop)]


def test_the_loss_of_a_text_is_that_of_an_evaluation(model, trained, tmp_path, capsys):
    text = "The lamp was lit, and the lamp went out; nobody had seen who did it. " * 3
    (tmp_path / "text.txt").write_text(text)
    words = ["evaluate", "format=json", f"checkpoint={trained.folder}", "data=text", "split=all"]
    found = json.loads(typed(capsys, *words, f"data.path={tmp_path / 'text.txt'}"))
    assert model.loss(text) == pytest.approx(found["all/loss"], rel=1e-6)
    evaluated = firstlight.evaluate(
        trained, data="text", split="all", **{"data.path": tmp_path / "text.txt"}
    )
    assert evaluated == found
    assert firstlight.evaluate(trained)["val/loss"] == pytest.approx(
        json.loads(typed(capsys, "evaluate", "format=json", f"checkpoint={trained.folder}"))[
            "val/loss"
        ]
    )


def test_logits_and_log_probabilities(model):
    ids = model.tokenizer.encode("The lamp")
    logits = model.logits("The lamp")
    assert logits.shape == (8, 257) and torch.equal(logits, model.logits(ids))
    logprobs = model.logprobs("The lamp")
    expected = logits.log_softmax(-1)[range(7), ids[1:]]
    torch.testing.assert_close(logprobs, expected)
    assert model.loss("The lamp") == pytest.approx(-float(logprobs.mean()))
    long = "The lamp " * 10  # longer than the context of 16
    assert len(model.logprobs(long)) == len(long) - 1
    torch.testing.assert_close(model.logprobs(long)[:16], model.logprobs(long[:17]))


def test_the_model_is_a_module_whose_present_weights_count(trained):
    model = firstlight.load(trained)
    before = model.generate("The", decoding="greedy", max_new_tokens=3)
    assert isinstance(model.model, torch.nn.Module) and not model.model.training
    assert all(parameter.requires_grad for parameter in model.model.parameters())
    loss = model.model(torch.tensor([[1, 2, 3]])).sum()
    loss.backward()
    with torch.no_grad():
        for parameter in model.model.parameters():
            parameter.neg_()
        model.model.tok_emb.weight[65] = 5.0  # type: ignore[union-attr, operator, index]
    assert model.generate("The", decoding="greedy", max_new_tokens=3) != before
    own = firstlight.LanguageModel(model.model.train(), model.tokenizer)
    assert own.generate("The", max_new_tokens=3) == model.generate("The", max_new_tokens=3)
    assert own.model.training


@pytest.mark.parametrize("precision", ["bf16-true", "int8"])
def test_other_precisions(trained, precision, capsys):
    model = firstlight.load(trained, precision=precision, accelerator="cpu")
    words = ["generate", f"checkpoint={trained.folder}", "prompt=The", "max_new_tokens=5"]
    printed = typed(capsys, *words, f"precision={precision}", "accelerator=cpu")
    assert printed == f"{model.generate('The', max_new_tokens=5)}\n"
    assert model.loss("The lamp") == pytest.approx(
        firstlight.load(trained).loss("The lamp"), rel=0.05
    )


def test_it_is_loaded_from_wherever_a_checkpoint_is(trained, tmp_path, monkeypatch, model):
    out = firstlight.export(trained, tmp_path / "hf")
    assert out == tmp_path / "hf"
    loss = model.loss("The lamp")
    for source in (str(trained.folder), trained.folder, f"hf:{out}", out, model.path):
        assert firstlight.load(source).loss("The lamp") == pytest.approx(loss, rel=1e-5)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "outputs").mkdir()
    trained_here = tmp_path / "outputs" / "run"
    __import__("shutil").copytree(trained.folder, trained_here)
    assert firstlight.load("last").path.is_relative_to("outputs/run")
    assert firstlight.load("last", best=False).path.name == "step_00000004"


MISTAKES = {
    "decoding.temperature": ({"temperature": 0.5}, "^temperature: .*decoding.temp"),
    "decoding": ({"decoding": "beem"}, "^decoding=beem: .*beam"),
    "range": ({"max_new_tokens": 0}, "^max_new_tokens: expected int > 0"),
    "samples": ({"num_samples": 0}, "^num_samples: expected int > 0"),
    "greedy samples": ({"num_samples": 2, "decoding": "greedy"}, "^decoding: num_samples"),
    "stream": ({"stream": True}, r"^stream: firstlight\.LanguageModel\.stream"),
    "precision": ({"precision": "int8"}, r"^precision: it is an argument of firstlight\.load"),
    "lookup": ({"lookup_text": "a.txt"}, "^lookup_text"),
}


@pytest.mark.parametrize(("settings", "message"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_in_the_settings_names_the_argument(model, settings, message):
    with pytest.raises(firstlight.Error, match=message) as told:
        model.generate("The", **settings)
    assert "\n" not in str(told.value)


def test_what_cannot_be_continued_or_measured_is_refused(model, trained, tmp_path):
    for call, message in (
        (lambda: model.generate(""), "^prompt"),
        (lambda: model.generate([]), "^prompt: the list is empty"),
        (lambda: model.generate(["The", 3]), "^prompt: 3: give a text"),
        (lambda: model.generate("The lamp " * 9), "^prompt .* 81 tokens"),
        (lambda: model.generate("<|endoftext|>"), "^prompt .*special_tokens=true"),
        (lambda: model.stream(["The"]), "stream continues one text"),
        (lambda: model.stream("The", decoding="beam"), "^stream=true "),
        (lambda: model.logits("The lamp " * 9), "^text: it has 81 tokens, more than"),
        (lambda: model.logits([300]), "^text: the id 300 is not below 257"),
        (lambda: model.loss("T"), "^text: it has 1 token, and 2 are needed"),
        (lambda: model.loss("<|endoftext|>"), "^text .*special_tokens=true"),
        (lambda: firstlight.load("nowhere"), r"^source \(nowhere\): "),
        (lambda: firstlight.load(trained, precision="8"), "^precision: expected '32-true'"),
        (lambda: firstlight.load(trained, accelerator="tpu"), r"^accelerator \(tpu\)"),
        (lambda: firstlight.export(trained, trained.folder), "^out"),
        (lambda: firstlight.evaluate(trained, *NO_TEST, split="test"), "^data: "),
    ):
        with pytest.raises(firstlight.Error, match=message):
            pytest.fail(f"{message}: {call()}")
    ids = model.tokenizer.encode("<|endoftext|>", special_tokens=True)
    assert len(ids) == 1 and model.generate("<|endoftext|>", special_tokens=True, max_new_tokens=1)
