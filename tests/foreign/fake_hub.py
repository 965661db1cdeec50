"""A hub on this machine: as much of Hugging Face's as `snapshot_download` asks for."""

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class FakeHub(ThreadingHTTPServer):
    """Serves `files` (name to bytes) as the repository `repo`.

    `.safetensors` are stored under their sha256.
    """

    daemon_threads = True

    def __init__(self, repo, files):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repo, self.files = repo, files
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
        repo = self.server.repo
        if path == f"/api/models/{repo}/revision/main":
            return self.answer(json.dumps({"id": repo, "sha": COMMIT}).encode())
        if path == f"/api/models/{repo}/tree/{COMMIT}":
            return self.answer(
                json.dumps([self.entry(name) for name in self.server.files]).encode()
            )
        if path.startswith(f"/api/models/{repo}/revision/"):
            return self.answer(b"", {"X-Error-Code": "RevisionNotFound"}, 404)
        name = path.removeprefix(f"/{repo}/resolve/{COMMIT}/")
        if name not in self.server.files:
            return self.answer(b"", {"X-Error-Code": "RepoNotFound"}, 404)
        headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{self.entry(name)["oid"]}"'}
        if name.endswith(".safetensors"):
            headers["X-Linked-Etag"] = f'"{self.entry(name)["lfs"]["oid"]}"'
        headers["X-Linked-Size"] = str(len(self.server.files[name]))
        return self.answer(self.server.served.get(name, self.server.files[name]), headers)

    def entry(self, name):
        content = self.server.files[name]
        blob = b"blob %d\0" % len(content) + content  # as git hashes a file
        entry = {
            "type": "file",
            "path": name,
            "size": len(content),
            "oid": hashlib.sha1(blob).hexdigest(),
        }
        if name.endswith(".safetensors"):
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
            self.wfile.write(body)

    def log_message(self, *_):
        pass
