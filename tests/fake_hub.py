"""A hub on this machine: as much of Hugging Face's as downloads of models and datasets ask for."""

import hashlib
import json
import re
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class FakeHub(ThreadingHTTPServer):
    """Serves `files` (name to bytes) as the repository `repo`, one of `kind`.

    `.safetensors` and `.parquet` are stored under their sha256.
    """

    daemon_threads = True

    def __init__(self, repo, files, kind="models", commit=COMMIT):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repo, self.files, self.kind, self.commit = repo, files, kind, commit
        self.cuts = []  # of the next answers with a file: bytes after which the connection is cut
        self.ranges = []  # the header Range of each request for a file
        self.knows_ranges = True
        self.stall = 0.0  # seconds before a file is sent
        self.error = None  # (status, X-Error-Code) of every answer
        self.served = {}  # contents to send in place of the announced ones
        self.requests = []
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    def __enter__(self):
        threading.Thread(
            target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
        ).start()
        return self

    def __exit__(self, *_):
        self.shutdown()
        self.server_close()

    def downloaded(self):
        """Names of the files whose content was asked for."""
        return sorted(
            path.rpartition("/")[2]
            for method, path in self.requests
            if method == "GET" and "/api/" not in path
        )


class _Handler(BaseHTTPRequestHandler):
    server: FakeHub

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        path = self.path.partition("?")[0]
        self.server.requests.append((self.command, path))
        if self.server.error is not None:
            status, code = self.server.error
            return self.answer(b"", {"X-Error-Code": code}, status)
        hub = self.server
        api = f"/api/{hub.kind}/{hub.repo}"
        if path in (f"{api}/revision/main", f"{api}/revision/{hub.commit}"):
            return self.answer(json.dumps({"id": hub.repo, "sha": hub.commit}).encode())
        tree = f"{api}/tree/{hub.commit}"
        if path == tree or path.startswith(f"{tree}/"):
            top = unquote(path.removeprefix(tree)).lstrip("/")
            names = [name for name in hub.files if name.startswith(top)]
            return self.answer(json.dumps([self.entry(name) for name in names]).encode())
        if path.startswith(f"{api}/"):
            return self.answer(b"", {"X-Error-Code": "RevisionNotFound"}, 404)
        top = "" if hub.kind == "models" else f"/{hub.kind}"
        name = path.removeprefix(f"{top}/{hub.repo}/resolve/{hub.commit}/")
        if name not in hub.files:
            return self.answer(b"", {"X-Error-Code": "RepoNotFound"}, 404)
        entry = self.entry(name)
        headers = {"X-Repo-Commit": hub.commit, "ETag": f'"{entry["oid"]}"'}
        if "lfs" in entry:
            headers["X-Linked-Etag"] = f'"{entry["lfs"]["oid"]}"'
        headers["X-Linked-Size"] = str(len(hub.files[name]))
        return self.answer_file(hub.served.get(name, hub.files[name]), headers)

    def answer_file(self, content, headers):
        hub = self.server
        if self.command == "GET":
            hub.ranges.append(self.headers.get("Range"))
            time.sleep(hub.stall)
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
        if asked is None or not hub.knows_ranges:
            return self.answer(content, headers)
        first = int(asked[1])
        headers["Content-Range"] = f"bytes {first}-{len(content) - 1}/{len(content)}"
        return self.answer(content[first:], headers, 206)

    def entry(self, name):
        content = self.server.files[name]
        blob = b"blob %d\0" % len(content) + content  # as git hashes a file
        entry = {
            "type": "file",
            "path": name,
            "size": len(content),
            "oid": hashlib.sha1(blob).hexdigest(),
        }
        if name.endswith((".safetensors", ".parquet")):
            entry["lfs"] = {
                "oid": hashlib.sha256(content).hexdigest(),
                "size": len(content),
                "pointerSize": 130,
            }
        return entry

    def answer(self, body, headers=None, status=200):
        self.send_response(status)
        for key, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            hub = self.server
            is_file = "/resolve/" in self.path
            self.wfile.write(body[: hub.cuts.pop(0)] if is_file and hub.cuts else body)

    def log_message(self, *_):
        pass
