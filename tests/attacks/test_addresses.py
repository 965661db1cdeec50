"""A checkpoint is a file or a folder here, never an address: nothing is asked for over the network
to be unpickled.

Lightning's `load_from_checkpoint("http://...")` downloads the file and runs the code in it.
"""

import io
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from doors import CODE, DOORS, RESUME, TRAIN


class _Pickles(BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.requests.append(self.path)
        content = io.BytesIO()
        torch.save({"state_dict": CODE}, content)
        self.send_response(200)
        self.send_header("Content-Length", str(len(content.getvalue())))
        self.end_headers()
        self.wfile.write(content.getvalue())

    do_HEAD = do_GET

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    """A server on this machine that answers every request with a pickle, and counts them."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Pickles) as server:
        server.requests = []
        thread = threading.Thread(
            target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
        )
        thread.start()
        yield server
        server.shutdown()


def address(server, scheme="http"):
    return f"{scheme}://127.0.0.1:{server.server_address[1]}/model.ckpt"


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("scheme", ["http", "file"])
def test_an_address_is_refused_at_every_door_and_never_asked(door, scheme, server, refusal):
    torch.save({"state_dict": CODE}, "model.ckpt")
    name = address(server) if scheme == "http" else f"file://{Path('model.ckpt').absolute()}"
    assert "must be a file or a run folder; download it first" in refusal(DOORS[door](name))
    assert server.requests == []


@pytest.mark.parametrize(
    "scheme", ["HTTP", "https", "ftp", "s3", "memory", "github", "simplecache::http", "zip"]
)
def test_no_scheme_is_followed(scheme, server, refusal):
    assert "must be a file or a run folder" in refusal(DOORS["generate"](address(server, scheme)))
    assert server.requests == []


@pytest.mark.parametrize("prefix", ["hf:", "openai:", "hf:./"])
def test_an_address_behind_the_name_of_a_source_is_none(prefix, server, refusal):
    refusal(DOORS["generate"](prefix + address(server)))
    assert server.requests == []


@pytest.mark.parametrize(
    "name", ["http:/127.0.0.1/x", "//127.0.0.1/x", "file:x", "model.ckpt?x=y", "~nobody-here/x"]
)
def test_what_looks_like_an_address_is_a_file_that_is_not_there(name, refusal):
    assert "no such file" in refusal(DOORS["generate"](f"'{name}'"))


def test_a_run_is_no_address(server, refusal):
    assert "no such folder" in refusal(["train", f"resume={address(server)}", *RESUME])
    assert server.requests == []


def test_a_text_is_no_address(server, refusal):
    texts = [override for override in TRAIN if not override.startswith("data.path")]
    assert "no such file" in refusal(
        ["train", *texts, "output_dir=next", f"data.path={address(server)}"]
    )
    assert server.requests == []
