"""Every command that the documentation, the help texts and CONTRIBUTING.md print runs, on stand-ins of its files."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import click
import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from conftest import _HUB, EXAMPLES, random_network, tiny_config
from PIL import Image
from synthetic import make_pku

import aigciqa
from aigciqa.cli import score
from aigciqa.training.cli import main
from aigciqa.weights import save_checkpoint

ROOT = EXAMPLES.parent
BIN = Path(sys.executable).parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
PROGRAMS = (
    "aigciqa",
    "aigciqa-score",
    "python",
    "cd",
    "find",
    "accelerate",
    "hf",
    "pip",
    "make",
    "git",
    "pytest",
)

NOT_RUN = {
    r"pip install|make |git ": "installs, builds or publishes the project",
    r"hf ": "a program of huggingface_hub",
    r"accelerate launch": "several processes that train; test_trainer.py starts them",
    r"aigciqa demo": "runs until it is stopped and needs gradio; test_demo.py starts it",
    r"python benchmarks/": "needs photographs and takes minutes; benchmarks/ says which",
}
# A tiny network in the place of the command's, whose weights would be fetched and train for hours.
TINY = "--backbone test_efficientnet --weights random --resize 36 --crop 32 --epochs 1 --batch-size 32"
ADDED = {
    r"aigciqa train .*--feature stages": TINY.replace("--resize 36", "--resize 64") + " --folds 2",
    r"aigciqa train ": TINY,
    r"aigciqa reproduce ": "--rows nr-resnet18 --columns quality --weights random --resize 36 --crop 32 --epochs 1",
    r"aigciqa data synthesize ": "--size 96 --levels 2 --workers 1",
}
SLOW = r"aigciqa (train|reproduce|evaluate|export|publish|convert|data)|--engine ray|nr\.onnx|--map|runs/|python |PKU"


def printed():
    """The commands and where they stand, each once."""
    found = {}
    for page in PAGES:
        for block in re.findall(r"^ *```(?:sh|bash|console)\n(.*?)^ *```", page.read_text(), re.M | re.S):
            for line in block.replace("\\\n", " ").splitlines():
                if command := line.split(" #")[0].strip().removeprefix("$ "):
                    found.setdefault(command, page.name)
    for command in (score, *commands(main)):
        for block in (command.help or "").split("\b\n")[1:]:
            for line in block.split("\n\n")[0].splitlines():
                text = re.split(r" {3,}", re.sub(r"^\w+:\s+", "", line.strip()))[0]
                found.setdefault(text, f"help of {command.name}")
    found.pop("", None)
    return found


def commands(group):
    """A group's commands, and those of groups in it."""
    for command in group.commands.values():
        yield from commands(command) if isinstance(command, click.Group) else [command]


PRINTED = printed()
RUN = [c for c in PRINTED if not any(re.match(pattern, c) for pattern in NOT_RUN)]


def test_the_commands_are_found():
    assert len(RUN) > 30
    unknown = [c for c in PRINTED if shlex.split(c)[0] not in PROGRAMS]
    assert unknown == []
    for pattern in NOT_RUN:
        assert any(re.match(pattern, c) for c in PRINTED), f"nothing is left out by {pattern}"


def test_the_options_of_every_command_exist():
    """Also of those that are not run."""
    checked = 0
    for command in PRINTED:
        for part in re.split(r"[|;]", command):
            words = shlex.split(part.split(">>")[0].split(" > ")[0])
            if "aigciqa.training.cli" in words:
                words = ["aigciqa", *words[words.index("aigciqa.training.cli") + 1 :]]
            if words and words[0] in ("aigciqa", "aigciqa-score"):
                parse(main if words[0] == "aigciqa" else score, words[0], words[1:])
                checked += 1
    assert checked > 30


def parse(command, name, words):
    """Raises click's UsageError as the command would."""
    with command.make_context(name, words) as context:
        if isinstance(command, click.Group):
            chosen, inner, rest = command.resolve_command(context, context._protected_args + context.args)
            parse(inner, chosen, rest)


# -- stand-ins of the files that the commands name


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """What takes long to make, made once, when the first command needs it."""
    return tmp_path_factory.mktemp("store")


@pytest.fixture
def place(tmp_path, monkeypatch, store, picture):
    """A working folder with the files that every command may name; `tmp_path` is the home, too."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(EXAMPLES, "examples")
    for name in ("gen.png", "ref.png"):
        shutil.copy(EXAMPLES / name, name)
    for number, folder in enumerate(("generated", "prompts", "SD", "MJ", "pictures")):
        Path(folder).mkdir()
        for i in range(2):
            picture(64, 64, 2 * number + i).save(f"{folder}/{i}.png")
    shutil.copy("generated/0.png", "a.png")
    shutil.copy("generated/1.png", "b.png")
    for name in ("SD_000_00", "SD_001_00", "MJ_000_00", "MJ_001_00"):
        Path("Generated_image/All").mkdir(parents=True, exist_ok=True)
        picture(64, 64, len(name)).save(f"Generated_image/All/{name}.jpg")
    Path("Image_prompt").mkdir()
    for number in range(2):
        picture(64, 64, number).save(f"Image_prompt/{number}.jpg")
    Path(".config/fish/completions").mkdir(parents=True)
    return tmp_path


def results(store):
    """Files as `aigciqa-score -o` writes them."""
    from aigciqa.records import Row
    from aigciqa.results import open_results

    config = aigciqa.metric_info("nr-aigciqa")
    for name in ("sd.csv", "mj.csv", "monday.csv", "tuesday.parquet"):
        with open_results(Path(name), config.dimensions, config.stamp) as file:
            file.write(
                [Row(f"SD/{i}.png", None, dict.fromkeys(config.dimensions, 1.5 + i)) for i in range(2)]
            )


def pku(store):
    """PKU-I2IQA."""
    if not (store / "PKU-I2IQA").exists():
        make_pku(store / "PKU-I2IQA", prompts=10, size=48)
    shutil.copytree(store / "PKU-I2IQA", "PKU-I2IQA", dirs_exist_ok=True)


def run_folder(store):
    """A finished run, under every name."""
    if not (store / "run").exists():
        pku(store)
        options = TINY.replace("test_efficientnet", "resnet18")  # of the papers' table
        line = f"train fr-resnet50 --data PKU-I2IQA --out {store}/run {options}"
        done = CliRunner().invoke(main, shlex.split(line))
        assert done.exit_code == 0, done.output
    for name in ("fr", "fr-resnet50", "a", "b", "paper", "fr-overall"):
        shutil.copytree(store / "run", f"runs/{name}", copy_function=os.link)


def ratings(store):
    """A table of labels that anybody may have made."""
    rng = np.random.default_rng(0)
    Path("pictures").mkdir(exist_ok=True)
    rows = []
    for i in range(24):
        pixels = rng.integers(0, 256, (48, 48, 3), dtype=np.uint8)
        for folder in ("pictures", "."):
            Image.fromarray(pixels).save(f"{folder}/rated{i}.png")
        mos = 1 + 4 * rng.random()
        row = {"picture": f"rated{i}.png", "quality": mos, "file": f"rated{i}.png", "mos": mos}
        rows.append(row | {"prompt_id": i // 2})
    table = pd.DataFrame(rows)
    mine = table[["file", "mos", "prompt_id"]]
    plain = table[["picture", "quality"]].assign(group=table.prompt_id)
    return mine, plain


def rated_table(store):
    """ratings.csv, with the columns that the command maps."""
    ratings(store)[0].to_csv("ratings.csv", index=False)


def rated_plainly(store):
    """ratings.csv, with our own columns."""
    ratings(store)[1].to_csv("ratings.csv", index=False)


def rated_without_header(store):
    """ratings.tsv, whose columns have no names."""
    table = ratings(store)[0]
    table[["file", "prompt_id", "mos"]].to_csv("ratings.tsv", sep="\t", header=False, index=False)


def own_recipe(store):
    """A recipe of the user's."""
    Path("my-recipe.yaml").write_text("reference: none\ndimensions: [quality]\nscore_range: [1, 5]\n")


def agiqa(store):
    """AGIQA-3K, and somebody else's scores of it."""
    Path("AGIQA-3K").mkdir()
    rng = np.random.default_rng(0)
    names = [f"midjourney_lowcfg_{i:03d}.jpg" for i in range(12)]
    for name in names:
        pixels = rng.integers(0, 256, (48, 48, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(f"AGIQA-3K/{name}")
    table = pd.DataFrame({"name": names, "prompt": [f"a {i}" for i in range(12)]})
    table["mos_quality"], table["std_quality"] = rng.random(12) * 5, 0.1
    table["mos_align"], table["std_align"] = rng.random(12) * 5, 0.1
    table.to_csv("AGIQA-3K/data.csv", index=False)
    theirs = pd.DataFrame({"picture": names, "quality": rng.random(12)})
    theirs.to_csv("their-scores.csv", index=False)


def photographs(store):
    """Photographs to degrade, and the data set that was made of some."""
    rng = np.random.default_rng(0)
    Path("PHOTOS").mkdir()
    for i in range(2):
        coarse = Image.fromarray(rng.integers(0, 256, (40, 60, 3), dtype=np.uint8))
        coarse.resize((1500, 1000), Image.Resampling.BICUBIC).save(f"PHOTOS/{i}.jpg")


def synthesized(store):
    """A data set with pseudo-labels."""
    Path("out").mkdir()
    ratings(store)[1].to_csv("out/manifest.csv", index=False)
    for file in Path().glob("rated*.png"):
        shutil.copy(file, "out")


def authors(store):
    """The authors' file."""
    from test_model import authors_backbone, authors_model
    from test_upstream import authors_file

    checkpoint, _ = authors_model("resnet18", "none", *authors_backbone("resnet18"))
    authors_file(Path("best_model.pt"), checkpoint)


def exported(store):
    """An exported metric."""
    from aigciqa.export import export_metric

    checkpoint(store)
    export_metric(aigciqa.create_metric("tiny", device="cpu"), "nr.onnx")


def checkpoint(store, reference="none"):
    config = tiny_config(reference)
    torch.manual_seed(0)
    save_checkpoint(Path("tiny"), config, random_network(config).state_dict())


def published(store):
    """Checkpoints on the loopback Hub."""
    for repo, reference in (("org/repo", "none"), ("me/fr-i2iqa", "full")):
        checkpoint(store, reference)
        files = {p.name: p.read_bytes() for p in Path("tiny").iterdir()}
        _HUB.repo(repo).commit(files, "v1")
        shutil.rmtree("tiny")


MADE = {
    r"aigciqa report": results,
    r"PKU-I2IQA": pku,
    r"evaluate runs/|publish runs/|--metric runs/": run_folder,
    r"--data ratings\.csv --column": rated_table,
    r"--data ratings\.csv --folds": rated_plainly,
    r"ratings\.tsv": rated_without_header,
    r"my-recipe\.yaml": own_recipe,
    r"AGIQA-3K": agiqa,
    r"synthesize PHOTOS": photographs,
    r"out/manifest\.csv": synthesized,
    r"best_model\.pt": authors,
    r"--metric nr\.onnx": exported,
    r"org/repo|me/fr-i2iqa@": published,
}


@pytest.mark.parametrize(
    "command",
    [pytest.param(c, marks=[pytest.mark.slow] * bool(re.search(SLOW, c)), id=c[:70]) for c in RUN],
)
def test_command(command, place, store, hub):
    for pattern, make in MADE.items():
        if re.search(pattern, command):
            make(store)
    added = next((options for pattern, options in ADDED.items() if re.match(pattern, command)), "")
    environment = os.environ | {
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "HOME": str(place),
        "HF_TOKEN": hub.token,
        "HF_HUB_DISABLE_XET": "1",
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(["sh", "-c", f"{command} {added}"], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, f"{PRINTED[command]}: {done.stdout}{done.stderr}"
    assert "Traceback" not in done.stderr
