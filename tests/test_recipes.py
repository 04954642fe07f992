"""Every script of docs/recipes.md does what its heading says, run as it stands."""

import io
import json
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from conftest import EXAMPLES
from PIL import Image

import aigciqa

PAGE = Path(__file__).parent.parent / "docs" / "recipes.md"
SECTIONS = re.findall(r"^## (.+?)$(.*?)(?=^## |\Z)", PAGE.read_text(), re.MULTILINE | re.DOTALL)
RECIPES = {title: re.search(r"```python\n(.*?)```", text, re.DOTALL)[1] for title, text in SECTIONS}
COUNT = 6  # pictures in the shard
TITLES = {
    "filter": "Keep the good pictures of a folder",
    "best": "The best of n for each prompt",
    "compare": "Which of two generators is better",
    "reward": "A reward with a gradient",
    "shard": "A WebDataset shard, going on after a kill",
    "service": "A service with one metric and many threads",
}


@pytest.fixture
def recipe(monkeypatch, tmp_path, one_thread):
    """Runs a recipe in an empty folder, which `tmp_path` is, and returns its names."""
    monkeypatch.chdir(tmp_path)

    def run(key):
        names: dict = {}
        exec(compile(RECIPES[TITLES[key]], f"{PAGE}: {TITLES[key]}", "exec"), names)
        return names

    return run


@pytest.fixture(scope="module")
def nr():
    return aigciqa.create_metric("nr-aigciqa", device="cpu")


def encoded(picture, **how):
    file = io.BytesIO()
    picture.save(file, "PNG", **how)
    return file.getvalue()


def test_every_recipe_has_a_test():
    assert list(RECIPES) == list(TITLES.values())


def test_filter(recipe, tmp_path, capsys):
    for name, source in (("one/a.png", "ref.png"), ("two/a.png", "gen.png"), ("b.png", "gen.png")):
        target = tmp_path / "generated" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(EXAMPLES / source, target)
    (tmp_path / "generated/broken.png").write_bytes(b"no picture")
    recipe("filter")
    kept = [p.relative_to(tmp_path / "kept") for p in (tmp_path / "kept").rglob("*.png")]
    assert kept == [Path("one/a.png")]  # 3.3; the others have 2.4
    assert "broken.png" in capsys.readouterr().out


def test_best_of_n(recipe, picture, tmp_path):
    (tmp_path / "candidates").mkdir()
    (tmp_path / "prompts").mkdir()
    for seed, prompt in enumerate(("cat", "dog")):
        whole = picture(seed=seed)
        whole.save(tmp_path / f"prompts/{prompt}.png")
        damaged = whole.resize((12, 9)).resize(whole.size)
        for number, made in enumerate((damaged, whole, damaged)):
            made.save(tmp_path / f"candidates/{prompt}_{number}.png")
    best = recipe("best")["best"]
    assert {prompt: path.name for prompt, path in best.items()} == {"cat": "cat_1.png", "dog": "dog_1.png"}


def test_compare(recipe, picture, tmp_path, nr):
    for generator in ("first", "second"):
        (tmp_path / generator).mkdir()
        for seed in range(3):
            picture(seed=seed + 10 * (generator == "second")).save(tmp_path / generator / f"{seed}.png")
    found = recipe("compare")
    means = [nr([tmp_path / g / f"{i}.png" for i in range(3)]).mean().item() for g in ("first", "second")]
    assert found["differences"].mean() == pytest.approx(means[0] - means[1], abs=1e-4)
    assert found["low"] < found["differences"].mean() < found["high"]
    (tmp_path / "second/2.png").unlink()
    with pytest.raises(AssertionError, match="every prompt"):
        recipe("compare")


def test_reward(recipe):
    losses = recipe("reward")["losses"]
    assert losses[-1] < losses[0] - 0.05


def test_shard_after_a_kill(recipe, picture, tmp_path):
    (tmp_path / "shards").mkdir()
    with tarfile.open(tmp_path / "shards/0000.tar", "w") as tar:
        for number in range(COUNT):
            content = encoded(picture(seed=number))
            member = tarfile.TarInfo(f"{number:03d}.png")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    results = tmp_path / "scores.jsonl"
    script = (
        f"import sys, time\n{RECIPES[TITLES['shard']]}".replace(
            "results.write([row])", "results.write([row]); print('row', flush=True); time.sleep(0.05)"
        )  # as slow as larger pictures are, so that there is a middle to be killed in
    )
    run = subprocess.Popen([sys.executable, "-c", script], cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    for line in run.stdout:
        if line == "row\n":
            break
    run.send_signal(signal.SIGKILL)
    run.wait()
    before = results.read_bytes()
    assert 1 <= before.count(b"\n") < COUNT
    results.write_bytes(before + b'{"picture": "shards/00')  # as a kill while writing leaves it
    recipe("shard")
    rows = [json.loads(line) for line in results.read_text().splitlines()]
    assert results.read_bytes().startswith(before)
    assert [row["picture"] for row in rows] == [f"shards/0000.tar/{i:03d}.png" for i in range(COUNT)]
    results.unlink()
    recipe("shard")
    assert [json.loads(line) for line in results.read_text().splitlines()] == rows


def test_service(picture, nr, tmp_path):
    """As a script of its own, which answers until it is interrupted."""
    script = tmp_path / "service.py"
    script.write_text(RECIPES[TITLES["service"]])
    process = subprocess.Popen(
        [sys.executable, script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        address = re.search(r"http://\S+", process.stdout.readline())[0]

        def post(body):
            try:
                request = urllib.request.Request(address, body)
                with urllib.request.urlopen(request, timeout=600) as answer:
                    return answer.status, json.load(answer)
            except urllib.error.HTTPError as error:
                return error.code, json.load(error)

        bodies = [encoded(picture(seed=seed % 2)) for seed in range(6)]
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(post, [*bodies, b"no picture", bodies[0][:200]]))
        assert process.poll() is None  # it stays
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate()
    alone = [nr(Image.open(io.BytesIO(body))).item() for body in bodies[:2]]
    for number, (status, scores) in enumerate(answers[:6]):
        assert status == 200
        assert scores["quality"] == pytest.approx(alone[number % 2], abs=1e-4)
    for status, answer in answers[6:]:
        assert status == 400
        assert answer["error"]
