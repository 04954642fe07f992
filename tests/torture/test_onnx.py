"""An ONNX file comes from anybody: a hostile one is refused, runs nothing of its own, and gives no wrong score."""

import json
import os
import re
import subprocess
import sys
import zipfile

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper
from PIL import Image

from aigciqa import graph, limits
from aigciqa.errors import CheckpointError
from aigciqa.onnx import OnnxNetwork
from aigciqa.walking import shown

from .graphs import CONFIG, SIDE, failing, model, refused, scored
from .processes import Run, in_process, score_with_graphs

MEMORY = 64 << 20  # bytes that a graph may use here, instead of gigabytes
MOST_BYTES = 200 << 20
BLACK = torch.zeros(1, 3, SIDE, SIDE, dtype=torch.uint8)


def outcomes(files, tmp_path):
    """What comes of each file, from a process of its own."""
    report = tmp_path / "report.jsonl"
    code = in_process(score_with_graphs, [str(path) for path in files], report, MEMORY)
    lines = [json.loads(line) for line in report.read_text().splitlines()]
    assert code == 0 and len(lines) == len(files), f"it ended with {code} at {files[len(lines)].name}"
    return lines


def write(folder, name, content):
    path = folder / f"{name}.onnx"
    path.write_bytes(content if isinstance(content, bytes) else content.SerializeToString())
    return path


def test_each_hostile_graph_is_one_clear_error(tmp_path, tally):
    at_once, later = list(refused()), list(failing())
    files = [write(tmp_path, name, content) for name, content, _ in at_once + later]
    assert len(set(files)) == len(files)
    found = outcomes([write(tmp_path, "honest", model()), *files], tmp_path)
    honest = found.pop(0)
    assert (honest["error"], honest["scores"]) == (None, [[0.0, 0.0]])
    for n, ((name, _, says), file, one) in enumerate(zip(at_once + later, files, found, strict=True)):
        assert one["error"] == "CheckpointError", (name, one)
        assert one["says"].startswith(f"{file}: ") and re.search(says, one["says"]), (name, one)
        assert one["says"].replace("\n  cause: ", "").isprintable(), (name, one)
        assert one["bytes"] < MOST_BYTES, (name, one)
        assert n >= len(at_once) or not one["opened"], (name, one)
    tally("graphs", inputs=len(files))


def test_an_honest_graph_may_go_a_little_beyond(tmp_path):
    for bounded, beyond, fits in (
        (True, 0, True),
        (True, 4e-4, True),
        (True, 6e-4, False),
        (False, 49, True),
    ):
        made = scored(
            helper.make_node("Identity", ["more"], ["other"]), more=np.array([5 + beyond], np.float32)
        )
        helper.set_model_props(made, {"aigciqa.config": CONFIG.with_(bounded=bounded).to_json()})
        network = OnnxNetwork(write(tmp_path, "m", made))
        if fits:
            assert network(BLACK)[0].tolist() == pytest.approx([5 + beyond] * 2)
        else:
            with pytest.raises(CheckpointError, match="gives a score of 5"):
                network(BLACK)


def test_files_that_are_no_graph(tmp_path, rounds, tally):
    content = model().SerializeToString()
    rng = np.random.default_rng(0)
    files = [write(tmp_path, "empty", b""), write(tmp_path, "text", b"these are not weights\n" * 99)]
    cuts = rng.choice(len(content), rounds(300, 60), replace=False)
    files += [write(tmp_path, f"cut-{n}", content[:n]) for n in cuts]
    files += [write(tmp_path, f"random-{n}", rng.bytes(n)) for n in range(1, 99)]
    bad_text = content.replace(b'"format"', b'"\xff\xfe\xff\xfe\xff\xfe"')
    files += [write(tmp_path, "bad-text", bad_text), write(tmp_path, "zeros", bytes(1 << 20))]
    files += [write(tmp_path, "number", b"\x3a" + b"\xff" * 99), write(tmp_path, "group", b"\x3b" * 99)]
    with zipfile.ZipFile(tmp_path / "zip.onnx", "w") as archive:
        archive.writestr("m/archive/data.pkl", b"cos\nsystem\n(S'id'\ntR.")
    sparse = tmp_path / "sparse.onnx"
    with sparse.open("wb") as file:
        file.truncate(4 << 40)
    os.mkfifo(tmp_path / "pipe.onnx")
    (tmp_path / "folder.onnx").mkdir()
    (tmp_path / "device.onnx").symlink_to("/dev/zero")
    (tmp_path / "gone.onnx").symlink_to("nowhere")
    names = ("zip", "sparse", "pipe", "folder", "device", "gone", "x" * 300, "under/zip.onnx/x", "nul\0")
    files += [tmp_path / f"{name}.onnx" for name in names]
    for file, one in zip(files, outcomes(files, tmp_path), strict=True):
        assert one["error"] == "CheckpointError" and not one["opened"], (file.name, one)
        assert one["says"].startswith(shown(str(file))) and one["bytes"] < MOST_BYTES, (file.name, one)
    tally("graphs", inputs=len(files))


def field(number, content):
    length, size = len(content), bytearray()
    while length > 127:
        size.append(length & 127 | 128)
        length >>= 7
    return bytes([number << 3 | 2, *size, length]) + content


@pytest.mark.parametrize("part", ["node", "initializer", "input", "metadata"])
def test_millions_of_little_parts_are_refused_before_they_are_parsed(part, tmp_path, monkeypatch):
    monkeypatch.setattr(graph, "STRUCTURE", 100_000)
    number = {"node": 1, "initializer": 5, "input": 11, "metadata": 14}[part]
    many = bytes([number << 3 | 2, 0]) * 60_000
    path = write(tmp_path, "m", many if part == "metadata" else field(7, many))
    with pytest.raises(
        CheckpointError, match="the file without its weights: needs 0 MiB, more than the limit"
    ):
        OnnxNetwork(path)


def test_weights_do_not_count_as_structure_and_a_length_that_lies_is_refused(tmp_path, monkeypatch):
    weights = {"many": np.zeros(1_000_000, np.float32)}
    content = scored(helper.make_node("Identity", ["many"], ["other"]), **weights).SerializeToString()
    monkeypatch.setattr(graph, "STRUCTURE", 20_000)
    assert OnnxNetwork(write(tmp_path, "m", content))(BLACK).tolist() == [[0, 0]]
    raw = numpy_helper.from_array(weights["many"], "many").SerializeToString()
    head = raw[: raw.index(bytes(99))]  # its last bytes are the length
    lying = content.replace(head, head[:-4] + b"\xff\xff\xff\x7f")
    assert lying != content
    with pytest.raises(CheckpointError, match="a length leads beyond the end"):
        OnnxNetwork(write(tmp_path, "m", lying))


def test_a_file_is_held_to_its_limit(tmp_path, monkeypatch):
    path = write(tmp_path, "m", model())
    monkeypatch.setattr(graph, "GRAPH", path.stat().st_size)
    OnnxNetwork(path)
    monkeypatch.setattr(graph, "GRAPH", path.stat().st_size - 1)
    with pytest.raises(CheckpointError, match="more than the limit of 0 MiB; a metric is smaller"):
        OnnxNetwork(path)
    assert limits.GRAPH == 2 << 30


def test_onnxruntime_sees_only_what_was_checked(tmp_path):
    """Another reader may know fields that this version of onnx does not, or take what trains for what scores."""
    unknown = b"\xfa\x3e\x06secret"  # field 1007
    path = write(tmp_path, "m", model().SerializeToString() + unknown + field(7, unknown))
    found = graph.read_graph(path)
    assert path.read_bytes().count(b"secret") == 2 and b"secret" not in found.content
    made = model()
    made.training_info.add().algorithm.CopyFrom(made.graph)
    left = onnx.load_model_from_string(graph.read_graph(write(tmp_path, "m", made)).content)
    assert made.training_info and not left.training_info and not left.metadata_props
    assert left.graph == model().graph


def test_the_command_says_so_in_one_line(tmp_path):
    wanted = ("loop", "external", "small-input", "no-config", "99", "ConstantOfShape")
    cases = {name: (content, says) for name, content, says in [*refused(), *failing()] if name in wanted}
    assert set(cases) == set(wanted)
    Image.new("RGB", (99, 99)).save(tmp_path / "black.png")
    for name, (content, says) in cases.items():
        path = write(tmp_path, name, content)
        run = Run(tmp_path / "black.png", "--metric", path, log=tmp_path / "log")
        assert run.wait() == 2, run.says()
        lines = run.says().strip().splitlines()
        assert re.search(says, lines[0]) and "Traceback" not in run.says(), run.says()
        assert len(lines) == 1 or (len(lines) == 2 and lines[1].startswith("  cause: ")), run.says()


def test_without_onnx_it_says_what_to_install(tmp_path):
    path = write(tmp_path, "m", model())
    code = "import sys; sys.modules['onnx'] = None; from aigciqa.onnx import OnnxNetwork; OnnxNetwork(sys.argv[1])"
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True)
    assert "needs onnx; pip install 'aigciqa[export]'" in done.stderr, done.stderr
