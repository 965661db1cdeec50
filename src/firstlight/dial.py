"""One number, the depth of a model, decides its shape and how it is trained (docs/dial.md).

`conf/rules/` and `conf/schedule_rules/` have them as `${dial:NAME}`, so each can be overridden.
"""

import math
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf

from firstlight.errors import ConfigError, shorten

MAX_DEPTH = 64
HEAD = 64
"""Width of a head, and of the model for each block (nanochat, github.com/karpathy/nanochat:
`aspect_ratio`): GPT-2 small, of 12 blocks, is 768 wide."""
FF_UNIT = 32
"""The width inside a feed-forward is 8/3 of the model's, rounded up to a multiple of this."""
TOKENS_PER_PARAMETER = 20
"""Hoffmann et al. 2022, "Training compute-optimal large language models"."""
LONGEST = 10**15
"""Tokens, as in `trainer.max_tokens`."""
LARGEST_BATCH = 2**20
"""Windows, as in `data.batch_size`."""


@dataclass(frozen=True)
class Dial:
    """What follows from a depth, a vocabulary and a length of windows.

    `given_*` is a value of the config's that stands where a rule would decide.
    """

    depth: int
    vocab_size: int
    context_length: int
    given_tokens: int | None = None
    given_batch: int | None = None
    given_steps: int | None = None
    given_lr: float | None = None
    batches_per_step: int = 1

    @property
    def emb_dim(self) -> int:
        """Width of the residual stream, C."""
        return HEAD * self.depth

    @property
    def n_parameters(self) -> int:
        """N, with the embedding, which is the output matrix as well."""
        norms = self.depth * (2 * self.emb_dim + 2 * HEAD) + self.emb_dim
        return self.vocab_size * self.emb_dim + self._n_in_blocks + norms

    @property
    def _n_in_blocks(self) -> int:
        """Parameters of the matrices of all blocks: attention's four, the feed-forward's three."""
        ff_dim = FF_UNIT * math.ceil(8 * self.emb_dim / (3 * FF_UNIT))
        return self.depth * (4 * self.emb_dim**2 + 3 * self.emb_dim * ff_dim)

    @property
    def max_tokens(self) -> int:
        """D, the length of the run."""
        if self.given_tokens is not None:
            return self.given_tokens
        return min(TOKENS_PER_PARAMETER * self.n_parameters, LONGEST)

    @property
    def flops(self) -> float:
        """C = M D of DeepSeek-AI 2024, where M leaves out the embedding and the output matrix."""
        attention = 12 * self.depth * self.emb_dim * self.context_length
        return float(6 * self._n_in_blocks + attention) * self.max_tokens

    @property
    def batch_size(self) -> int:
        """Windows, a power of two; a step has .2920 C^.3271 tokens (DeepSeek-AI 2024, eq. 1)."""
        if self.given_batch is not None:
            return self.given_batch
        in_batch = self.context_length * self.batches_per_step
        windows = 0.2920 * self.flops**0.3271 / in_batch
        return min(2 ** max(0, round(math.log2(windows))), LARGEST_BATCH)

    @property
    def lr(self) -> float:
        """.3118 C^-.1250 (DeepSeek-AI 2024, equation 1)."""
        if self.given_lr is not None:
            return self.given_lr
        return _two_digits(0.3118 * self.flops**-0.1250)

    @property
    def initial_lr(self) -> float:
        """A hundredth of the highest."""
        return _two_digits(self.lr / 100)

    @property
    def min_lr(self) -> float:
        """A tenth of the highest (Hoffmann et al. 2022)."""
        return _two_digits(self.lr / 10)

    @property
    def weight_decay(self) -> float:
        """So much that the weights are an average over a share tau of the run.

        tau = 1.084 (D / N)^-.527 (Bergsma et al. 2025, "Power lines"); the weight decay of steps of
        B tokens is B / (lr D tau) (Wang & Aitchison 2024, "How to set AdamW's weight decay").
        """
        tau = 1.084 * (self.max_tokens / self.n_parameters) ** -0.527
        return _two_digits(self._tokens_in_step / (self.lr * self.max_tokens * tau))

    @property
    def n_steps(self) -> int:
        """Optimizer steps of the run."""
        return self.given_steps or max(1, self.max_tokens // self._tokens_in_step)

    @property
    def eval_every_n_steps(self) -> int:
        """A twentieth of the run."""
        return max(1, self.n_steps // 20)

    @property
    def _tokens_in_step(self) -> int:
        return self.batch_size * self.context_length * self.batches_per_step


DECIDED = (
    "max_tokens",
    "batch_size",
    "lr",
    "initial_lr",
    "min_lr",
    "weight_decay",
    "eval_every_n_steps",
)
"""What `${dial:NAME}` can be."""


def decided(name: str, *, _root_: DictConfig) -> Any:
    """The resolver `${dial:NAME}`: the value that the rules give in the config `_root_`.

    Raises:
        ConfigError: there is no such rule, or the config has not what it is computed from.
    """
    if name not in DECIDED:
        raise ConfigError(f"${{dial:{shorten(name)}}}: NAME is one of {', '.join(DECIDED)}")
    if "depth" not in _root_.model:
        raise ConfigError("the model has no depth from which to decide it; take model=dial")
    if name == "lr" and _root_.get("parametrization") is not None:
        raise ConfigError(
            "the rule of model=dial is for the standard parametrization; give optimizer.lr, that"
            " which is the best at parametrization.base_width"
        )
    # What is not a whole number above 0 is refused by the signature of what takes it.
    found = Dial(
        min(_whole(_root_, "model", "depth") or 1, MAX_DEPTH),
        _whole(_root_, "model", "vocab_size") or 1,
        _whole(_root_, "data", "context_length") or 1,
        given_tokens=_whole(_root_, "trainer", "max_tokens"),
        given_batch=_whole(_root_, "data", "batch_size"),
        given_steps=_whole(_root_, "trainer", "max_steps"),
        given_lr=_given(_root_, "optimizer", "lr"),
        batches_per_step=_whole(_root_, "trainer", "accumulate_grad_batches") or 1,
    )
    return getattr(found, name)


def _whole(root: DictConfig, section: str, key: str) -> int | None:
    """A whole number above 0 of the config's; None where something else stands, or a rule."""
    value = _given(root, section, key)
    return int(value) if value is not None and value >= 1 else None


def _given(root: DictConfig, section: str, key: str) -> float | None:
    """A number above 0 of the config's; None where something else stands, or a rule."""
    # A rule that reads what it decides would never end.
    plain: Any = OmegaConf.to_container(root[section], resolve=False)
    if str(plain.get(key)).startswith("${dial:"):
        return None
    value = root[section].get(key)
    return value if isinstance(value, int | float) and 0 < value < math.inf else None


def _two_digits(value: float) -> float:
    return float(f"{value:.1e}")
