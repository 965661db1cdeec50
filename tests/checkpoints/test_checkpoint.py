import os
import pickle

import pytest
import safetensors.torch
import torch

from firstlight.checkpoints.checkpoint import Checkpoint, load_weights
from firstlight.checkpoints.manifest import MANIFEST, TRAINING_STATE, WEIGHTS, Manifest, StoredFile
from firstlight.checkpoints.model_file import save_model_file
from firstlight.data.tokenizers.bpe import BPETokenizer
from firstlight.errors import ConfigError
from firstlight.sources import find_checkpoint, load_checkpoint

SIZES = {
    "vocab_size": 300,
    "context_length": 8,
    "emb_dim": 12,
    "n_heads": 3,
    "n_layers": 2,
    "drop_rate": 0.0,
}
IDS = torch.arange(16).view(2, 8)


def config_of(**changes):
    return {
        "model": {"_target_": "firstlight.model.gpt.GPT", "_partial_": True, **SIZES, **changes}
    }


@pytest.fixture
def tokenizer():
    fitted = BPETokenizer(vocab_size=300)
    fitted.fit(["the lamp and the fog " * 9])
    return fitted


@pytest.fixture
def saved(tiny_gpt, tokenizer, tmp_path):
    """A factory: a saved model, and the model itself; `change` spoils its config or weights before
    they are saved.
    """

    def save(change=lambda config, weights: None, **changes):
        model, file = tiny_gpt(**(SIZES | changes)), tmp_path / "model.safetensors"
        config, weights = config_of(**changes), model.state_dict()
        change(config, weights)
        save_model_file(weights, file, config=config, tokenizer=tokenizer.state_dict())
        return file, model

    return save


def refusal(file):
    with pytest.raises(ConfigError) as caught:
        load_checkpoint(file).build_model()
    message = str(caught.value)
    assert message.startswith(f"{file}: ")
    assert "\n" not in message
    return message


@pytest.mark.parametrize("changes", [{}, {"tie_weights": True}, {"qkv_bias": True}], ids=str)
def test_a_saved_model_comes_back_with_its_tokenizer(saved, tokenizer, changes):
    file, model = saved(**changes)
    checkpoint = load_checkpoint(file)
    loaded = checkpoint.build_model()
    assert torch.equal(loaded(IDS), model(IDS))
    assert not loaded.training
    assert checkpoint.build_tokenizer().encode("the lamp, 日本") == tokenizer.encode(
        "the lamp, 日本"
    )
    assert checkpoint.step is None


def test_tied_weights_are_still_one_parameter_after_loading(saved):
    file, model = saved(tie_weights=True)
    loaded = load_checkpoint(file).build_model()
    assert loaded.output_weight.data_ptr() == loaded.tok_emb.weight.data_ptr()
    assert loaded.n_parameters == model.n_parameters


def test_tied_weights_are_written_once(saved):
    file, _ = saved(tie_weights=True)
    names = safetensors.torch.load_file(file).keys()
    assert len({"tok_emb.weight", "out_head.weight"} & names) == 1


def test_saving_leaves_one_file(saved):
    file, _ = saved()
    assert list(file.parent.iterdir()) == [file]


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[: len(content) // 2],
        lambda content: content[:-1],
        lambda content: content[:100],
        lambda content: b"",
        lambda content: bytes(range(256)) * 40,
        lambda content: b"Once upon a time there was no checkpoint here.\n" * 20,
    ],
    ids=["half", "a byte short", "100 bytes", "empty", "noise", "text"],
)
def test_a_damaged_file_is_refused_in_one_line(saved, suffix, damage):
    file, _ = saved()
    if suffix == ".pth":
        file = file.with_suffix(suffix)
        torch.save({"tok_emb.weight": torch.zeros(20, 20)}, file)
    file.write_bytes(damage(file.read_bytes()))
    assert "damaged" in refusal(file)


@pytest.mark.parametrize(
    "content", [[1, 2], {"weights": torch.zeros(2)}, torch.zeros(2)], ids=["list", "dict", "tensor"]
)
def test_other_plain_data_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "model.pth")
    refusal(tmp_path / "model.pth")


def test_weights_that_somebody_else_saved_are_refused(tmp_path):
    safetensors.torch.save_file(
        {"tok_emb.weight": torch.zeros(2, 2)}, tmp_path / "model.safetensors"
    )
    assert "not weights that firstlight saved" in refusal(tmp_path / "model.safetensors")


def test_another_format_is_refused(saved, monkeypatch):
    monkeypatch.setattr("firstlight.checkpoints.model_file.FORMAT", 99)
    file, _ = saved()
    monkeypatch.undo()
    assert "format 99" in refusal(file)


class Malicious:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


def test_code_in_a_checkpoint_is_named_and_not_run(tmp_path):
    marker, file = tmp_path / "it ran", tmp_path / "model.pth"
    torch.save({"model_state_dict": Malicious(marker)}, file)
    assert "mkdir" in refusal(file)
    assert not marker.exists()


def test_code_in_a_bare_pickle_is_not_run(tmp_path):
    marker, file = tmp_path / "it ran", tmp_path / "model.pth"
    file.write_bytes(pickle.dumps({"model_state_dict": Malicious(marker)}))
    refusal(file)
    assert not marker.exists()


@pytest.mark.parametrize(
    "section",
    [
        {"_target_": "firstlight.config.os.mkdir", "path": "it ran"},
        {
            "_target_": "lightning.pytorch.LightningModule.load_from_checkpoint",
            "checkpoint_path": "malicious.pth",
            "weights_only": False,
        },
    ],
    ids=["what a module of ours imports", "what a library offers"],
)
def test_code_in_the_config_of_a_checkpoint_is_not_run(saved, tmp_path, monkeypatch, section):
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": Malicious("it ran")}, "malicious.pth")
    file, _ = saved(lambda config, weights: config.update(model=section))
    with pytest.raises(ConfigError):
        load_checkpoint(file).build_model()
    assert not (tmp_path / "it ran").exists()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(saved, value):
    file, _ = saved(lambda config, weights: weights["trf_blocks.1.norm2.bias"][3].fill_(value))
    assert "not finite" in refusal(file)


@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        ({"n_layers": 3}, r"it has no trf_blocks\.2\.att\.W_query\.weight"),
        ({"n_layers": 1}, r"trf_blocks\.1\.\S+ has no place"),
        ({"qkv_bias": True}, r"it has no trf_blocks\.0\.att\.W_query\.bias"),
        ({"context_length": 16}, r"pos_emb\.weight is \(8, 12\), the model's is \(16, 12\)$"),
        ({"emb_dim": 24}, r"\S+ is \(.*12.*\), the model's is \(.*24.*\) \(and \d+ more"),
    ],
    ids=str,
)
def test_the_weights_of_another_model_are_refused_with_the_first_difference(
    saved, tiny_gpt, changes, difference
):
    file, _ = saved()
    model = tiny_gpt(seed=1, **(SIZES | changes))
    before = model(IDS)
    with pytest.raises(ConfigError, match=difference):
        load_weights(model, load_checkpoint(file))
    assert torch.equal(model(IDS), before)


def test_weights_can_be_put_into_a_model_that_is_there_already(saved, tiny_gpt):
    file, saved_model = saved(tie_weights=True)
    model = tiny_gpt(seed=1, tie_weights=True, **SIZES)
    parameters = list(model.parameters())
    load_weights(model, load_checkpoint(file))
    assert torch.equal(model(IDS), saved_model(IDS))
    assert all(a is b for a, b in zip(model.parameters(), parameters, strict=True))


def test_tied_weights_fit_an_untied_model_only_with_both_matrices(saved, tiny_gpt):
    file, _ = saved(tie_weights=True)
    with pytest.raises(ConfigError, match=r"it has no (out_head|tok_emb)\.weight$"):
        load_weights(tiny_gpt(**SIZES), load_checkpoint(file))


@pytest.mark.parametrize(
    "model", [None, {}, 3, {"_target_": "os.mkdir", "path": "it_ran"}], ids=repr
)
def test_a_checkpoint_without_a_model_that_may_be_built_is_refused(tmp_path, model):
    checkpoint = Checkpoint(tmp_path / "x.ckpt", {}, {"model": model}, None, None)
    with pytest.raises(ConfigError, match=r"^model"):
        checkpoint.build_model()


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """Three runs below outputs/ with manifests alone, "new" the last one written to; only "old" was
    evaluated.
    """
    monkeypatch.chdir(tmp_path)
    stored = {name: StoredFile(bytes=0, sha256="0" * 64) for name in (WEIGHTS, TRAINING_STATE)}
    for age, name, scores in (
        (100, "old", (3, 1, 2)),
        (50, "new", (None,) * 11),
        (75, "middle", (None,)),
    ):
        for step, score in enumerate(scores, 1):
            folder = (
                tmp_path / "outputs" / "some experiment" / name / "checkpoints" / f"step_{step:08}"
            )
            folder.mkdir(parents=True)
            metrics = {} if score is None else {"val/loss": score}
            manifest = Manifest(
                format=2,
                step=step,
                tokens=0,
                monitor="val/loss",
                metrics=metrics,
                fingerprint={},
                files=stored,
            )
            (folder / MANIFEST).write_bytes(manifest.to_json())
            os.utime(folder / MANIFEST, (1e9 - age, 1e9 - age))
    return tmp_path / "outputs" / "some experiment"


def test_a_run_folder_means_its_best_checkpoint_or_else_its_last(runs):
    assert find_checkpoint(str(runs / "old")) == runs / "old/checkpoints/step_00000002"
    assert find_checkpoint(str(runs / "old"), best=False) == runs / "old/checkpoints/step_00000003"
    assert find_checkpoint(str(runs / "new")) == runs / "new/checkpoints/step_00000011"


def test_last_means_the_run_that_was_written_to_last(runs):
    assert find_checkpoint("last").resolve() == runs / "new/checkpoints/step_00000011"


@pytest.mark.parametrize(
    "name", ["old/checkpoints/step_00000001", "old/checkpoints/step_00000001/checkpoint.json"]
)
def test_a_checkpoint_or_a_file_means_itself(runs, name):
    assert find_checkpoint(str(runs / name)) == runs / name


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("https://example.com/model.pth", "download it first"),
        ("nowhere", r"checkpoint \(nowhere\): no such file or run folder"),
        (
            "outputs",
            r"checkpoint \(outputs\): a folder without a checkpoint \(checkpoints/step_\*\)",
        ),
    ],
)
@pytest.mark.usefixtures("runs")
def test_what_is_no_checkpoint_is_refused(name, message):
    with pytest.raises(ConfigError, match=message):
        find_checkpoint(name)


def test_last_is_refused_while_there_is_no_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="last: no run with a checkpoint found below outputs/"):
        find_checkpoint("last")
