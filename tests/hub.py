"""A server on loopback that speaks the Hugging Face Hub's protocol for downloads, with faults on request.

Small files are answered directly, safetensors by a redirect to storage as the Hub does for large files:
``HEAD`` and ``GET /{org}/{repo}/resolve/{revision}/{file}`` with X-Repo-Commit, ETag and X-Linked-Size, X-Error-Code
on errors, and byte ranges.
"""

import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote


@dataclass
class Repo:
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)  # branch or tag -> commit
    private: bool = False

    def commit(self, files: dict[str, bytes], *refs: str) -> str:
        """Add a commit with these files; `main` and the given refs point to it."""
        parent = self.commits.get(self.refs.get("main", ""), {})
        digest = hashlib.sha1(str(len(self.commits)).encode())
        for name, content in sorted(files.items()):
            digest.update(name.encode() + content)
        commit = digest.hexdigest()
        self.commits[commit] = {**parent, **files}
        self.refs |= dict.fromkeys(("main", *refs), commit)
        return commit


class Hub:
    """Start with `with Hub() as hub`; `hub.repo("org/name").commit({...})` publishes."""

    token = "hf_correct"

    def __init__(self):
        self.repos: dict[str, Repo] = {}
        self.blobs: dict[str, bytes] = {}
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        self.cut: list[int] = []  # each next storage answer breaks off after so many bytes
        self.status: int | None = None  # answer everything with this
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.storage = f"http://localhost:{self.server.server_port}"  # another host, as the real one's is

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()

    def repo(self, name: str) -> Repo:
        return self.repos.setdefault(name, Repo())

    def downloads(self) -> list[tuple[str, str | None]]:
        """(path, Range header) of every GET so far."""
        return [(path, headers.get("Range")) for method, path, headers in self.requests if method == "GET"]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.answer()

    def do_GET(self):
        self.answer()

    def answer(self):
        path = unquote(self.path)
        self.hub.requests.append((self.command, path, dict(self.headers)))
        if self.hub.status:
            return self.fail(self.hub.status, None)
        if match := re.fullmatch(r"/storage/([0-9a-f]{64})", path):
            return self.send(self.hub.blobs[match[1]], {}, cut=self.hub.cut.pop(0) if self.hub.cut else None)
        match = re.fullmatch(r"/([\w.-]+/[\w.-]+)/resolve/([^/]+)/(.+)", path)
        if not match:
            return self.fail(404, None)
        name, revision, file = match.groups()
        repo = self.hub.repos.get(name)
        if repo is None or (repo.private and self.headers.get("Authorization") != f"Bearer {self.hub.token}"):
            return self.fail(401, "RepoNotFound")
        commit = repo.refs.get(revision, revision)
        if commit not in repo.commits:
            return self.fail(404, "RevisionNotFound")
        if file not in repo.commits[commit]:
            return self.fail(404, "EntryNotFound", {"X-Repo-Commit": commit})
        content = repo.commits[commit][file]
        headers = {"X-Repo-Commit": commit}
        if not file.endswith(".safetensors"):
            blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
            return self.send(content, {**headers, "ETag": f'"{blob}"'})
        sha256 = hashlib.sha256(content).hexdigest()
        self.hub.blobs.setdefault(sha256, content)
        headers |= {
            "X-Linked-ETag": f'"{sha256}"',
            "X-Linked-Size": str(len(content)),
            "Location": f"{self.hub.storage}/storage/{sha256}",
            "Content-Length": "0",
        }
        self.send_response(302)
        for key, value in headers.items():
            self.send_header(key, value)
        return self.end_headers()

    def send(self, content: bytes, headers: dict[str, str], cut: int | None = None):
        status, start = 200, 0
        if match := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "")):
            status, start = 206, int(match[1])
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        body = content[start:]
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(body)), "Accept-Ranges": "bytes"}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body if cut is None else body[:cut])
            if cut is not None:
                self.wfile.flush()
                self.connection.close()
                self.close_connection = True

    def fail(self, status: int, code: str | None, headers: dict[str, str] | None = None):
        body = json.dumps({"error": code or "failed"}).encode()
        self.send_response(status)
        for key, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
            self.send_header(key, value)
        if code:
            self.send_header("X-Error-Code", code)
            self.send_header("X-Error-Message", code)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)
