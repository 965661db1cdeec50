"""What each metric is, against a plain computation from all logits of a text."""

import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from scripted import Miscounting

from firstlight.compose.compose import compose_config
from firstlight.conf_files import conf_dir
from firstlight.config import to_plain
from firstlight.errors import ConfigError
from firstlight.loss import fused
from firstlight.metrics.base import Mean, Scored
from firstlight.metrics.bits_per_byte import BitsPerByte
from firstlight.metrics.measured import check_name, columns, measured, metrics_of, values_of
from firstlight.metrics.parts import LossOfRange
from firstlight.metrics.perplexity import Perplexity, perplexity_text
from firstlight.metrics.top1_accuracy import Top1Accuracy
from firstlight.metrics.top_k_accuracy import TopKAccuracy
from firstlight.model.int8 import quantize_int8
from firstlight.training import evaluation
from firstlight.training.evaluation import EvaluationModule
from firstlight.training.measuring import evaluation_trainer

ALL = {
    "perplexity": Perplexity(),
    "bits_per_byte": BitsPerByte(),
    "top1_accuracy": Top1Accuracy(),
    "top3_accuracy": TopKAccuracy(k=3),
}


def plain(model, data) -> dict[str, float]:
    """Loss and accuracy on all of validation, window by window."""
    losses, hits, hits_of_3 = [], [], []
    ids, length = torch.as_tensor(data.ids["val"]).long(), data.context_length
    for start in range(0, len(ids) - 1, length):
        inputs = ids[start : start + length][: len(ids) - 1 - start]
        targets = ids[start + 1 : start + 1 + len(inputs)]
        logits = model(inputs[None])[0].float()
        losses.append(F.cross_entropy(logits, targets, reduction="none").double())
        hits.append(logits.argmax(dim=1) == targets)
        hits_of_3.append((logits.topk(3).indices == targets[:, None]).any(dim=1))
    return {
        "loss": float(torch.cat(losses).mean()),
        "top1_accuracy": float(torch.cat(hits).double().mean()),
        "top3_accuracy": float(torch.cat(hits_of_3).double().mean()),
    }


def learn(model, data) -> None:
    """Train until some predictions are right, and others are not."""
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(4):
        inputs, targets = data.windows["train"][torch.arange(16)]
        F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten()).backward()
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.parametrize("precision", ["32-true", "int8"])
@pytest.mark.parametrize(
    "at_once", [1, 3, None], ids=["window by window", "in parts of 3", "whole"]
)
def test_every_token_of_validation_counts_once_however_they_are_cut(
    tiny_model, tiny_data, monkeypatch, precision, at_once
):
    model = tiny_model(vocab_size=257)
    data = tiny_data(batch_size=4, eval_last_window=True)  # the last window is shorter
    data.setup()
    assert len(data.windows["val"]) > 4 and data.windows["val"].n_rest > 0
    learn(model, data)
    if precision == "int8":
        model = quantize_int8(model.fused())
    monkeypatch.setattr(evaluation, "ROWS", 5)  # chunks that end within a window
    monkeypatch.setattr(fused, "ROWS", 5)
    module = EvaluationModule(model, data.tokenizer.byte_lengths, measured(ALL))
    if at_once is not None:
        monkeypatch.setattr(
            module,
            "parts",
            lambda batch: list(zip(*(part.split(at_once) for part in batch), strict=True)),
        )
    evaluation_trainer("cpu", precision).validate(
        module, dataloaders=data.eval_batches_of("val"), verbose=False
    )
    with torch.no_grad():
        expected = plain(model, data)
    found = module.metrics
    assert list(found) == ["val/loss", *(f"val/{name}" for name in ALL)]
    assert found["val/loss"] == pytest.approx(
        expected["loss"], rel=1e-2 if precision == "int8" else 1e-6
    )
    few = (
        2 / len(data.ids["val"]) if precision == "int8" else 1e-9
    )  # in bfloat16 two ids may be nearly as probable
    assert found["val/top1_accuracy"] == pytest.approx(expected["top1_accuracy"], abs=few)
    assert found["val/top3_accuracy"] == pytest.approx(expected["top3_accuracy"], abs=few)
    assert 0 < found["val/top1_accuracy"] < found["val/top3_accuracy"] < 1
    assert found["val/perplexity"] == math.exp(found["val/loss"])
    assert found["val/bits_per_byte"] == pytest.approx(
        found["val/loss"] / math.log(2)
    )  # bytes are tokens


class LateLoss(Mean):
    """The loss of the targets in the last half of each window."""

    name, direction, text = "late_loss", "min", "loss in the last half of each window"

    def sums(self, scored: Scored) -> list[float]:
        late = scored.losses.view(-1, scored.window_length)[:, scored.window_length // 2 :]
        return [float(late.sum()), late.numel()]


def test_a_metric_knows_the_windows_of_its_tokens_even_of_the_shorter_last_one(
    tiny_model, tiny_data
):
    model, data = tiny_model(vocab_size=257), tiny_data(batch_size=4, eval_last_window=True)
    data.setup()
    ids, length = torch.as_tensor(data.ids["val"]).long(), data.context_length
    assert 1 < (len(ids) - 1) % length < length
    module = EvaluationModule(model, data.tokenizer.byte_lengths, measured({"late": LateLoss()}))
    evaluation_trainer("cpu", "32-true").validate(
        module, dataloaders=data.eval_batches_of("val"), verbose=False
    )
    late = []
    for start in range(0, len(ids) - 1, length):
        targets = ids[start + 1 : start + 1 + length]
        with torch.no_grad():
            logits = model(ids[None, start : start + len(targets)])[0].float()
        losses = F.cross_entropy(logits, targets, reduction="none").double()
        late.append(losses[len(targets) // 2 :])
    assert module.metrics["val/late_loss"] == pytest.approx(float(torch.cat(late).mean()), rel=1e-6)
    assert module.metrics["val/late_loss"] != pytest.approx(module.metrics["val/loss"], rel=1e-4)


def test_predictions_and_ranks_are_computed_only_if_a_metric_asks(tiny_gpt, tiny_data):
    model, data = tiny_gpt(vocab_size=257), tiny_data()
    data.setup()
    module, asked = EvaluationModule(model, data.tokenizer.byte_lengths), []
    module._predictions = module._ranks = lambda *_: asked.append(1)
    batch = next(iter(data.eval_batches_of("val")))
    with torch.no_grad():
        for metric in measured(None):
            assert len(metric.sums(module.scored(batch))) == metric.n_sums
    assert not asked


def test_the_loss_is_always_there_and_bits_per_byte_where_there_are_bytes():
    assert list(values_of(measured({}), [6.0, 3.0])) == ["loss"]
    assert values_of(measured(None), [6.0, 3.0, 6.0, 3.0, 6.0, 0.0]) == {
        "loss": 2.0,
        "perplexity": math.exp(2.0),
    }


def test_windows_are_parts_of_a_batch(tiny_gpt, tiny_data):
    model, data = tiny_gpt(vocab_size=257), tiny_data()
    data.setup()
    with torch.no_grad():
        scored = EvaluationModule(model, data.tokenizer.byte_lengths).scored(
            next(iter(data.eval_batches_of("val")))
        )
    parts = list(scored.windows())
    assert len(parts) == 2
    for metric in measured(ALL):
        summed = [sum(numbers) for numbers in zip(*map(metric.sums, parts), strict=True)]
        assert summed == pytest.approx(metric.sums(scored))


@pytest.mark.parametrize(
    "option", sorted(file.stem for file in Path(conf_dir(), "metrics").glob("*.yaml"))
)
def test_a_metric_of_conf_keeps_the_contract(option, tiny_gpt, tiny_data):
    model, data = tiny_gpt(vocab_size=257), tiny_data()
    data.setup()
    section = to_plain(compose_config("train", [f"metrics=[{option}]"]))["metrics"]
    metrics = metrics_of({"metrics": section})
    with torch.no_grad():
        scored = EvaluationModule(model, data.tokenizer.byte_lengths, metrics).scored(
            next(iter(data.eval_batches_of("val")))
        )
        for metric in metrics:
            assert metric.name.isidentifier() and metric.text and metric.direction in ("min", "max")
            sums = metric.sums(scored)
            assert len(sums) == metric.n_sums and all(isinstance(x, int | float) for x in sums)
            by_window = zip(*map(metric.sums, scored.windows()), strict=True)
            assert [sum(numbers) for numbers in by_window] == pytest.approx(sums)
            has_no_token = isinstance(metric, LossOfRange) and sums == [0.0, 0.0]
            assert isinstance(metric.value(sums), float) != has_no_token


@pytest.mark.parametrize("attribute", ["name", "direction", "text"])
def test_a_metric_that_does_not_say_what_it_is_is_refused(attribute):
    class Half(Mean):
        def sums(self, scored: Scored) -> list[float]:
            return [1.0, 2.0]

    for other in {"name", "direction", "text"} - {attribute}:
        setattr(Half, other, "min")
    with pytest.raises(ConfigError, match=f"metrics: Half has no '{attribute}'"):
        measured({"half": Half()})


def test_a_metric_that_returns_other_sums_than_it_says_is_named(tiny_gpt, tiny_data):
    data = tiny_data()
    data.setup()
    metrics = measured({"a": Miscounting(values=[1.0], direction="min")})
    module = EvaluationModule(tiny_gpt(vocab_size=257), data.tokenizer.byte_lengths, metrics)
    with pytest.raises(
        ValueError, match=r"metric scripted: sums\(\) returned 1 numbers, but n_sums is 0"
    ):
        evaluation_trainer("cpu", "32-true").validate(
            module, dataloaders=data.eval_batches_of("val"), verbose=False
        )


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ("all", "expected a section"),
        ({"a": {"_target_": "firstlight.loss.cross_entropy.CrossEntropy"}}, "is not a Metric"),
        ({"a": {"_target_": "os.system"}}, "metrics.a._target_"),
        (
            {"a": {"_target_": "firstlight.metrics.base.Mean"}},
            "is abstract; name one of its subclasses",
        ),
        ({"a": 3}, "metrics.a: expected a section"),
        (
            {key: {"_target_": "firstlight.metrics.perplexity.Perplexity"} for key in "ab"},
            "two are named perplexity",
        ),
    ],
)
def test_a_stored_config_builds_metrics_and_nothing_else(section, said):
    with pytest.raises(ConfigError) as caught:
        metrics_of({"metrics": section})
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_a_wrong_name_is_refused_with_the_likely_one_and_all_there_are():
    with pytest.raises(ConfigError) as caught:
        check_name("sweep.objectives", "val/perplexty", columns(measured(ALL)))
    said = str(caught.value)
    assert "sweep.objectives (val/perplexty)" in said and "did you mean 'val/perplexity'?" in said
    assert all(f"{split}/{name}" in said for split in ("train", "val") for name in ("loss", *ALL))


@pytest.mark.parametrize(
    ("loss", "text"),
    [(0.0, "1.0"), (7.6466829, "2,093.7"), (47.7, "5.2e+20"), (1e4, "inf")],
)
def test_a_perplexity_fits_into_its_column_whatever_it_is(loss, text):
    assert perplexity_text(loss) == text and len(text) <= 11
