import json
import shutil
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pooch
import pytest
import torch
from bundle_writer import write_bundle

from firstlight.checkpoints.checkpoint import Checkpoint
from firstlight.errors import ConfigError
from firstlight.foreign.openai import (
    FILES,
    TENSOR_DATA,
    TENSOR_INDEX,
    URLS,
    download_gpt2,
    is_openai_folder,
    read_openai,
)
from firstlight.foreign.tensorflow import TensorBundle

FIXTURE = Path(__file__).parent / "tensorflow_fixture"
SIZES = {"n_vocab": 269, "n_ctx": 16, "n_embd": 48, "n_head": 4, "n_layer": 2}
IDS = torch.arange(32).view(2, 16)


@pytest.fixture
def folder(tmp_path):
    """A copy of the folder that TensorFlow wrote, without the vocabulary."""
    copy = tmp_path / "124M"
    shutil.copytree(FIXTURE, copy)
    for name in ("encoder.json", "vocab.bpe"):
        (copy / name).unlink()
    return copy


def model_of(folder):
    weights, config, tokenizer = read_openai(folder)
    return Checkpoint(folder, weights, config, tokenizer, None).build_model()


def refusal(folder, file):
    with pytest.raises(ConfigError) as caught:
        read_openai(folder)
    message = str(caught.value)
    assert message.startswith(f"{folder / file}: ")
    assert "\n" not in message
    return message


def theirs(sizes, seed=0):
    """GPT-2 of transformers with random weights, and these as OpenAI names and shapes them."""
    from transformers import GPT2Config, GPT2LMHeadModel

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = GPT2LMHeadModel(
            GPT2Config(
                vocab_size=sizes["n_vocab"],
                n_positions=sizes["n_ctx"],
                n_embd=sizes["n_embd"],
                n_head=sizes["n_head"],
                n_layer=sizes["n_layer"],
            )
        )
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    tensors = {}
    for name, tensor in model.transformer.state_dict().items():
        parts = name.split(".")
        if name.startswith("h."):
            parts[:2] = [f"h{parts[1]}"]
        if parts[-1] == "weight" and parts[0] not in ("wte", "wpe"):
            parts[-1] = "g" if "ln_" in parts[-2] else "w"
        elif parts[-1] == "weight":
            parts.pop()
        elif parts[-1] == "bias":
            parts[-1] = "b"
        tensors["/".join(["model", *parts])] = (
            tensor[None].numpy() if parts[-1] == "w" else tensor.numpy()
        )
    return model.eval(), tensors


def save(folder, sizes, tensors):
    folder.mkdir(parents=True, exist_ok=True)
    write_bundle(folder / "model.ckpt", tensors)
    (folder / "hparams.json").write_text(json.dumps(sizes))
    return folder


@pytest.mark.parametrize(
    ("n_layer", "n_head"),
    [(12, 12), (24, 16), (36, 20), (48, 25)],
    ids=["124M", "355M", "774M", "1558M"],
)
@torch.inference_mode()
def test_every_published_layout_gives_the_logits_of_transformers(tmp_path, n_layer, n_head):
    sizes = {"n_vocab": 31, "n_ctx": 16, "n_embd": 2 * n_head, "n_head": n_head, "n_layer": n_layer}
    model, tensors = theirs(sizes)
    ids = IDS % 31
    torch.testing.assert_close(
        model_of(save(tmp_path, sizes, tensors))(ids), model(ids).logits, atol=1e-5, rtol=0
    )


def test_the_weights_are_those_that_tensorflow_saved(folder):
    model, bundle = model_of(folder), TensorBundle(folder / "model.ckpt")
    assert np.array_equal(model.tok_emb.weight.numpy(force=True), bundle.read("model/wte"))
    assert np.array_equal(
        model.trf_blocks[1].norm2.bias.numpy(force=True), bundle.read("model/h1/ln_2/b")
    )
    key = bundle.read("model/h0/attn/c_attn/w")[0, :, 48:96]
    assert np.array_equal(model.trf_blocks[0].att.W_key.weight.numpy(force=True), key.T)
    assert model(IDS).shape == (2, 16, 269)
    assert model.output_weight.data_ptr() == model.tok_emb.weight.data_ptr()


def test_the_config_is_that_of_gpt2_with_its_tokenizer(folder):
    _, config, tokenizer = read_openai(folder)
    assert (
        config["model"]["n_heads"] == 4
        and config["model"]["qkv_bias"]
        and config["model"]["tie_weights"]
    )
    assert config["tokenizer"] == {
        "_target_": "firstlight.data.tokenizers.gpt2.GPT2Tokenizer",
        "vocab_size": 269,
    }
    assert tokenizer is None


def test_the_vocabulary_of_the_folder_is_its_tokenizer():
    pytest.importorskip("firstlight.data.tokenizers.huggingface")
    weights, config, state = read_openai(FIXTURE)
    tokenizer = Checkpoint(FIXTURE, weights, config, state, None).build_tokenizer()
    assert tokenizer.encode(" the lamp") == [258, 262]  # Ġthe, Ġlamp
    assert tokenizer.decode([258, 262]) == " the lamp"
    assert tokenizer.end_of_text == 268


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("encoder.json", "[1]"),
        ("encoder.json", '{"a": -1}'),
        ("encoder.json", '{"a": 0, "<|endoftext|>": 1}'),
        ("vocab.bpe", "<html>"),
        ("vocab.bpe", "#version: 0.2\na b c\n"),
        ("vocab.bpe", "#version: 0.2\nt h\n"),
    ],
)
def test_a_damaged_vocabulary_is_refused(folder, file, content):
    pytest.importorskip("firstlight.data.tokenizers.huggingface")
    for name in ("encoder.json", "vocab.bpe"):
        shutil.copy(FIXTURE / name, folder)
    (folder / file).write_text(content)
    with pytest.raises(ConfigError, match=file) as caught:
        read_openai(folder)
    assert "\n" not in str(caught.value)


def test_tensors_that_are_no_weights_are_left_out(tmp_path):
    _, tensors = theirs(SIZES)
    tensors |= {
        "model/wte/Adam": np.zeros(2, np.float32),
        "flags": np.zeros(3, bool),
    }  # 3: no number is aligned
    assert model_of(save(tmp_path, SIZES, tensors))(IDS).shape == (2, 16, 269)


@pytest.mark.parametrize("path", ["other-700", "/home/somebody/models/124M/other-700"])
def test_the_checkpoint_file_says_which_files_are_meant(folder, path):
    for file in folder.glob("model.ckpt.*"):
        file.rename(folder / file.name.replace("model.ckpt", "other-700"))
    (folder / "checkpoint").write_text(
        f'model_checkpoint_path: "{path}"\nall_model_checkpoint_paths: "{path}"\n'
    )
    assert model_of(folder)(IDS).shape == (2, 16, 269)


def test_without_a_checkpoint_file_the_name_is_openais(folder):
    (folder / "checkpoint").unlink()
    assert model_of(folder)(IDS).shape == (2, 16, 269)


@pytest.mark.parametrize("path", ["", "..", "../..", "a/..", "C:\\\\x", "/", "a\0b", "a\x85b"])
def test_a_checkpoint_file_that_names_none_is_refused(folder, path):
    (folder / "checkpoint").write_text(f'model_checkpoint_path: "{path}"\n')
    assert "names no checkpoint" in refusal(folder, "checkpoint")


def test_a_checkpoint_file_leads_to_no_other_folder(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "elsewhere")
    for file in folder.glob("model.ckpt.*"):
        file.unlink()
    (folder / "checkpoint").write_text('model_checkpoint_path: "../elsewhere/model.ckpt"\n')
    assert "No such file" in refusal(folder, TENSOR_INDEX)


@pytest.mark.parametrize("name", ["hparams.json", TENSOR_INDEX, TENSOR_DATA])
def test_a_missing_file_is_named(folder, name):
    (folder / name).unlink()
    assert "cannot be read (No such file or directory)" in refusal(folder, name)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_layer": 3}, "has 2 layers; hparams.json says 3"),
        ({"n_layer": 1}, "has 2 layers; hparams.json says 1"),
        ({"n_layer": 10**15}, "has 2 layers; hparams.json says 1000000000000000"),
        (
            {"n_vocab": 10**15},
            "model/wte is (269, 48) of <f4; hparams.json makes it (1000000000000000, 48) of <f4",
        ),
        ({"n_ctx": 17}, "model/wpe is (16, 48) of <f4; hparams.json makes it (17, 48) of <f4"),
        ({"n_embd": 96}, "model/wte is (269, 48) of <f4; hparams.json makes it (269, 96) of <f4"),
    ],
    ids=str,
)
def test_sizes_that_the_file_does_not_have_are_refused(folder, changes, message):
    (folder / "hparams.json").write_text(json.dumps(SIZES | changes))
    assert refusal(folder, TENSOR_INDEX) == f"{folder / TENSOR_INDEX}: {message}"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (json.dumps(SIZES | {"n_head": 0}), "n_head (0): it should be greater than 0"),
        (json.dumps(SIZES | {"n_layer": -1}), "n_layer (-1): it should be greater than 0"),
        (json.dumps(SIZES | {"n_embd": 48.0}), "n_embd (48.0): it should be a valid integer"),
        (json.dumps(SIZES | {"n_ctx": True}), "n_ctx (True): it should be a valid integer"),
        (json.dumps(SIZES | {"n_head": 5}), "n_embd (48) must be divisible by n_head (5)"),
        ('{"n_vocab": 269}', "n_ctx: Field required"),
        ("[]", "it should be an object"),
        ("", "Invalid JSON"),
        ("[" * 100_000, "Invalid JSON"),
        ("\x00\xff", "Invalid JSON"),
        ('{"n_vocab": 1' + "0" * 5000 + "}", ""),
    ],
    ids=range(11),
)
def test_hyperparameters_that_cannot_be_are_refused(folder, content, message):
    (folder / "hparams.json").write_text(content, encoding="latin-1")
    assert message in refusal(folder, "hparams.json")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model/h1/mlp/c_fc/w": None}, "has no model/h1/mlp/c_fc/w"),
        ({"model/h1/mlp/c_fc/w": (48, 192)}, "model/h1/mlp/c_fc/w is (48, 192) of <f4; "),
        ({"model/h0/attn/c_attn/b": (48,)}, "model/h0/attn/c_attn/b is (48,) of <f4; "),
        (
            {"model/ln_f/g": np.zeros(48)},
            "model/ln_f/g is (48,) of <f8; hparams.json makes it (48,) of <f4",
        ),
        ({"model/wpe": None, "wpe": (16, 48)}, "has no model/wpe"),
    ],
    ids=str,
)
def test_tensors_that_are_not_gpt2s_are_refused(tmp_path, changes, message):
    _, tensors = theirs(SIZES)
    for name, change in changes.items():
        if change is None:
            del tensors[name]
        else:
            tensors[name] = np.zeros(change, np.float32) if isinstance(change, tuple) else change
    assert message in refusal(save(tmp_path, SIZES, tensors), TENSOR_INDEX)


def test_damaged_data_is_refused_with_the_file_and_the_tensor(folder):
    content = bytearray((folder / TENSOR_DATA).read_bytes())
    content[-1] ^= 1
    (folder / TENSOR_DATA).write_bytes(content)
    assert "the checksum of 'model/wte' differs" in refusal(folder, TENSOR_DATA)


def test_a_folder_is_openais_if_one_of_its_files_is_there(folder, tmp_path):
    assert is_openai_folder(folder)
    (folder / "hparams.json").unlink()
    assert is_openai_folder(folder)
    assert not is_openai_folder(tmp_path)
    assert not is_openai_folder(tmp_path / "nowhere")


@pytest.fixture
def server(monkeypatch):
    """A factory: serve the fixture below "/NUMBER/124M/", changed by `change`.

    Returns the address, and what was asked for.

    `change` gets the name of a file and its content, and returns what to send: None is 404, a pair
    is the content and the length that is announced.
    """
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    running = []

    def serve(change=lambda name, content: content):
        requests = []

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                requests.append(self.path)
                *_, size, name = self.path.split("/")
                answer = change(name, (FIXTURE / name).read_bytes()) if size == "124M" else None
                content, length = (
                    answer if isinstance(answer, tuple) else (answer, len(answer or b""))
                )
                self.send_response(404 if answer is None else 200)
                self.send_header("Content-Length", str(length))
                self.end_headers()
                self.wfile.write(content or b"")

            def log_message(self, *args):
                pass

        httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        running.append((httpd, thread))
        return f"http://127.0.0.1:{httpd.server_port}", requests

    yield serve
    for httpd, thread in running:
        httpd.shutdown()
        thread.join()
        httpd.server_close()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FIRSTLIGHT_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache" / "gpt2" / "124M"


def names_in(folder):
    return {file.name for file in folder.rglob("*")}


def assert_whole(folder):
    assert names_in(folder) == set(FILES)
    assert all((folder / name).read_bytes() == (FIXTURE / name).read_bytes() for name in FILES)


def refused_port():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return unused.getsockname()[1]


def only(file, answer):
    """Change what is sent for one file."""
    return lambda name, content: answer(content) if name == file else content


def test_files_are_downloaded_once(server, cache, monkeypatch):
    url, requests = server()
    monkeypatch.setenv(URLS, url)
    assert download_gpt2("124M") == cache
    assert requests == [f"/124M/{name}" for name in FILES]
    assert_whole(cache)
    assert download_gpt2("124M") == cache
    assert len(requests) == len(FILES)


@pytest.mark.parametrize("name", ["encoder.json", "vocab.bpe", TENSOR_DATA])
def test_a_file_that_is_no_more_what_was_downloaded_is_downloaded_again_and_that_is_said(
    name, server, cache, monkeypatch, capsys
):
    url, requests = server()
    monkeypatch.setenv(URLS, url)
    download_gpt2("124M")
    requests.clear()
    content = (cache / name).read_bytes()
    (cache / name).write_bytes(content[:-3] + bytes([content[-3] ^ 1]) + content[-2:])
    download_gpt2("124M")
    assert requests == [f"/124M/{name}"]
    assert_whole(cache)
    said = capsys.readouterr().err
    assert f"note: {cache / name}: not what was downloaded" in said


def test_only_files_that_are_missing_or_not_whole_are_downloaded(server, cache, monkeypatch):
    url, requests = server()
    monkeypatch.setenv(URLS, url)
    cache.mkdir(parents=True)
    for name in FILES:
        shutil.copy(FIXTURE / name, cache)
    (cache / "vocab.bpe").unlink()
    (cache / TENSOR_DATA).write_bytes(b"")
    (cache / "encoder.json").write_text("{")
    download_gpt2("124M")
    assert requests == [f"/124M/{name}" for name in ("encoder.json", "vocab.bpe", TENSOR_DATA)]
    assert_whole(cache)


@pytest.mark.parametrize(
    "first",
    [
        lambda name, content: None,
        only(TENSOR_DATA, lambda content: (content[:1000], len(content))),
        only(TENSOR_DATA, lambda content: content[:1000]),
        only("vocab.bpe", lambda content: None),
        lambda name, content: b"<html>Sign in to this network</html>",
    ],
    ids=[
        "404",
        "a connection that ends too soon",
        "a short file",
        "no vocab.bpe",
        "a page to sign in",
    ],
)
def test_what_the_first_address_does_not_have_comes_from_the_second(
    server, cache, monkeypatch, first
):
    addresses = [server(first)[0], server()[0]]
    monkeypatch.setenv(URLS, ", ".join(addresses))
    download_gpt2("124M")
    assert_whole(cache)


def test_an_address_where_nobody_answers_is_passed_over(server, cache, monkeypatch):
    monkeypatch.setenv(URLS, f"http://127.0.0.1:{refused_port()},not-an-address,{server()[0]}/")
    download_gpt2("124M")
    assert_whole(cache)


@pytest.mark.parametrize("broken", FILES)
@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (lambda content: None, "404 Not Found"),
        (lambda content: (content[:50], len(content)), "ChunkedEncodingError"),
        (lambda content: b"<html>", "not the expected file"),
    ],
    ids=["404", "short", "wrong"],
)
def test_a_download_that_fails_everywhere_says_so_in_one_line_and_leaves_whole_files_only(
    server, cache, monkeypatch, broken, answer, reason
):
    url, _ = server(only(broken, answer))
    monkeypatch.setenv(URLS, f"{url}/a,{url}/b")
    with pytest.raises(ConfigError) as caught:
        download_gpt2("124M")
    message = str(caught.value)
    assert message.startswith(
        f"cannot download {broken} of GPT-2: {url}/a/124M/{broken} ({reason}), {url}/b/124M/"
    )
    assert f"into {cache}, use a folder" in message and "hf:FOLDER" in message
    assert "\n" not in message
    assert names_in(cache) == set(FILES[: FILES.index(broken)])


def test_an_interrupted_download_leaves_nothing_behind(server, cache, monkeypatch):
    url, _ = server()
    monkeypatch.setenv(URLS, url)

    class Interrupted(pooch.HTTPDownloader):
        def __call__(self, url, output_file, pooch, **kwargs):
            super().__call__(url, output_file, pooch, **kwargs)
            if url.endswith(TENSOR_DATA):
                Path(output_file).write_bytes(b"half")
                raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("pooch.HTTPDownloader", Interrupted)
        with pytest.raises(KeyboardInterrupt):
            download_gpt2("124M")
    assert names_in(cache) == set(FILES) - {TENSOR_DATA}
    download_gpt2("124M")
    assert_whole(cache)


def test_a_size_that_was_never_published_is_refused():
    with pytest.raises(
        ConfigError,
        match=r"GPT-2 \(345M\) must be one of 124M, 355M, 774M, 1558M; did you mean '355M'",
    ):
        download_gpt2("345M")


def test_a_cache_that_cannot_be_written_is_refused(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("FIRSTLIGHT_CACHE_DIR", str(tmp_path / "file"))
    with pytest.raises(
        ConfigError, match=r"cannot write .+file/gpt2/124M \(Not a directory\); set FIRST"
    ):
        download_gpt2("124M")
