"""The kept corpus of fuzzing, with what it found once, and each input cut, doubled and damaged; without atheris."""

import random
import shutil
from pathlib import Path

import pytest
from targets import CORPUS, FOLDER, TARGETS


@pytest.fixture(scope="module", autouse=True)
def folder():
    yield
    shutil.rmtree(FOLDER, ignore_errors=True)


@pytest.mark.parametrize("name", TARGETS)
def test_corpus(name):
    files = sorted((CORPUS / name).iterdir())
    assert files
    for path in files:
        TARGETS[name](path.read_bytes())


@pytest.mark.parametrize("name", TARGETS)
def test_damaged_corpus(name):
    chance = random.Random(name)
    for path in sorted((CORPUS / name).glob("seed-*")):
        data = path.read_bytes()
        for round in range(6):
            damaged = bytearray(data)
            for _ in range(1 + round):
                if damaged:
                    damaged[chance.randrange(len(damaged))] = chance.randrange(256)
            TARGETS[name](bytes(damaged[: chance.randrange(len(data) + 1)] if round % 2 else damaged))


def test_the_corpus_is_small():
    assert sum(path.stat().st_size for path in Path(CORPUS).rglob("*") if path.is_file()) < 200_000
