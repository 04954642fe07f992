"""What may reach the server of the demo: requests of its own page, for what that page needs, and files of its own.

Gradio answers any address that reaches it, on routes for purposes that the demo does not have. A page of the web can
send requests to this machine, under a name that its owner points here (DNS rebinding), so these are refused first.
"""

import ipaddress
import os
import re
import stat
from collections.abc import Awaitable, Callable, Collection, MutableMapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, TypeAlias

Scope: TypeAlias = "MutableMapping[str, Any]"
Receive: TypeAlias = "Callable[[], Awaitable[MutableMapping[str, Any]]]"
Send: TypeAlias = "Callable[[MutableMapping[str, Any]], Awaitable[None]]"
Application: TypeAlias = "Callable[[Scope, Receive, Send], Awaitable[None]]"

LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
MAX_BYTES = 64_000_000  # of an uploaded file
MAX_STORED = 1_000_000_000  # of all uploaded files together
MAX_MESSAGE = 1_000_000  # of any other request; one of the page's has a few hundred bytes
_API = "/gradio_api"
_FILE = f"{_API}/file="
_UPLOAD = f"{_API}/upload"
# what Chromium asks for, and what Gradio's client for Python does
_READ = re.compile(
    r"/|/config/?|/theme\.css|/favicon\.ico|/robots\.txt|/manifest\.json|/(assets|static|svelte)/.+"
    rf"|{_API}/(theme\.css|info/?|startup-events|app_id/?|queue/data|queue/status|upload_progress)"
    rf"|{_API}/heartbeat/[^/]+|{_API}/call/[^/]+/[^/]+(/[^/]+)?|{_FILE}.+"
)
_WRITE = re.compile(rf"{_API}/(call/(v2/)?[^/]+|run/[^/]+|queue/join|cancel|reset/?|upload)")


class Guard:
    """An ASGI application before another one.

    Args:
        application: whose requests are looked at.
        folder: where the uploaded files are, without links in its path; no other file is served.
        host: address on which the server listens. On loopback it has the names of this machine's loopback; elsewhere
            also `host` itself, and every IP address, which no other site can take.
        names: further names under which it is reached, such as that of a reverse proxy.
    """

    def __init__(self, application: Application, folder: Path, host: str, names: Collection[str] = ()):
        self.application, self.folder = application, folder
        self.names = {name.lower().strip("[]") for name in names}
        self.hosts = LOOPBACK | self.names | {host.lower().strip("[]")}
        self.addresses = not is_loopback(host)  # whether any IP address is one of its names

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.application(scope, receive, send)
        elif scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
        elif refusal := self._refusal(scope):
            status, reason = refusal
            kind = (b"content-type", b"text/plain; charset=utf-8")
            await send({"type": "http.response.start", "status": status, "headers": [kind]})
            await send({"type": "http.response.body", "body": reason.encode()})
        else:
            await self.application(scope, receive, send)

    def _refusal(self, scope: Scope) -> tuple[int, str] | None:
        """A status and a reason; None for a request to let through."""
        headers: dict[str, list[str]] = {}
        for name, value in scope["headers"]:
            headers.setdefault(name.decode("latin-1").lower(), []).append(value.decode("latin-1"))
        hosts = headers.get("host", [])
        if len(hosts) != 1 or not self._is_own(hosts[0]):
            return 403, "this server has another name; give it with --allow-host"
        if any(not self._is_same(origin, hosts[0]) for origin in headers.get("origin", [])):
            return 403, "the pages of other sites may not use this server"
        method, path = scope["method"], scope["path"]
        if not (_WRITE if method == "POST" else _READ).fullmatch(path):
            return 404, "not here"
        if method == "POST":
            return self._refused_size(headers, path == _UPLOAD)
        if method not in ("GET", "HEAD"):
            return 405, "not here"
        if path.startswith(_FILE):
            file = open_own(self.folder, path.removeprefix(_FILE))
            if file is None:
                return 404, "not here"
            file.close()
        return None

    def _is_own(self, host: str) -> bool:
        name = _name(host)
        if self.addresses and name:
            with suppress(ValueError):
                ipaddress.ip_address(name)
                return True
        return name in self.hosts

    def _is_same(self, origin: str, host: str) -> bool:
        """Whether a page of `origin` is this server's; ``null`` is nobody's."""
        return origin.lower() in (f"http://{host.lower()}", f"https://{host.lower()}") or (
            _name(re.sub("^https?://", "", origin)) in self.names
        )

    def _refused_size(self, headers: dict[str, list[str]], upload: bool) -> tuple[int, str] | None:
        length = headers.get("content-length", [""])[0]
        # a body in chunks ends where it will, whatever length stands beside
        if "transfer-encoding" in headers or not re.fullmatch("[0-9]{1,18}", length):
            return 411, "the request does not say how long it is"
        if int(length) > (MAX_BYTES + MAX_MESSAGE if upload else MAX_MESSAGE):
            return 413, f"files of more than {MAX_BYTES // 1_000_000} MB are refused"
        if upload and int(length) + stored(self.folder) > MAX_STORED:
            return 507, "too many files were uploaded in the last minutes; try again later"
        return None


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a server that listens on `host`.

    Examples:
        >>> is_loopback("127.0.0.1"), is_loopback("[::1]"), is_loopback("0.0.0.0")
        (True, True, False)
    """
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _name(host: str) -> str | None:
    """What a Host header says without its port; None where it is none."""
    found = re.fullmatch(r"(?:\[([0-9a-f:.]+)\]|([\w.-]+))(?::\d+)?", host.lower(), re.ASCII)
    return found and (found[1] or found[2])


def stored(folder: Path) -> int:
    """Bytes of the files in a folder and below."""
    total = 0
    for where, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):  # it was removed in between
                total += Path(where, name).lstat().st_size
    return total


def open_own(folder: Path, path: object) -> IO[bytes] | None:
    """Open a file of a folder; None for whatever is elsewhere, or is a link, or no file, or not there.

    Callers answer all of these alike, so that nobody learns which files exist.

    Args:
        folder: with an absolute path without links.
        path: absolute, from a request; may be anything.

    Examples:
        >>> open_own(Path("/tmp"), "/etc/hostname"), open_own(Path("/tmp"), None)
        (None, None)
    """
    if not isinstance(path, str) or not path.startswith(str(folder) + os.sep):
        return None
    try:
        # what is not where it says it is has a link or ".." on its way
        if os.path.realpath(path) != path:
            return None
        flags = os.O_RDONLY
        for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC", "O_BINARY"):  # as far as the system has them
            flags |= getattr(os, name, 0)
        file = os.fdopen(os.open(path, flags), "rb")
    except (OSError, ValueError):
        return None
    if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        return file
    file.close()
    return None
