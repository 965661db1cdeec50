"""What several test files share: tiny models, a tiny data module, and data that only some machines
have.
"""

import gc
import locale
import os
import signal
import tempfile
import zlib
from collections import Counter
from contextlib import suppress
from pathlib import Path

OTHERS = (
    *(
        "FIRSTLIGHT_",
        "HF_",
        "TRANSFORMERS_",
        "WANDB_",
        "MLFLOW_",
        "OPTUNA_",
        "HYDRA_",
        "XDG_",
        "TORCH",
        "LC_",
        "PL_",
    ),
    *(
        "SLURM_",
        "SRUN_",
        "LSB_",
        "JSM_",
        "PMI_",
        "PMIX_",
        "OMPI_",
        "PBS_",
        "KUBERNETES_",
        "NCCL_",
        "GLOO_",
    ),
)
"""Beginnings of variables with which a user, a scheduler or a launcher tells programs what to do:
not the tests."""
OTHER = (
    *(
        "RANK",
        "LOCAL_RANK",
        "GROUP_RANK",
        "NODE_RANK",
        "WORLD_SIZE",
        "LOCAL_WORLD_SIZE",
        "MASTER_ADDR",
        "MASTER_PORT",
    ),
    *(
        "COLUMNS",
        "LINES",
        "NO_COLOR",
        "FORCE_COLOR",
        "CLICOLOR",
        "CLICOLOR_FORCE",
        "TTY_COMPATIBLE",
    ),
    *(
        "TTY_INTERACTIVE",
        "http_proxy",
        "https_proxy",
        "all_proxy",
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "ALL_PROXY",
    ),
    *("LANG", "LANGUAGE", "PYTHONUTF8", "PYTHONIOENCODING", "PYTHONCOERCECLOCALE"),
)
"""Such variables by their whole names."""
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
"""With another number of threads the last digits of a sum are others: 1 here, and 1 in the
processes of the tests."""
LOCALE = "C.UTF-8"
STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
"""What nohup, or a shell that starts a job in the background, has a process ignore: a stopped run
would not stop."""


def same_surroundings() -> None:
    """Make the environment of the tests, and of the processes that they start, the same on every
    machine.

    What a CPU can do is left as it is.
    """
    for name in list(os.environ):
        if name.startswith(OTHERS) or name in OTHER:
            del os.environ[name]
    os.environ.update(dict.fromkeys(THREADS, "1"), LC_ALL=LOCALE)
    with suppress(locale.Error):  # not on every macOS, where all is UTF-8
        locale.setlocale(locale.LC_ALL, LOCALE)
    for number in STOPPING:
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(
                number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
            )


same_surroundings()  # before Lightning is imported, which reads the rank of this process then

import hypothesis
import pytest
import torch

from firstlight import processes
from firstlight.data.order import SeededOrder
from firstlight.data.text import TextData
from firstlight.data.tokenizers.bytes import BytesTokenizer
from firstlight.data.tokenizers.gpt2 import GPT2Tokenizer
from firstlight.model.gpt import GPT
from firstlight.model.modern import ModernGPT

SHARED = Path(__file__).parents[2] / "shared"
if "TIKTOKEN_CACHE_DIR" not in os.environ and (SHARED / "tiktoken").is_dir():
    os.environ["TIKTOKEN_CACHE_DIR"] = str(SHARED / "tiktoken")

# A busy machine is slow, and a test that is slow is no fault.
hypothesis.settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("any machine")

torch.set_num_threads(1)  # at these sizes threads cost more than they give


@pytest.fixture(scope="session", autouse=True)
def _own_folders(tmp_path_factory):
    """Nothing is read from, or written to, the user's home and cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
        patch.setenv("FIRSTLIGHT_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def _own_processes():
    """What a command of one test has found in the environment is not passed on to another's."""
    with processes.undone():
        yield


def pytest_addoption(parser):
    parser.addoption(
        "--long-share",
        type=int,
        default=1,
        metavar="N",
        help="run about one in N of the long tests, always the same ones",
    )


@pytest.hookimpl(tryfirst=True)  # before -m takes away the long ones
def pytest_collection_modifyitems(config, items):
    """Of a test with `one_in(n)` the first of every n cases is as it is, and the others are
    long. Of these only a share is run if that is asked for."""
    seen = Counter()
    for item in items:
        mark = item.get_closest_marker("one_in")
        if mark is not None:
            test = item.nodeid.partition("[")[0]
            if seen[test] % mark.args[0]:
                item.add_marker(pytest.mark.long)
            seen[test] += 1
    share = config.getoption("--long-share")
    chosen, others = [], []
    for item in items:
        # By its name: what another file has, or the order of files, changes nothing.
        is_chosen = item.get_closest_marker("long") is None or (
            zlib.crc32(item.nodeid.encode()) % share == 0
        )
        (chosen if is_chosen else others).append(item)
    items[:] = chosen
    config.hook.pytest_deselected(items=others)


def pytest_collection_finish():
    """What was imported stays: the garbage collector need not look through it again and again."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def tiny_gpt():
    """A factory of small GPTs in evaluation mode, whose weights are large enough for mistakes to
    show.
    """

    def make(*, seed: int = 0, **changes) -> GPT:
        sizes = {
            "vocab_size": 31,
            "context_length": 8,
            "emb_dim": 12,
            "n_heads": 3,
            "n_layers": 2,
            "drop_rate": 0.0,
        }
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = GPT(**(sizes | changes))
            for parameter in model.parameters():
                torch.nn.init.normal_(parameter, std=0.3)
        return model.eval()

    return make


@pytest.fixture
def tiny_modern():
    """A factory of small ModernGPTs in evaluation mode, whose weights are large enough for mistakes
    to show.
    """

    def make(*, seed: int = 0, **changes) -> ModernGPT:
        sizes = {
            "vocab_size": 31,
            "context_length": 8,
            "emb_dim": 24,
            "n_heads": 6,
            "n_layers": 2,
            "n_kv_heads": 2,
        }
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
    """A factory of data modules over text files with the given contents: bytes, windows of 8,
    batches of 2.
    """

    def make(*texts: str, **changes) -> TextData:
        files = []
        for number, text in enumerate(
            texts or ["The lamp went out, and the harbour was dark. " * 12]
        ):
            files.append(tmp_path / f"{number}.txt")
            files[-1].write_text(text, encoding="utf-8")
        settings = {
            "tokenizer": BytesTokenizer(),
            "order": SeededOrder(seed=1),
            "context_length": 8,
            "batch_size": 2,
        }
        return TextData(path=[str(f) for f in files], **(settings | changes))

    return make


@pytest.fixture
def gpt2_vocabulary() -> GPT2Tokenizer:
    """GPT-2's tokenizer, ready to encode; skips where its vocabulary would have to be
    downloaded."""
    folder = Path(
        os.environ.get("TIKTOKEN_CACHE_DIR") or Path(tempfile.gettempdir(), "data-gym-cache")
    )
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
