"""What several test files share: tiny models, a tiny data module, and data that only some machines have."""

import os
import tempfile
from pathlib import Path

import pytest
import torch

from firstlight.data.order import SeededOrder
from firstlight.data.text import TextData
from firstlight.data.tokenizers.bytes import BytesTokenizer
from firstlight.data.tokenizers.gpt2 import GPT2Tokenizer
from firstlight.model.gpt import GPT
from firstlight.model.modern import ModernGPT

SHARED = Path(__file__).parents[2] / "shared"
if "TIKTOKEN_CACHE_DIR" not in os.environ and (SHARED / "tiktoken").is_dir():
    os.environ["TIKTOKEN_CACHE_DIR"] = str(SHARED / "tiktoken")

torch.set_num_threads(1)  # at these sizes threads cost more than they give


@pytest.fixture(scope="session", autouse=True)
def _own_environment(tmp_path_factory):
    """Nothing is read from, or written to, the user's cache; nothing of the user's settings leaks in."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FIRSTLIGHT_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        for name in ("FIRSTLIGHT_ALLOW_TARGETS", "FIRSTLIGHT_OPENAI_URLS"):
            patch.delenv(name, raising=False)
        yield


@pytest.fixture
def tiny_gpt():
    """A factory of small GPTs in evaluation mode, whose weights are large enough for mistakes to show."""

    def make(*, seed: int = 0, **changes) -> GPT:
        sizes = {"vocab_size": 31, "context_length": 8, "emb_dim": 12, "n_heads": 3, "n_layers": 2, "drop_rate": 0.0}
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = GPT(**(sizes | changes))
            for parameter in model.parameters():
                torch.nn.init.normal_(parameter, std=0.3)
        return model.eval()

    return make


@pytest.fixture
def tiny_modern():
    """A factory of small ModernGPTs in evaluation mode, whose weights are large enough for mistakes to show."""

    def make(*, seed: int = 0, **changes) -> ModernGPT:
        sizes = {"vocab_size": 31, "context_length": 8, "emb_dim": 24, "n_heads": 6, "n_layers": 2, "n_kv_heads": 2}
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = ModernGPT(**(sizes | {"tie_weights": False} | changes))
            for name, parameter in model.named_parameters():
                torch.nn.init.normal_(parameter, mean=float("norm" in name), std=0.3)
        return model.eval()

    return make


@pytest.fixture(params=["GPT", "ModernGPT"])
def tiny_model(request, tiny_gpt, tiny_modern):
    """A factory of small models of one architecture after the other."""
    return tiny_gpt if request.param == "GPT" else tiny_modern


@pytest.fixture
def tiny_data(tmp_path):
    """A factory of data modules over text files with the given contents: bytes, windows of 8, batches of 2."""

    def make(*texts: str, **changes) -> TextData:
        files = []
        for number, text in enumerate(texts or ["The lamp went out, and the harbour was dark. " * 12]):
            files.append(tmp_path / f"{number}.txt")
            files[-1].write_text(text, encoding="utf-8")
        settings = {"tokenizer": BytesTokenizer(), "order": SeededOrder(seed=1), "context_length": 8, "batch_size": 2}
        return TextData(path=[str(f) for f in files], **(settings | changes))

    return make


@pytest.fixture
def gpt2_vocabulary() -> GPT2Tokenizer:
    """GPT-2's tokenizer, ready to encode; skips where its vocabulary would have to be downloaded."""
    folder = Path(os.environ.get("TIKTOKEN_CACHE_DIR") or Path(tempfile.gettempdir(), "data-gym-cache"))
    names = ("6d1cbeee0f20b3d9449abfede4726ed8212e3aee", "6c7ea1a7e38e3a7f062df639a5b80947f075ffe6")
    if not all((folder / name).is_file() for name in names):
        pytest.skip("GPT-2's vocabulary is not on this machine: set TIKTOKEN_CACHE_DIR")
    tokenizer = GPT2Tokenizer()
    tokenizer.fit([])
    return tokenizer


@pytest.fixture
def verdict() -> Path:
    """The book's text; skips where it is not on this machine."""
    file = SHARED / "data" / "the-verdict.txt"
    if not file.is_file():
        pytest.skip(f"{file} is not on this machine")
    return file
