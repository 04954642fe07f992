"""A server on loopback that speaks the Hugging Face Hub's protocol, with faults on request.

Downloads: ``HEAD`` and ``GET /{org}/{repo}/resolve/{revision}/{file}`` with X-Repo-Commit, ETag and X-Linked-Size,
X-Error-Code on errors, and byte ranges. Small files are answered directly, safetensors by a redirect to storage as
the Hub does for large files.

Uploads: repositories are made by ``POST /api/repos/create``; the card goes to ``/api/validate-yaml``; ``preupload``
says which files are large, those go to storage by a ``PUT`` that the LFS batch names (not by Xet, which tests switch
off), and one ``POST .../commit/{branch}`` puts the files together; ``POST .../tag/{revision}`` tags a commit.
"""

import base64
import contextlib
import hashlib
import json
import re
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

import yaml

MODEL = r"/api/models/([\w.-]+/[\w.-]+)"


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
    read_token = "hf_readonly"

    def __init__(self):
        self.repos: dict[str, Repo] = {}
        self.blobs: dict[str, bytes] = {}
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        self.cut: list[int] = []  # each next storage answer breaks off after so many bytes
        self.status: int | None = None  # answer everything with this
        # by file name: status, wait (seconds), announce (its size), send (instead of its content, or parts of that),
        # length (Content-Length of that), encoding (of that), chunked (no length at all), headers (instead of the
        # true ones), honest (how many requests for its address get the true ones before), call (this, at each request)
        self.faults: dict[str, dict] = {}
        self.sent = 0  # bytes of what was sent instead
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

    def do_POST(self):
        self.answer()

    def do_PUT(self):
        self.answer()

    def answer(self):
        path = unquote(self.path)
        body = self.body()
        self.hub.requests.append((self.command, path, dict(self.headers)))
        if self.hub.status:
            return self.fail(self.hub.status, None)
        if self.command in ("POST", "PUT"):
            return self.write(path, body)
        if match := re.fullmatch(r"/storage/([0-9a-f]{64})", path):
            cut = self.hub.cut.pop(0) if self.hub.cut else None
            return self.send(self.hub.blobs[match[1]], {}, cut, self.hub.faults.get("model.safetensors"))
        if match := re.fullmatch(f"{MODEL}(/refs)?", path):
            return self.describe(*match.groups())
        return self.resolve(path)

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def bears(self, *tokens: str) -> bool:
        return self.headers.get("Authorization") in [f"Bearer {token}" for token in tokens]

    def readable(self, name: str) -> Repo | None:
        """The repository, unless there is none or it is hidden; the Hub does not tell these apart."""
        repo = self.hub.repos.get(name)
        return (
            repo if repo and (not repo.private or self.bears(self.hub.token, self.hub.read_token)) else None
        )

    # -- reading

    def describe(self, name: str, refs: str | None):
        repo = self.readable(name)
        if repo is None:
            return self.fail(401, "RepoNotFound")
        if not refs:
            return self.json({"id": name, "private": repo.private, "sha": repo.refs.get("main")})
        listed = {"branches": [], "tags": [], "converts": []}
        for ref, commit in repo.refs.items():
            kind, folder = ("branches", "heads") if ref == "main" else ("tags", "tags")
            listed[kind].append({"name": ref, "ref": f"refs/{folder}/{ref}", "targetCommit": commit})
        return self.json(listed)

    def resolve(self, path: str):
        match = re.fullmatch(r"/([\w.-]+/[\w.-]+)/resolve/([^/]+)/(.+)", path)
        if not match:
            return self.fail(404, None)
        name, revision, file = match.groups()
        repo = self.readable(name)
        if repo is None:
            return self.fail(401, "RepoNotFound")
        commit = repo.refs.get(revision, revision)
        if commit not in repo.commits:
            return self.fail(404, "RevisionNotFound")
        if file not in repo.commits[commit]:
            return self.fail(404, "EntryNotFound", {"X-Repo-Commit": commit})
        content = repo.commits[commit][file]
        headers = {"X-Repo-Commit": commit}
        fault = self.hub.faults.get(file, {})
        time.sleep(fault.get("wait", 0))
        if "call" in fault:
            fault["call"]()
        if status := fault.get("status"):
            return self.fail(status, None, headers, fault)
        announced = fault.get("announce", len(content))
        if not file.endswith(".safetensors"):
            blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
            headers |= {"ETag": f'"{blob}"'} | (
                {"X-Linked-Size": str(announced)} if "announce" in fault else {}
            )
            return self.send(content, headers | self.hostile(fault), fault=fault)
        sha256 = hashlib.sha256(content).hexdigest()
        self.hub.blobs.setdefault(sha256, content)
        headers |= {
            "X-Linked-ETag": f'"{sha256}"',
            "X-Linked-Size": str(announced),
            "Location": f"{self.hub.storage}/storage/{sha256}",
            "Content-Length": "0",
        }
        headers |= self.hostile(fault)
        self.send_response(302)
        for key, value in headers.items():
            self.send_header(key, value)
        return self.end_headers()

    def hostile(self, fault: dict) -> dict[str, str]:
        """The headers that this answer has instead of the true ones."""
        fault["honest"] = fault.get("honest", 0) - 1
        return fault.get("headers", {}) if fault["honest"] < 0 else {}

    # -- writing

    def write(self, path: str, body: bytes):
        if match := re.fullmatch(r"/storage/([0-9a-f]{64})", path):  # the address is the permission
            if hashlib.sha256(body).hexdigest() != match[1]:
                return self.fail(400, None)
            self.hub.blobs[match[1]] = body
            return self.json({})
        if not self.bears(self.hub.token):
            if self.bears(self.hub.read_token):
                return self.fail(403, None)
            return self.fail(401, None, {"X-Error-Message": "Invalid username or password."})
        if path == "/api/repos/create":
            return self.create(json.loads(body))
        if path == "/api/validate-yaml":
            return self.validate(json.loads(body)["content"])
        for pattern, action in (
            (rf"{MODEL}/preupload/(main)", self.preupload),
            (r"/([\w.-]+/[\w.-]+)\.git/info/lfs/objects/(batch)", self.batch),
            (rf"{MODEL}/commit/(main)", self.commit),
            (rf"{MODEL}/tag/([\w.-]+)", self.tag),
        ):
            if match := re.fullmatch(pattern, path):
                if match[1] not in self.hub.repos:
                    return self.fail(404, "RepoNotFound")
                return action(match[1], match[2], body)
        return self.fail(404, None)

    def create(self, wanted: dict):
        name = f"{wanted['organization']}/{wanted['name']}"
        answer = {"url": f"{self.hub.url}/{name}", "name": name}
        if name in self.hub.repos:
            return self.json({**answer, "error": "You already created this model repo"}, 409)
        self.hub.repo(name).private = wanted.get("visibility") == "private"
        self.hub.repo(name).commit({".gitattributes": b"*.safetensors filter=lfs diff=lfs merge=lfs -text"})
        return self.json(answer)

    def validate(self, card: str):
        """The part of the Hub's rules that a card of ours could break."""
        facts = yaml.safe_load(card.split("---\n")[1])
        errors = []
        if not re.fullmatch(r"[a-z0-9.-]+", facts.get("license", "")):
            errors.append({"message": '"license" must be one of the listed identifiers'})
        if facts.get("license") == "other" and not re.fullmatch(
            r"[a-z0-9.-]+", facts.get("license_name", "")
        ):
            errors.append({"message": '"license_name" must be an identifier'})
        if not re.fullmatch(r"[\w.-]+/[\w.-]+", facts.get("base_model", "a/b")):
            errors.append({"message": '"base_model" must be a model id'})
        return self.json({"errors": errors, "warnings": []}, 400 if errors else 200)

    def preupload(self, name: str, branch: str, body: bytes):
        files = [
            {
                "path": file["path"],
                "uploadMode": "lfs" if file["path"].endswith(".safetensors") else "regular",
                "shouldIgnore": False,
            }
            for file in json.loads(body)["files"]
        ]
        return self.json({"files": files})

    def batch(self, name: str, _: str, body: bytes):
        objects = [
            {**wanted, "actions": {"upload": {"href": f"{self.hub.storage}/storage/{wanted['oid']}"}}}
            for wanted in json.loads(body)["objects"]
        ]
        return self.json({"transfer": "basic", "objects": objects})

    def commit(self, name: str, branch: str, body: bytes):
        files = {}
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                if value["oid"] not in self.hub.blobs:
                    return self.fail(400, None)
                files[value["path"]] = self.hub.blobs[value["oid"]]
        commit = self.hub.repo(name).commit(files)
        return self.json({"commitUrl": f"{self.hub.url}/{name}/commit/{commit}", "commitOid": commit})

    def tag(self, name: str, revision: str, body: bytes):
        refs, tag = self.hub.repo(name).refs, json.loads(body)["tag"]
        if tag in refs:
            return self.fail(409, None)
        refs[tag] = refs.get(revision, revision)
        return self.json({})

    # -- answers

    def json(self, content: dict, status: int = 200):
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def send(
        self, content: bytes, headers: dict[str, str], cut: int | None = None, fault: dict | None = None
    ):
        if fault and "send" in fault and self.command == "GET":
            self.lie(fault, len(content), headers)
            return
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

    def lie(self, fault: dict, announced: int, headers: dict[str, str], status: int = 200):
        """Other bytes than the file has, or another length than was said."""
        self.send_response(status)
        length = {"Transfer-Encoding": "chunked"} if fault.get("chunked") else {}
        length = length or {"Content-Length": str(fault.get("length", announced))}
        length |= {"Content-Encoding": fault["encoding"]} if "encoding" in fault else {}
        for key, value in (headers | length).items():
            self.send_header(key, value)
        self.end_headers()
        self.close_connection = True
        parts = data = fault["send"]
        if isinstance(data, bytes):
            parts = (data[start : start + (1 << 20)] for start in range(0, len(data), 1 << 20))
        with contextlib.suppress(OSError):  # the client has had enough
            for part in parts:
                self.wfile.write(b"%x\r\n%b\r\n" % (len(part), part) if fault.get("chunked") else part)
                self.hub.sent += len(part)
            self.wfile.write(b"0\r\n\r\n" if fault.get("chunked") else b"")
            self.wfile.flush()

    def fail(
        self, status: int, code: str | None, headers: dict[str, str] | None = None, fault: dict | None = None
    ):
        headers = (headers or {}) | (self.hostile(fault) if fault else {})
        if fault and "send" in fault and self.command == "GET":
            self.lie(fault, 0, headers, status)
            return
        body = json.dumps({"error": code or "failed"}).encode()
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(key, value)
        if code:
            self.send_header("X-Error-Code", code)
            self.send_header("X-Error-Message", code)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
