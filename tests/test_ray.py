"""Ray against one machine, on a cluster of two processes that is started here."""

import csv
import io
import os
import shutil
import subprocess
import sys
import tarfile
from collections import Counter
from pathlib import Path

import pytest

import aigciqa
from aigciqa import image
from aigciqa.errors import CheckpointError, InputError
from aigciqa.integrations.ray import has_gpus, score_dataset, score_items
from aigciqa.sources import Item, find_items

ray = pytest.importorskip("ray")
pytest.importorskip("ray.data")

pytestmark = pytest.mark.slow  # each of the actors imports torch
COMMAND = shutil.which("aigciqa-score", path=str(Path(sys.executable).parent))


@pytest.fixture(scope="module")
def loads(tmp_path_factory):
    """Starts the cluster. A file with a line for each time that one of its processes has read weights."""
    log = tmp_path_factory.mktemp("ray") / "loads"
    log.touch()

    def count_loads():
        from aigciqa import weights

        def counted(path, load=weights.load_weights):
            with log.open("a") as file:
                file.write(f"{os.getpid()}\n")
            return load(path)

        weights.load_weights = counted

    ray.init(
        num_cpus=2,
        include_dashboard=False,
        object_store_memory=100 << 20,
        logging_level="error",
        log_to_driver=False,
        runtime_env={"worker_process_setup_hook": count_loads},
    )
    yield log
    ray.shutdown()


@pytest.fixture
def files(tmp_path, picture, monkeypatch, loads):
    """Runs in a folder with 11 pictures, their references, and three items that cannot be scored."""
    monkeypatch.chdir(tmp_path)  # which the cluster's processes were not started in
    for name in "ref-0.png", "ref-1.png":
        picture(seed=ord(name[4])).save(name)
    items = []
    for n in range(11):
        picture(100 + n, 90, seed=n).save(f"{n}.png")
        items.append(Item(f"{n}.png", f"ref-{n // 6}.png"))
    Path("text.png").write_text("no picture")
    return [
        *items[:4],
        Item("missing.png", "ref-0.png"),
        Item("text.png", "ref-0.png"),
        *items[4:],
        Item("0.png"),
    ]


def assert_same(rows, expected):
    rows, expected = list(rows), list(expected)
    assert [(r.picture, r.reference, r.error) for r in rows] == [
        (r.picture, r.reference, r.error) for r in expected
    ]
    for row, other in zip(rows, expected, strict=True):
        assert row.scores == (other.scores and pytest.approx(other.scores, abs=5e-4))  # 1e-4 of the range


def test_rows_are_those_of_one_machine_in_order_from_weights_that_each_actor_reads_once(files, tiny, loads):
    source = tiny("full").name  # a relative path
    loads.write_text("")
    rows = list(score_items(source, files, rows_per_call=2, num_actors=2))
    assert_same(rows, aigciqa.create_metric(source, device="cpu").score_files(files))
    assert [row.picture for row in rows if row.error] == ["missing.png", "text.png", "0.png"]
    assert sorted(Counter(loads.read_text().split()).values()) == [1, 1]


def test_only_a_few_calls_are_read_ahead(files, tiny):
    read = []
    endless = (read.append(n) or files[n % 4] for n in range(10**9))
    rows = score_items(tiny("full"), endless, rows_per_call=2, num_actors=1)
    first = [next(rows) for _ in range(5)]
    rows.close()
    assert [row.picture for row in first] == ["0.png", "1.png", "2.png", "3.png", "0.png"]
    assert len(read) <= 5 + 4 * 2 + 2


def test_members_of_a_tar_travel_and_so_does_the_limit_of_pixels(files, tiny, monkeypatch):
    with tarfile.open("shard.tar", "w") as shard:
        for n in range(3):
            shard.add(f"{n}.png")
    monkeypatch.setattr(image, "MAX_PIXELS", 101 * 90)
    folder = tiny("none")
    rows = list(score_items(folder, find_items(["shard.tar"]), num_actors=1))
    assert_same(rows, aigciqa.create_metric(folder, device="cpu").score_files("shard.tar"))
    assert [bool(row.error) for row in rows] == [False, False, True]


def test_errors_of_actors_are_told_as_themselves(files, tiny):
    with pytest.raises(InputError, match=r"^missing.png: cannot be opened"):
        for number, row in enumerate(score_items(tiny("full"), files, num_actors=1, on_error="stop")):
            assert number < 4 and row.scores
    weights = tiny("none") / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match=r"^wrong checksum"):
        list(score_items(weights.parent, [Item("0.png")], num_actors=1))


def test_a_dataset_keeps_its_columns_and_gets_scores_from_paths_and_from_bytes(files, tiny, loads):
    folder = tiny("full")
    local = dict(zip(files, aigciqa.create_metric(folder, device="cpu").score_files(files), strict=True))
    table = [{"number": n, "path": i.picture, "reference": i.reference} for n, i in enumerate(files)]
    dataset = ray.data.from_items(table)
    dataset.context.execution_options.preserve_order = True
    loads.write_text("")
    found = score_dataset(dataset, {"source": folder}, picture_column="path", num_actors=2, rows_per_call=3)
    found = found.take_all()
    assert [row["number"] for row in found] == list(range(len(files)))
    assert set(Counter(loads.read_text().split()).values()) == {1}
    config = aigciqa.metric_info(folder)
    for row, expected in zip(found, local.values(), strict=True):
        assert row["error"] == expected.error
        for name in config.dimensions:
            assert row[name] == (expected.scores and pytest.approx(expected.scores[name], abs=5e-4))
        assert row["metric"] == config.stamp

    good = files[:4]
    content = [
        {"picture": Path(i.picture).read_bytes(), "reference": Path(i.reference).read_bytes()} for i in good
    ]
    content += [{"picture": None, "reference": None}, {"picture": b"no", "reference": b"no"}]
    dataset = ray.data.from_items(content, override_num_blocks=1)
    *scored, empty, wrong = score_dataset(dataset, folder).take_all()
    for row, item in zip(scored, good, strict=True):
        assert row["quality"] == pytest.approx(local[item].scores["quality"], abs=5e-4)
    assert empty["error"] == "column 'picture' is empty here" and empty["quality"] is None
    assert wrong["error"] == "picture: not a picture that Pillow can read"


@pytest.mark.parametrize(
    ("columns", "arguments", "says"),
    [
        ({"path": "a"}, {}, "no column 'picture', only path"),
        ({"picture": "a"}, {"reference_column": "prompt"}, "no column 'prompt'"),
        ({"picture": "a"}, {"mode": "none", "reference_column": "picture"}, "judges a picture alone"),
        ({"picture": "a", "reference": "b", "quality": 1, "error": ""}, {}, "columns quality, error already"),
        ({"picture": "a"}, {"num_actors": 0}, "num_actors must be at least 1"),
        ({"picture": "a"}, {"rows_per_call": 0}, "rows_per_call must be at least 1"),
        ({"picture": "a"}, {"cpus_per_actor": 0}, "cpus_per_actor must be at least 1"),
        ({"picture": "a"}, {"on_error": "skip"}, "on_error must be row or stop"),
        ({"picture": "a"}, {"precision": "int8"}, "precision must be fp32, fp16, bf16"),
        ({"picture": "a"}, {"device": "cpu"}, "leave device out"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_runs(loads, tiny, columns, arguments, says):
    arguments = dict(arguments)
    metric = {"source": tiny(arguments.pop("mode", "full"))}
    if "device" in arguments:
        metric["device"] = arguments.pop("device")
    with pytest.raises(InputError, match=says):
        score_dataset(ray.data.from_items([columns]), metric, **arguments)


def test_a_column_of_something_else_is_refused(loads, tiny):
    dataset = score_dataset(ray.data.from_items([{"picture": 7}]), tiny("none"), num_actors=1)
    with pytest.raises(Exception, match="column 'picture' holds int64, not paths or the bytes"):
        dataset.take_all()


def test_without_ray_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r"pip install 'aigciqa\[ray\]'"):
        has_gpus()


def test_the_command_writes_what_it_writes_without_ray(files, tiny, loads):
    command = [COMMAND, "0.png", "missing.png", "1.png", "2.png", "--metric", tiny("none"), "--format", "csv"]
    environment = os.environ | {"RAY_ADDRESS": ray.get_runtime_context().gcs_address}
    found = []
    for options in (["--engine", "ray"], ["--device", "cpu"]):
        done = subprocess.run([*command, *options], capture_output=True, text=True, env=environment)
        assert done.returncode == 1, done.stderr
        assert done.stdout.startswith("picture,reference,quality,authenticity,error,metric\n0.png,,")
        found.append(list(csv.DictReader(io.StringIO(done.stdout))))
    for row, expected in zip(*found, strict=True):
        for name in "quality", "authenticity":
            scores = (row.pop(name), expected.pop(name))
            assert scores == ("", "") or float(scores[0]) == pytest.approx(float(scores[1]), abs=5e-4)
        assert row == expected
    refused = subprocess.run([*command, "--engine", "ray", "--device", "cpu"], capture_output=True, text=True)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "leave out --device" in refused.stderr


def test_only_actors_import_pytorch(files, tiny, loads):
    """The machine that hands out the work need not, and starts a second sooner."""
    code = (
        "import sys\n"
        "from aigciqa.integrations.ray import score_items\n"
        "from aigciqa.sources import Item\n"
        "rows = list(score_items(sys.argv[1], [Item('0.png')], num_actors=1))\n"
        "print(rows[0].scores is not None, 'torch' in sys.modules)"
    )
    environment = os.environ | {"RAY_ADDRESS": ray.get_runtime_context().gcs_address}
    command = [sys.executable, "-c", code, str(tiny("none"))]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.split() == ["True", "False"]
    asked = [COMMAND, "0.png", "--metric", str(tiny("none")), "--engine", "ray", "--format", "csv"]
    times = [sys.executable, "-X", "importtime", *asked]
    imported = subprocess.run(times, capture_output=True, text=True, env=environment, check=True)
    names = {line.rpartition("|")[2].strip() for line in imported.stderr.splitlines()}
    assert "aigciqa.integrations.ray" in names and "torch" not in names


@pytest.mark.parametrize(
    ("metric", "error", "said"),
    [
        ({"source": "nr-aigciqa", "size": 3}, TypeError, "size"),
        ({"dimension": "quality"}, TypeError, "source"),
        ({"source": "nr-aigciqa", "dimension": "beauty"}, InputError, "predicts quality, authenticity"),
        ({"source": "nr-aigciqa", "batch_size": 0}, InputError, "batch_size must be at least 1"),
    ],
)
def test_a_metric_that_cannot_be_made_is_refused_before_any_actor_starts(metric, error, said, loads):
    with pytest.raises(error, match=said):
        next(score_items(metric, iter([])))
