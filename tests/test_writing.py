"""Files that are written: whole or not at all, and never through a link that somebody planted."""

import json
import os
import threading
from pathlib import Path

import pytest
from conftest import random_network, tiny_config
from PIL import Image

import aigciqa
from aigciqa.explain import QualityMap
from aigciqa.weights import save_checkpoint
from aigciqa.writing import check_writable, replacing, write_named, write_whole


@pytest.fixture
def victim(tmp_path):
    file = tmp_path / "victim"
    file.write_text("precious")
    yield file
    assert file.read_text() == "precious"


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    file = tmp_path / "a.txt"
    write_whole(file, "one")
    with pytest.raises(KeyError), replacing(file) as out:
        out.write(b"half")
        raise KeyError
    assert file.read_text() == "one"
    with replacing(file) as out:
        out.write(b"two")
        assert file.read_text() == "one"
    assert file.read_bytes() == b"two"
    assert list(tmp_path.iterdir()) == [file]


def test_links_are_replaced_and_not_followed(tmp_path, victim):
    folder = tmp_path / "out"
    folder.mkdir()
    for name in ("a.txt", ".a.txt.part"):
        (folder / name).symlink_to(victim)
    check_writable(folder / "a.txt")
    assert (folder / "a.txt").is_symlink()
    (folder / ".a.txt.part").symlink_to(victim)
    write_whole(folder / "a.txt", "new")
    assert not (folder / "a.txt").is_symlink() and (folder / "a.txt").read_text() == "new"
    assert [path.name for path in folder.iterdir()] == ["a.txt"]


def test_a_link_that_appears_in_between_is_an_error(tmp_path, victim, monkeypatch):
    """As one planted again and again does."""
    unlink = Path.unlink

    def planted(path, **how):
        unlink(path, **how)
        path.symlink_to(victim)

    monkeypatch.setattr(Path, "unlink", planted)
    with pytest.raises(FileExistsError):
        write_whole(tmp_path / "a.txt", "new")


def test_checkpoints_and_maps_do_not_follow_links(tmp_path, victim):
    folder, config = tmp_path / "out", tiny_config("none")
    folder.mkdir()
    names = ["model.safetensors", "config.json", "map.png"]
    for name in names:
        (folder / name).symlink_to(victim)
        (folder / f".{name}.part").symlink_to(victim)
    save_checkpoint(folder, config, random_network(config).state_dict())
    picture = Image.new("RGB", (40, 30))
    values = aigciqa.create_metric(folder, device="cpu").explain(picture)
    assert isinstance(values, QualityMap)
    values.save(folder / "map.png")
    assert sorted(path.name for path in folder.iterdir()) == sorted(names)
    assert not any((folder / name).is_symlink() for name in names)


def test_a_name_that_the_user_chose_may_be_a_link_or_a_pipe(tmp_path):
    real, link, pipe = tmp_path / "real.json", tmp_path / "link.json", tmp_path / "pipe"
    link.symlink_to(real)
    for content in ("[1]", "[2]"):
        write_named(link, content)
        assert link.is_symlink() and json.loads(real.read_text()) == json.loads(content)
    os.mkfifo(pipe)
    reader, got = threading.Thread(target=lambda: got.append(pipe.read_text())), []
    reader.start()
    write_named(pipe, "[3]")
    reader.join()
    assert got == ["[3]"] and pipe.is_fifo()
