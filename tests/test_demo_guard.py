"""What the server of ``aigciqa demo`` refuses: files that are not its own, other sites, and too much."""

import gc
import http.client
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import quote, urlsplit

import pytest
from conftest import random_network, tiny_config

from aigciqa import guard
from aigciqa.demo import serve
from aigciqa.weights import save_checkpoint

pytestmark = [
    pytest.mark.slow,  # for Gradio
    pytest.mark.skipif(not importlib.util.find_spec("gradio"), reason="needs gradio"),
]
API = "/gradio_api"
FILE = {"meta": {"_type": "gradio.FileData"}}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    config = tiny_config("none")
    folder = tmp_path_factory.mktemp("guard") / config.name
    save_checkpoint(folder, config, random_network(config).state_dict())
    return folder


@pytest.fixture(scope="module")
def address(checkpoint):
    with serve([checkpoint], device="cpu") as found:
        yield found


def ask(address, method, path, body=None, **headers):
    """Status, headers and the whole answer."""
    place = urlsplit(address)
    connection = http.client.HTTPConnection(place.hostname, place.port, timeout=60)
    data = json.dumps(body).encode() if isinstance(body, dict) else body
    given = {"Content-Type": "application/json"} | {k.replace("_", "-"): v for k, v in headers.items()}
    connection.request(method, quote(path, safe="/=?&:%"), data, given)
    answer = connection.getresponse()
    found = answer.status, answer.headers, answer.read()
    connection.close()
    return found


def upload(address, data, name="a.png", **headers):
    body = (
        f'--x\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'.encode()
        + data
        + b"\r\n--x--\r\n"
    )
    return ask(
        address,
        "POST",
        f"{API}/upload",
        body,
        **({"Content_Type": "multipart/form-data; boundary=x"} | headers),
    )


@pytest.fixture
def own(address, picture, tmp_path):
    """The path of an uploaded picture."""
    picture(40, 30).save(tmp_path / "own.png")
    (path,) = json.loads(upload(address, (tmp_path / "own.png").read_bytes())[2])
    return Path(path)


def last(events):
    """Kind and data of the last event of a stream."""
    kind, _, data = events.decode().strip().split("\n\n")[-1].partition("\n")
    return kind, data


def by_call(address, data, version=""):
    if version:
        names = json.loads(ask(address, "GET", f"{API}/info")[2])["named_endpoints"]["/score"]["parameters"]
        body = {one["parameter_name"]: value for one, value in zip(names, data, strict=True)}
    else:
        body = {"data": data}
    status, _, answer = ask(address, "POST", f"{API}/call/{version}score", body)
    if status != 200:
        return f"{status}", answer.decode()
    event = json.loads(answer)["event_id"]
    return last(ask(address, "GET", f"{API}/call/{version}score/{event}")[2])


def by_queue(address, data):
    config = json.loads(ask(address, "GET", "/config")[2])
    (number,) = [one["id"] for one in config["dependencies"] if one["api_name"] == "score"]
    body = {"data": data, "fn_index": number, "session_hash": "s"}
    status, _, answer = ask(address, "POST", f"{API}/queue/join", body)
    if status != 200:
        return f"{status}", answer.decode()
    events = ask(address, "GET", f"{API}/queue/data?session_hash=s")[2].decode().strip().split("\n\n")
    told = [json.loads(event.removeprefix("data: ")) for event in events]
    (done,) = [one for one in told if one["msg"] == "process_completed"]
    return f"event: {'complete' if done['success'] else 'error'}", json.dumps(done["output"])


def by_run(address, data):
    """At once, as the example is taken over."""
    status, _, answer = ask(address, "POST", f"{API}/run/score", {"data": data, "session_hash": "r"})
    return f"event: {'complete' if status == 200 else 'error'}", answer.decode()


WAYS = [by_call, lambda address, data: by_call(address, data, "v2/"), by_queue, by_run]


@pytest.mark.parametrize("way", WAYS, ids=["call", "call-v2", "queue", "run"])
def test_an_upload_is_scored(address, checkpoint, own, way):
    for form in ({"path": str(own)}, {"path": str(own)} | FILE):
        kind, said = way(address, [str(checkpoint), form, None])
        assert kind == "event: complete" and "class='scores'" in said, said


FORMS = [
    lambda path: {"path": path},
    lambda path: {"path": path} | FILE,
    lambda path: {"path": path, "url": path, "orig_name": "own.png"},
    lambda path: {"path": path, "is_stream": True} | FILE,
    lambda path: {"path": f"file://{path}"},
    lambda path: {"path": f"file://{path}"} | FILE,
    lambda path: {"url": f"file://{path}"},
    lambda path: {"path": path, "meta": {}},
    lambda path: {"path": {"path": path} | FILE},
    lambda path: {"path": [path]},
    lambda path: {"value": {"path": path} | FILE},
    lambda path: {"path": f"{path}\0.png"},
    lambda path: path,
    lambda path: [path],
    lambda path: [{"path": path} | FILE],
    lambda path: {"path": path, "orig_name": {"path": path} | FILE},
]


@pytest.mark.parametrize("way", WAYS, ids=["call", "call-v2", "queue", "run"])
@pytest.mark.parametrize("form", FORMS)
def test_no_form_of_a_path_reads_another_file(address, checkpoint, own, picture, tmp_path, way, form):
    """And what exists is not told from what does not."""
    picture(50, 50).save(tmp_path / "private.png")
    answers = []
    for path in (tmp_path / "private.png", tmp_path / "missing.png"):
        kind, said = way(address, [str(checkpoint), form(str(path)), None])
        assert kind != "event: complete", said
        assert "class='scores'" not in said
        answers.append((kind, said.replace(path.name, "X")))
    assert answers[0] == answers[1]


def test_nothing_in_the_folder_leads_out_of_it(address, checkpoint, own, picture, tmp_path):
    """Links, pipes and folders, for the score and as a file to fetch."""
    picture(50, 50).save(tmp_path / "private.png")
    places = {
        "link.png": lambda path: path.symlink_to(tmp_path / "private.png"),
        "inner.png": lambda path: path.symlink_to(own),
        "pipe.png": os.mkfifo,  # with nobody who writes: waiting for one would last for ever
        "folder": lambda path: path.mkdir() or (tmp_path / "x").symlink_to(path),
        "linked": lambda path: path.symlink_to(tmp_path),
    }
    for name, make in places.items():
        make(own.parent / name)
    tried = [
        *(own.parent / name for name in places),
        own.parent / "linked" / "private.png",
        own.parent / ".." / own.parent.name / own.name,
        Path("/proc/self/environ"),
        Path("/proc/self/fd/0"),
        Path("/dev/zero"),
        Path("own.png"),
        own.parents[1],
    ]
    for path in tried:
        for form in ({"path": str(path)}, {"path": str(path)} | FILE):
            kind, said = by_call(address, [str(checkpoint), form, None])
            assert kind == "event: error" and "scores" not in said, path
        assert ask(address, "GET", f"{API}/file={path}")[0] == 404, path
    assert by_call(address, [str(checkpoint), {"path": str(own)}, None])[0] == "event: complete"
    for name in places:
        place = own.parent / name
        place.rmdir() if name == "folder" else place.unlink()


def test_a_url_is_not_fetched(address, checkpoint):
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_error(404)

        do_HEAD = do_GET

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/a.png"
        for form in ({"path": url}, {"path": url} | FILE, {"url": url, "path": "a.png"} | FILE):
            assert by_call(address, [str(checkpoint), form, None])[0] == "event: error"
        for route in ("file=", "proxy=", "file/"):
            assert ask(address, "GET", f"{API}/{route}{url}")[0] == 404
        server.shutdown()
    assert asked == []


def test_no_route_serves_another_file(address, own, picture, tmp_path):
    """Each that Gradio has, with a path in every place that it takes one."""
    from gradio.routes import App

    secret = "a secret of this machine"
    for path in (tmp_path / "private.txt", tmp_path / "private.png"):
        path.write_text(secret)
    apps = [one for one in gc.get_objects() if type(one).__name__ == "Guarded" and isinstance(one, App)]
    below = [route for app in apps for route in app.routes]
    below += [
        route for one in below if hasattr(one, "original_router") for route in one.original_router.routes
    ]
    routes = {
        (m, r.path) for r in below if hasattr(r, "path") for m in getattr(r, "methods", None) or ["GET"]
    }
    assert len(routes) > 60 and ("POST", f"{API}/component_server") in routes
    let_through = set()
    for method, template in sorted(routes):
        for path in (
            str(tmp_path / "private.txt"),
            f"../../../..{tmp_path}/private.png",
            f"/{tmp_path}/private.txt",
        ):
            place = re.sub(r"\{[^}]*:path\}", path, template)
            place = re.sub(r"\{[^}]*\}", quote(path, safe=""), place)
            if "queue/data" in place or "heartbeat" in place:  # streams without end, of sessions
                continue
            body = {
                "data": [path],
                "path": path,
                "session_hash": "r",
                "fn_name": "x",
                "component_id": 1,
                "event_id": "e",
            }
            status, _, answer = ask(address, method, place, body if method == "POST" else None)
            assert secret.encode() not in answer, (method, place)
            if status not in (403, 404, 405):
                let_through.add((method, template))
    closed = "proxy|_api/api/|component_server|stream|recording|monitoring|vibe|login|deep|bucket|reload"
    assert not [route for route in let_through if re.search(closed, route[1])]


OTHERS = ["evil.example", "evil.example:7860", "127.0.0.1.evil.example", "localhost@evil.example", "192.168.1.5:7860",
          "0.0.0.0", "2130706433", "", "localhost.", "[::", "[::1].evil.example"]  # fmt: skip


@pytest.mark.parametrize("host", OTHERS)
def test_another_name_of_the_server_is_refused(address, own, host):
    """A page of the web, whose owner points its name at this machine."""
    origin = f"http://{host}"
    for method, path in (
        ("GET", "/"),
        ("GET", f"{API}/file={own}"),
        ("POST", f"{API}/upload"),
        ("OPTIONS", "/"),
    ):
        status, headers, _ = ask(
            address, method, path, Host=host, Origin=origin, Access_Control_Request_Method="POST"
        )
        assert status in (400, 403), (method, path)
        assert not [name for name in headers if name.lower().startswith("access-control")]


def test_its_own_names_are_let_in(address, own):
    port = urlsplit(address).port
    for name in ("localhost", "LOCALHOST", "127.0.0.1", "[::1]"):
        for host in (name, f"{name}:{port}", f"{name}:9999"):  # the last through a tunnel
            assert ask(address, "GET", f"{API}/file={own}", Host=host, Origin=f"http://{host}")[0] == 200


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "http://localhost:3000", "", "file://", "x"]
)
def test_pages_of_other_sites_are_refused(address, own, origin):
    for method, path in (
        ("POST", f"{API}/call/score"),
        ("POST", f"{API}/upload"),
        ("GET", f"{API}/file={own}"),
    ):
        status, headers, _ = ask(
            address, method, path, {"data": []} if method == "POST" else None, Origin=origin
        )
        assert status == 403
        assert not [name for name in headers if name.lower().startswith("access-control")]


def test_two_names_are_none(address):
    place = urlsplit(address)
    connection = http.client.HTTPConnection(place.hostname, place.port, timeout=60)
    connection.putrequest("GET", "/", skip_host=True)
    for host in ("localhost", "evil.example"):
        connection.putheader("Host", host)
    connection.endheaders()
    assert connection.getresponse().status in (400, 403)
    connection.close()


def test_other_machines_come_under_the_names_that_were_given(checkpoint):
    with serve([checkpoint], host="0.0.0.0", names=["demo.example"], device="cpu") as address:
        for host, origin in (
            ("192.168.1.5:7860", "http://192.168.1.5:7860"),
            ("[fd00::1]:7860", "http://[fd00::1]:7860"),
            ("demo.example", "https://demo.example"),
            ("127.0.0.1:7860", "https://demo.example"),  # a proxy that does not tell its own name
        ):
            assert ask(address, "GET", "/config", Host=host, Origin=origin)[0] == 200
        for host, origin in (
            ("evil.example", "http://evil.example"),
            ("demo.example", "https://evil.example"),
            ("192.168.1.5:7860", "http://192.168.1.6:7860"),
        ):
            assert ask(address, "GET", "/config", Host=host, Origin=origin)[0] == 403


def test_too_much_is_refused_before_it_is_stored(address, own, monkeypatch):
    before = guard.stored(own.parents[1])
    assert upload(address, b"", Content_Length=str(guard.MAX_BYTES * 2))[0] == 413
    monkeypatch.setattr(guard, "MAX_STORED", before + 2000)
    assert upload(address, b"x" * 1000, "one.png")[0] == 200
    assert upload(address, b"x" * 1500, "two.png")[0] == 507
    assert guard.stored(own.parents[1]) == before + 1000
    data = iter([b"{}"])  # in chunks, without a length
    assert ask(address, "POST", f"{API}/call/score", data)[0] == 411
    data = iter([b"{}"])  # in chunks, beside a length that the server does not heed
    chunked = {"Content_Length": "2", "Transfer_Encoding": "chunked"}
    assert ask(address, "POST", f"{API}/call/score", data, **chunked)[0] == 411
    assert ask(address, "POST", f"{API}/call/score", b"x" * (guard.MAX_MESSAGE + 1))[0] == 413


def test_hostile_values_are_one_error(address, checkpoint, own):
    for name in ([], {}, 3, None, "x" * 10_000, "/etc/passwd"):
        kind, said = by_call(address, [name, {"path": str(own)}, None])
        assert kind == "event: error" and "/etc/passwd" not in said
    for named in (["x"], {"a": 1}, 7, True):
        kind, _ = by_call(address, [str(checkpoint), {"path": "/x", "orig_name": named}, None])
        assert kind == "event: error"
    kind, said = by_call(address, [str(checkpoint), {"path": "/x", "orig_name": "<b>" + "y" * 9999}, None])
    assert "&lt;b&gt;y" in said and len(said) < 400


@pytest.mark.skipif(sys.platform == "win32", reason="has none of these signals")
@pytest.mark.parametrize("kind", [signal.SIGHUP, signal.SIGQUIT, signal.SIGTERM])
def test_a_closed_terminal_ends_it_and_leaves_nothing(checkpoint, tmp_path, kind):
    command = [sys.executable, "-c", "from aigciqa.program import main; main()"]
    command = [
        str(Path(sys.executable).with_name("aigciqa")),
        "demo",
        "--metric",
        str(checkpoint),
        "--device",
        "cpu",
    ]
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        address = process.stdout.readline().split()[0]
        assert upload(address, b"private")[0] == 200
        assert list(tmp_path.iterdir())
        process.send_signal(kind)
        process.send_signal(kind)  # as a shell and the system both do
        assert process.wait(60) == 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform == "win32", reason="has no such signal")
def test_nohup_keeps_it(checkpoint, tmp_path):
    command = ["nohup", str(Path(sys.executable).with_name("aigciqa")), "demo", "--metric", str(checkpoint)]
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    with subprocess.Popen(
        [*command, "--device", "cpu"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        address = process.stdout.readline().split()[0]
        process.send_signal(signal.SIGHUP)
        assert ask(address, "GET", "/config")[0] == 200
        process.terminate()
        assert process.wait(60) == 0
