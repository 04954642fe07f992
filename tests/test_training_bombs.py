"""Tables, recipes and weights that are damaged, or ask for far more memory or time than their size."""

import os
import pickle
import shutil
import subprocess
import sys
import zipfile

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import scipy.io
import torch
from synthetic import make_pku
from test_trainer import one_thread, recipe  # noqa: F401 (a fixture that is used by itself)

from aigciqa.errors import CheckpointError, InputError
from aigciqa.training.data import identical, load
from aigciqa.training.external import read_scores
from aigciqa.training.files import by_turns, claimed
from aigciqa.training.formats import detect
from aigciqa.training.initial import initial_network
from aigciqa.training.photographs import find_photographs
from aigciqa.training.recipe import list_recipes, read_recipe
from aigciqa.training.tables import read_table
from aigciqa.training.trainer import train
from aigciqa.training.upstream import convert

MEMORY = 4 << 30  # of address space, of which Python with torch takes more than half


def refused(function: str, files) -> list[str]:
    """What a process of little memory says of each of some files; it may say nothing but an error of ours."""
    module, _, name = function.rpartition(".")
    code = (
        f"import resource, sys; resource.setrlimit(resource.RLIMIT_AS, ({MEMORY}, {MEMORY}))\n"
        f"from pathlib import Path; from {module} import {name}; from aigciqa.errors import AigciqaError\n"
        "for file in sys.argv[1:]:\n"
        "    try:\n"
        f"        {name}(Path(file)); print('accepted')\n"
        "    except AigciqaError as error:\n"
        "        print(repr(str(error)))\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, *map(str, files)], capture_output=True, text=True, timeout=120,
        env=os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-2000:]
    return result.stdout.splitlines()


@pytest.fixture(scope="module")
def workbook(tmp_path_factory):
    """Writes a workbook with one part as given."""
    folder = tmp_path_factory.mktemp("workbooks")
    pd.DataFrame({"picture": ["a.png"], "mos": [3.5]}).to_excel(folder / "good.xlsx", index=False)

    def make(name, part, content):
        with (
            zipfile.ZipFile(folder / "good.xlsx") as good,
            zipfile.ZipFile(folder / name, "w", zipfile.ZIP_DEFLATED) as made,
        ):
            for one in good.namelist():
                if one != part:
                    made.writestr(one, good.read(one))
            made.writestr(part, content)
        return folder / name

    return make


SHEET = '<worksheet xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"><sheetData>{}</sheetData></worksheet>'
STYLES = '<styleSheet xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"><cellXfs>{}</cellXfs></styleSheet>'


def test_workbooks_that_unpack_to_far_more(workbook):
    sheet = "xl/worksheets/sheet1.xml"
    far = "".join(f'<row r="{n}"><c r="ZZZ{n}"><v>1</v></c></row>' for n in range(1, 3001))
    files = {
        "styles.xlsx": ("xl/styles.xml", STYLES.format("<xf/>" * 1_000_000)),
        "elements.xlsx": (sheet, SHEET.format("<x/>" * 3_000_000)),
        "columns.xlsx": (sheet, SHEET.format(far)),
        "rows.xlsx": (sheet, SHEET.format('<row r="900000000"><c r="A900000000"><v>1</v></c></row>')),
        "text.xlsx": (sheet, SHEET.format(" " * (200 << 20))),
        "entities.xlsx": (sheet, '<!DOCTYPE x [<!ENTITY a "aaaa">]>' + SHEET.format("&a;")),
    }
    made = [workbook(name, *part) for name, part in files.items()]
    assert max(file.stat().st_size for file in made) < 1 << 20
    said = refused("aigciqa.training.tables.read_table", made)
    expected = ["MiB, more than the limit", "more than 500,000 cells", "cells; split it", "cells; split it",
                "MiB, more than the limit", "not as a spreadsheet program writes it"]  # fmt: skip
    for line, words in zip(said, expected, strict=True):
        assert words in line
    assert read_table(made[0].with_name("good.xlsx"))["mos"].tolist() == ["3.5"]


def test_tables_of_too_many_cells(tmp_path):
    (tmp_path / "cells.csv").write_bytes(b"picture,mos\n" + b",\n" * 10_000_000)
    (tmp_path / "columns.csv").write_text(",".join(map(str, range(5000))) + "\n")
    (tmp_path / "quoted.csv").write_text('"\n",' + ",".join(map(str, range(5000))) + "\n")
    (tmp_path / "cells.tsv").write_bytes(b"picture\tmos\n" + b"\t\n" * 10_000_000)
    with (tmp_path / "sparse.csv").open("wb") as file:
        file.truncate(4 << 40)
    once = pa.DictionaryArray.from_arrays(pa.array(np.zeros(20_000, np.int32)), pa.array(["a" * 100_000]))
    table = pa.table({"picture": once, "mos": pa.array(np.zeros(20_000))})
    pq.write_table(
        table, tmp_path / "text.parquet", store_schema=False
    )  # 2 GB of text, of which it has 100 kB
    files = sorted(tmp_path.iterdir())
    assert max(file.stat().st_blocks * 512 for file in files) < 32 << 20
    said = refused("aigciqa.training.tables.read_table", files)
    for line, words in zip(
        said, ["cells)", "cells)", "5,000 columns", "5,001 columns", "MiB", "unpacked"], strict=True
    ):
        assert words in line
        assert "more than" in line


def test_scores_and_matlab_files(tmp_path):
    (tmp_path / "deep.jsonl").write_text("[" * 100_000)
    (tmp_path / "wide.jsonl").write_bytes(b"[" + b"{}," * 10_000_000)
    for name in ("deep.jsonl", "wide.jsonl"):
        with pytest.raises(InputError, match=r"cannot read scores|more than the limit"):
            read_scores(tmp_path / name)
    for number in (1, 2, 3):
        scipy.io.savemat(
            tmp_path / f"mosz{number}.mat", {"MOSz": np.zeros((1, 40_000_000), np.uint8)}, do_compression=True
        )
    with pytest.raises(InputError, match="MOSz: needs 305 MiB, more than the limit"):
        load(tmp_path)
    scipy.io.savemat(tmp_path / "mosz1.mat", {"MOSz": np.array([{"a": 1}], object)})
    with pytest.raises(InputError, match="no matrix of numbers"):
        load(tmp_path)
    scipy.io.savemat(tmp_path / "mosz1.mat", {"MOSz": np.arange(240.0)})
    (tmp_path / "mosz1.mat").write_bytes((tmp_path / "mosz1.mat").read_bytes()[:300])
    with pytest.raises(InputError, match="cannot be read as a MATLAB file"):
        load(tmp_path)


@pytest.mark.parametrize("name", ["labels.csv", "labels.txt", "labels.xlsx", "labels.parquet", "recipe.yaml"])
def test_pipes_and_empty_files_are_not_read(tmp_path, name):
    """Were the pipe opened, this would wait for ever; files of /proc without an end are empty by their size."""
    os.mkfifo(tmp_path / name)
    for read in (load, read_table, lambda file: read_recipe(file)):
        with pytest.raises(InputError, match=r"regular file|no recipe"):
            read(tmp_path / name)
    (tmp_path / name).unlink()
    (tmp_path / name).touch()
    for read in (load, read_table, lambda file: read_recipe(file)):
        with pytest.raises(InputError, match="it is empty"):
            read(tmp_path / name)


def test_a_label_file_without_an_end_of_line_is_not_read_whole(tmp_path):
    with (tmp_path / "labels.txt").open("wb") as file:
        file.truncate(4 << 40)
    with pytest.raises(InputError, match="more than the limit"):
        detect(tmp_path / "labels.txt")


LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12)
)


@pytest.mark.parametrize(
    "text",
    [
        LAUGHS,
        "dimensions:\n" + "".join("- " + line.partition(": ")[2] + "\n" for line in LAUGHS.splitlines()),
        "dimensions: &a [*a]\n",
        "data: &a {path: *a}\n",
        "epochs: " + "9" * 5000,
        "name: 2020-99-99\n",
        "name: " + "[" * 5000,
        "name: " + "x" * (2 << 20),
        "select: " + "x" * 100_000,
        "x" * 100_000 + ": 1",
        "name: !!python/object/apply:os.system [true]\n",
        "? [a, b]\n: 1\n",
    ],
)
def test_hostile_recipes(tmp_path, text):
    (tmp_path / "recipe.yaml").write_text(text)
    with pytest.raises(InputError) as caught:
        read_recipe(tmp_path / "recipe.yaml")
    assert len(str(caught.value)) < 1000


def test_aliases_are_no_fault(tmp_path):
    text = "data:\n- {path: a, columns: &c {quality: mos}}\n- {path: b, columns: *c}\n"
    (tmp_path / "recipe.yaml").write_text(text)
    assert read_recipe(tmp_path / "recipe.yaml").data[1].columns == {"quality": "mos"}
    assert all(read_recipe(name) for name in list_recipes())


# -- files of torch.save


def enlarged(state, path, zipped):
    """A file of which one tensor of 4 numbers announces 136 GB."""
    large = b"\x8a\x06" + (34_000_000_000).to_bytes(6, "little")
    torch.save(state, path, _use_new_zipfile_serialization=zipped)
    if not zipped:
        path.write_bytes(path.read_bytes().replace(b"K\x04", large))
        return
    with zipfile.ZipFile(path) as file:
        parts = {name: file.read(name) for name in file.namelist()}
    with zipfile.ZipFile(path, "w") as file:
        for name, content in parts.items():
            file.writestr(name, content.replace(b"K\x04", large) if name.endswith("data.pkl") else content)


class Long:
    def __reduce__(self):
        return bytearray, (136_000_000_000,)


def hostile(folder):
    """Files of weights that ask for 136 GB, and damaged ones."""
    state = {"backbone": {"conv1.weight": torch.zeros(4)}, "regressor": {"fc1.weight": torch.ones(4)}}
    for zipped in (True, False):
        enlarged(state, folder / f"size-{zipped}.pth", zipped)
        wide = {key: {"conv1.weight": torch.zeros(1).expand(34_000_000_000)} for key in state}
        torch.save(wide, folder / f"expanded-{zipped}.pth", _use_new_zipfile_serialization=zipped)
        torch.save(
            {"backbone": Long()}, folder / f"bytes-{zipped}.pth", _use_new_zipfile_serialization=zipped
        )
        whole = folder / f"whole-{zipped}.pth"
        torch.save({"a": torch.rand(5000)}, whole, _use_new_zipfile_serialization=zipped)
        (folder / f"cut-{zipped}.pth").write_bytes(whole.read_bytes()[:7000])
        whole.unlink()
    (folder / "empty.pth").touch()
    (folder / "text.pth").write_bytes(b"\x80\x02\x8e" + (136_000_000_000).to_bytes(8, "little") + b"x")
    with zipfile.ZipFile(folder / "packed.pth", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("archive/data.pkl", pickle.dumps({}, 2))
        file.writestr("archive/data/0", bytes(64 << 20))
    return sorted(folder.glob("*.pth"))


USES = """
from aigciqa import MetricConfig
from aigciqa.errors import AigciqaError, InputError
from aigciqa.training.initial import initial_network
from aigciqa.training.upstream import convert

def used(file):
    said = []
    for use in (
        lambda: convert(file, "out"),
        lambda: initial_network(MetricConfig("x", "none", "test_resnet"), str(file)),
    ):
        try:
            use()
        except AigciqaError as error:
            said.append(str(error))
    raise InputError(" & ".join(said))
"""


def test_weights_that_announce_more_than_they_hold(tmp_path, monkeypatch):
    files = hostile(tmp_path)
    assert max(file.stat().st_size for file in files) < 1 << 18
    (tmp_path / "uses.py").write_text(USES)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    reasons = {
        "size-": ",000,000,000 bytes of tensors", "expanded-": "in it has 136,000,000,000 bytes",
        "packed": "compressed",
        "bytes-": "bytearray", "empty": "it is empty", "text": "", "cut-": "",
    }  # fmt: skip
    for file, line in zip(files, refused("uses.used", files), strict=True):
        [reason] = [words for name, words in reasons.items() if file.name.startswith(name)]
        assert line.count(f"{file}: ") == 2 and line.count(reason) >= 2, line


def test_a_pipe_is_no_checkpoint(tmp_path):
    os.mkfifo(tmp_path / "best_model.pt")
    with pytest.raises(CheckpointError, match="not a regular file"):
        convert(tmp_path / "best_model.pt", tmp_path / "out")


def test_weights_with_nan_are_not_begun_from(tmp_path, pku):
    config = recipe(pku).config()
    state = {
        k.removeprefix("backbone.net."): v for k, v in initial_network(config, "random").state_dict().items()
    }
    state[next(k for k in state if k.endswith("weight"))][:] = np.nan
    torch.save(state, tmp_path / "nan.pth")
    with pytest.raises(InputError, match="NaN or infinity in 1 tensors"):
        initial_network(config, str(tmp_path / "nan.pth"))


# -- a run that goes on


@pytest.fixture(scope="module")
def pku(tmp_path_factory):
    return make_pku(tmp_path_factory.mktemp("pku") / "PKU-I2IQA", prompts=4, size=40)


@pytest.fixture(scope="module")
def run(pku, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    train(recipe(pku, epochs=1), folder, report=lambda line: None, bootstrap=0)
    return folder


def changed(**values):
    def change(file):
        state = torch.load(file, weights_only=True)
        state |= values
        torch.save({key: value for key, value in state.items() if value != "gone"}, file)

    return change


@pytest.mark.parametrize(
    "damage",
    [
        lambda file: file.write_bytes(file.read_bytes()[:-5000]),
        lambda file: file.write_bytes(b""),
        lambda file: file.write_bytes(b"nothing"),
        lambda file: enlarged({"epoch": torch.zeros(4)}, file, True),
        lambda file: enlarged({"epoch": torch.zeros(4)}, file, False),
        lambda file: torch.save([1, 2], file),
        changed(optimizer="gone"),
        changed(network={"a": torch.zeros(4)}),
        changed(best={"score": 1.0, "epoch": 0, "network": {"a": torch.zeros(4)}}),
        changed(epoch="three"),
        changed(random=torch.zeros(4)),
    ],
)
def test_a_damaged_state_says_how_to_go_on(pku, run, tmp_path, damage):
    shutil.copytree(run, tmp_path / "run")
    file = tmp_path / "run" / "state.pt"
    weights = (tmp_path / "run" / "model.safetensors").read_bytes()
    damage(file)
    with pytest.raises(InputError) as caught:
        train(recipe(pku, epochs=1), tmp_path / "run", resume=True, report=lambda line: None)
    for words in (str(file), "damaged", "start again without --resume", "the best epoch so far"):
        assert words in str(caught.value)
    assert (tmp_path / "run" / "model.safetensors").read_bytes() == weights


def test_lost_or_damaged_coordinates_are_not_made_up(pku, tmp_path):
    """They are of the first start: found again, they may differ, and the head would read them wrongly."""
    made = recipe(pku, epochs=1, frozen=True, directions=4)
    train(made, tmp_path, report=lambda line: None, bootstrap=0)
    file = tmp_path / "coordinates.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"coordinates.safetensors is damaged.*Remove state.pt"):
        train(made, tmp_path, resume=True, report=lambda line: None)
    file.unlink()
    with pytest.raises(InputError, match=r"coordinates.safetensors is gone.*remove state.pt"):
        train(made, tmp_path, resume=True, report=lambda line: None)


def test_damaged_caches_are_made_anew(pku, tmp_path):
    made = recipe(pku, epochs=1, cache=str(tmp_path / "cache"))
    first = train(made, tmp_path / "a", report=lambda line: None, bootstrap=0)
    [file] = (tmp_path / "cache").glob("pixels-*.bin")
    whole = file.read_bytes()
    for damaged, content in (
        (file, whole[:-1000]),
        (file.with_suffix(".json"), b"[[1,"),
        (file.with_suffix(".json"), b"{}"),
    ):
        damaged.write_bytes(content)
        again = train(
            made, tmp_path / f"b{len(list(tmp_path.iterdir()))}", report=lambda line: None, bootstrap=0
        )
        assert again.history == first.history
        assert file.read_bytes() == whole


def test_what_cannot_be_written_leaves_what_was_there(tmp_path):
    """A limit on the size of files stands for a disk that is full: writing fails where it reaches it."""
    code = (
        "import resource, sys, torch\nfrom pathlib import Path\n"
        "from aigciqa.errors import InputError\nfrom aigciqa.training.files import save_whole, write_whole\n"
        "state, text = Path(sys.argv[1]) / 'state.pt', Path(sys.argv[1]) / 'metrics.jsonl'\n"
        "save_whole(state, {'a': 1}); write_whole(text, 'a')\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "for write in (lambda: save_whole(state, torch.zeros(1 << 20)), lambda: write_whole(text, 'a' * 1_000_000)):\n"
        "    try:\n        write()\n    except InputError as error:\n        print(error)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 0, result.stderr
    for name, line in zip(("state.pt", "metrics.jsonl"), result.stdout.splitlines(), strict=True):
        assert line.startswith(f"cannot write {tmp_path / name}: ")
        assert "what was there before is unchanged" in line
    assert torch.load(tmp_path / "state.pt", weights_only=True) == {"a": 1}
    assert (tmp_path / "metrics.jsonl").read_text() == "a"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["metrics.jsonl", "state.pt"]


def test_images_are_compared_without_being_held(tmp_path, monkeypatch):
    """A file without content can be of any size; in a folder of photographs, and among labelled images."""
    for name in ("a.png", "b.png"):
        with (tmp_path / name).open("wb") as file:
            file.truncate(4 << 40)
    monkeypatch.setattr("pathlib.Path.read_bytes", None)
    for look in (
        lambda: find_photographs([tmp_path]),
        lambda: identical([tmp_path / "a.png", tmp_path / "b.png"]),
    ):
        with pytest.raises(InputError, match=r"\.png: needs 4,194,304 MiB, more than the limit of 1,024 MiB"):
            look()


def test_a_link_in_the_place_of_a_lock_is_not_followed(tmp_path):
    (tmp_path / "victim.txt").write_text("somebody's")
    for name in (".lock", "pixels.lock"):
        (tmp_path / name).symlink_to(tmp_path / "victim.txt")
    for lock in (lambda: claimed(tmp_path), lambda: by_turns(tmp_path / "pixels.bin")):
        with pytest.raises(InputError, match="lock is a link in the place of a lock; remove it"):
            lock()
    assert (tmp_path / "victim.txt").read_text() == "somebody's"
