"""Wrong, odd and right settings of a composed config, as they would be typed: `key=value`,
`+key=value`, `~key`.
"""

from collections.abc import Iterator
from typing import Any

from hypothesis import strategies as st
from omegaconf import DictConfig, OmegaConf

INTEGERS = (
    0,
    -1,
    1,
    2,
    3,
    7,
    15,
    16,
    17,
    64,
    256,
    257,
    1000,
    10**6,
    2**31 - 1,
    2**31,
    2**32,
    2**63 - 1,
    2**63,
    10**30,
)
FLOATS = (
    "0.0", "-0.0", "0.5", "1.0", "-1.5", "0.999999999999999999", "1e-5", "5e-324", "1e-400", "1e39", "1e308", "1e400",
    "-1e308", "nan", "inf", "-inf",
)  # fmt: skip
WORDS = (
    "true", "false", "null", "''", "???", "abc", "auto", "cpu", "val/loss", "0x10", "1_000", "010", "1:30", "no",
    "a b", "'#'", "'{}'", "'%s'", "'\\\\'", "'a: b'", "'[red]'", "$", "'../x'", "'~nobody_of_this_name/x'", "con",
)  # fmt: skip
CHOICES = (
    "null", "auto", "cpu", "gpu", "ddp", "16-mixed", "bf16-mixed", "bf16-true", "64-true", "val/loss", "train/loss",
    "min", "max", "all", "train", "test", "torch", "gpt2", "matrices", "text", "jsonl", "int8", "safetensors", "abc",
)  # fmt: skip
REFERENCES = (
    "${seed}", "${nope}", "${model}", "${name}", "${.x}", "${trainer.max_steps}", "${oc.env:NO_SUCH_VARIABLE}",
    "${frob:1}", "${now:%Y}", "'${'", "${data.path}", "'${model.emb_dim}${seed}'",
)  # fmt: skip
CONTAINERS = (
    "[]", "[1,2]", "[null]", "[nan]", "[[]]", "['']", "[0.9,0.95,1]", "[0.5,0.5]", "{}", "{a:1}", "{a:{b:[1]}}",
    "{_target_:os.system}", "{_target_:firstlight.data.order.BookOrder}", "{1:2}", "{_partial_:true}", "[a,b]",
)  # fmt: skip
TARGETS = (
    "os.system", "builtins.eval", "firstlight", "firstlight.model.gpt", "firstlight.model.gpt.MultiHeadAttention",
    "firstlight.model.base.LanguageModel", "firstlight.model.gpt.GPT", "firstlight.data.order.BookOrder",
    "firstlight.data.order.Order", "firstlight.data.tokenizers.bytes.BytesTokenizer",
    "firstlight.data.tokenizers.base.Tokenizer", "firstlight.data.windows.Windows",
    "firstlight.data.pydoc.PydocData", "firstlight.data.lamplighters.LamplightersData",
    "firstlight.data.datamodule.TextDataModule", "firstlight.optim.constant.Constant",
    "firstlight.optim.adamw.adamw", "firstlight.optim.adamw.nn", "torch.optim.SGD", "torch.optim.AdamW",
    "torch.optim.LBFGS", "torch.optim.Optimizer", "torch.optim.lr_scheduler.StepLR",
    "firstlight.decoding.greedy.Greedy", "firstlight.decoding.base.Continuation", "firstlight.training.trainer.Trainer",
    "firstlight.training.callbacks.plots.Plots", "firstlight.training.callbacks.progress.ProgressBar",
    "firstlight.training.loggers.csv.CSVLogger", "lightning.pytorch.callbacks.EarlyStopping",
    "lightning.pytorch.callbacks.Timer", "lightning.pytorch.loggers.CSVLogger", "lightning.pytorch.profilers.Profiler",
)  # fmt: skip
"""Classes of every section, in every section's place; some that may not be named at all."""
OPEN_KEYS = (
    "trainer.benchmark", "trainer.detect_anomaly", "trainer.profiler", "trainer.barebones", "trainer.sync_batchnorm",
    "trainer.inference_mode", "trainer.gradient_clip_algorithm", "trainer.num_nodes", "trainer.default_root_dir",
    "trainer.logger", "trainer.callbacks", "trainer.enable_progress_bar", "trainer.enable_checkpointing",
    "trainer.max_time", "trainer.fast_dev_run", "trainer.plugins", "trainer.data", "trainer.model_registry",
    "trainer.enable_autolog_hparams", "trainer.limit_train_batches", "callbacks.early_stopping.strict",
    "callbacks.early_stopping.stopping_threshold", "callbacks.early_stopping.check_finite",
    "callbacks.sample_generation.decoding.top_p", "logger.csv.save_dir", "logger.csv.purge_step", "data.tokenizer",
    "data.order", "optimizer.amsgrad", "optimizer.model", "model._args_", "model._convert_", "model._recursive_",
    "data._partial_", "tokenizer._partial_", "order._partial_", "scheduler._partial_", "optimizer._target_",
)  # fmt: skip
"""Keys that no YAML file lists, but that the signatures, or Hydra, know."""

_text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="/\0"), max_size=12)
_unusual_text = st.sampled_from(
    ["\u202e", "\ufeff", "é" * 40, "灯🏮", "e\u0301", "\x1b[31m", "\x00", "\ud800", "\r\n"]
)
_huge = st.sampled_from(
    ["x" * 20_000, "9" * 4000, "9" * 5000, "é" * 300, "[" * 40 + "]" * 40, "a/" * 3000, " " * 999]
)


def quoted(text: str) -> str:
    """`text` as a quoted string of Hydra's grammar."""
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


wild_values = st.one_of(
    st.sampled_from([str(i) for i in INTEGERS]),
    st.sampled_from(FLOATS),
    st.sampled_from(WORDS),
    st.sampled_from(REFERENCES),
    st.sampled_from(CONTAINERS),
    st.sampled_from(TARGETS),
    st.integers().map(str),
    st.floats().map(repr),
    _text.map(quoted),
    _unusual_text.map(quoted),
    _huge,
)
"""Anything that can be typed behind `key=`."""


def right_values(value: Any) -> st.SearchStrategy[str]:
    """What a key that has `value` might have as well; of a section, what it might be mistaken
    for."""
    if isinstance(value, bool):
        return st.sampled_from(["true", "false"])
    if isinstance(value, int):
        return st.one_of(
            st.integers(1, 64), st.integers(1, 4).map(lambda n: n * max(value, 1))
        ).map(str)
    if isinstance(value, float):
        return st.sampled_from([0.1, 0.5, 0.9, 1.0, 2.0]).map(lambda factor: repr(factor * value))
    if isinstance(value, list):
        return st.lists(st.floats(0.0, 0.99).map(lambda x: f"{x:.3g}"), max_size=3).map(
            lambda x: f"[{','.join(x)}]"
        )
    if value is None:
        return st.one_of(st.integers(1, 64).map(str), st.sampled_from(["null", "0.5", "true"]))
    return st.one_of(st.sampled_from(CHOICES), st.just(f"'{value}'"))


def settings_of(config: DictConfig) -> dict[str, Any]:
    """Every key of a config, sections included, with its value."""
    return dict(_settings(OmegaConf.to_container(config, resolve=False), ""))


def _settings(node: Any, path: str) -> Iterator[tuple[str, Any]]:
    for key, child in node.items() if isinstance(node, dict) else ():
        yield f"{path}{key}", child
        yield from _settings(child, f"{path}{key}.")


def mutations(settings: dict[str, Any]) -> st.SearchStrategy[list[str]]:
    """One to four settings: most often of a key that is there, as often a value it may have as one
    that it may not.
    """
    leaves = [key for key, value in settings.items() if not isinstance(value, dict)]
    sections = [key for key in settings if key not in leaves] or ["nowhere"]
    right = [
        right_values(settings[key]).map(f"{key}={{}}".format) for key in leaves if "._" not in key
    ]
    wrong = [wild_values.map(f"{key}={{}}".format) for key in leaves]
    unknown = st.sampled_from(["foo", "emb_dimm", "lr", "_x", "a.b"])
    kinds = {
        10: st.one_of(right),
        6: st.one_of(wrong),
        1: st.one_of(
            st.builds("{}={}".format, st.sampled_from(sections), wild_values),
            st.builds("~{}".format, st.sampled_from(list(settings))),
            st.builds(
                "++{}={}".format,
                st.sampled_from(OPEN_KEYS),
                st.one_of(wild_values, right_values(None)),
            ),
            st.builds("++{}.{}=1".format, st.sampled_from(sections), unknown),
            st.builds("{}._target_={}".format, st.sampled_from(sections), st.sampled_from(TARGETS)),
        ),
    }
    one = st.sampled_from([kind for weight, kind in kinds.items() for _ in range(weight)]).flatmap(
        lambda kind: kind
    )
    return st.lists(one, min_size=1, max_size=4)
