"""Training runs: small networks of random weights on small pictures, as real processes where that matters."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from synthetic import make_pku

import aigciqa
import aigciqa.training
from aigciqa.errors import InputError
from aigciqa.training.recipe import DataSource, Recipe, list_recipes, read_recipe
from aigciqa.training.rows import mixed_batches
from aigciqa.training.trainer import train

SMALL = {
    "name": "small",
    "backbone": "test_efficientnet",
    "weights": "random",
    "resize": 36,
    "crop": 32,
    "epochs": 3,
    "batch_size": 8,
    "lr": 2e-3,
    "select": "last",
    "validation": 0.0,
}


@pytest.fixture(autouse=True)
def one_thread(monkeypatch):
    """Networks as small as these are slower on two, and bit for bit the same only on as many."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def pku(tmp_path_factory):
    return make_pku(tmp_path_factory.mktemp("pku") / "PKU-I2IQA", prompts=8, size=40)


def recipe(pku, **changes) -> Recipe:
    return read_recipe(None, SMALL | {"data": [DataSource(str(pku))]} | changes)


def command(pku, out, *more, **changes):
    """The command that trains `recipe(pku, **changes)`."""
    options = {**SMALL, **changes}
    flags = [f for k, v in options.items() for f in (f"--{k.replace('_', '-')}", str(v).lower())]
    return ["-m", "aigciqa.training.cli", "train", "--data", str(pku), "--out", str(out), *flags, *more]


def weights(folder) -> bytes:
    return (Path(folder) / "model.safetensors").read_bytes()


@pytest.mark.parametrize("reference", ["none", "full", "partial"])
def test_a_run_is_a_checkpoint_that_scores_what_its_evaluation_says(pku, tmp_path, reference):
    dimensions = ("quality", "correspondence")
    run = train(recipe(pku, reference=reference, dimensions=dimensions), tmp_path, report=lambda line: None)
    metric = aigciqa.create_metric(tmp_path, device="cpu")
    assert metric.config.dimensions == dimensions
    assert metric.config.reference == reference
    assert [h["epoch"] for h in run.history] == [1, 2, 3]
    assert [json.loads(line) for line in (tmp_path / "metrics.jsonl").open()] == run.history
    from aigciqa.training.assessment import assess, open_side
    from aigciqa.training.data import load

    predicted = pd.read_csv(tmp_path / "predictions.csv")
    assert all(Path(name).is_file() for name in [*predicted["picture"], *predicted["reference"].dropna()])
    assert predicted["reference"].isna().all() == (reference == "none")
    theirs, _ = open_side(load(pku), "nr-aigciqa", str(tmp_path / "splits/0-pku-i2iqa.csv"), "test")
    again = assess(str(tmp_path / "predictions.csv"), theirs, dimensions=dimensions)
    for name in dimensions:
        assert again.figures[name]["srcc"] == pytest.approx(run.evaluation["pku-i2iqa"][name]["srcc"])
    # the test side of the saved split, scored by the metric, gives the SRCC that was reported
    from aigciqa.training.assessment import assess, open_side
    from aigciqa.training.data import load

    rated, said = open_side(load(pku), str(tmp_path), None, "test")
    assert "16 rows of the test side" in said
    figures = assess(str(tmp_path), rated, dimensions=dimensions, device="cpu").figures
    for dimension in dimensions:
        assert figures[dimension]["srcc"] == pytest.approx(
            run.evaluation["pku-i2iqa"][dimension]["srcc"], abs=0.02
        )
    assert (tmp_path / "last" / "config.json").exists()
    assert read_recipe(tmp_path / "recipe.yaml") == recipe(pku, reference=reference, dimensions=dimensions)
    assert not list((tmp_path / "cache").glob("pixels*"))
    assert list((tmp_path / "tensorboard").glob("events.*"))


def test_training_learns_and_is_repeatable(pku, tmp_path):
    made = recipe(pku, epochs=8)
    first = train(made, tmp_path / "a", report=lambda line: None)
    assert first.history[-1]["loss"] < 0.75 * first.history[0]["loss"]  # which begins at the mean label
    train(made, tmp_path / "b", report=lambda line: None)
    assert weights(tmp_path / "a") == weights(tmp_path / "b")
    train(recipe(pku, epochs=8, seed=2), tmp_path / "c", report=lambda line: None)
    assert weights(tmp_path / "a") != weights(tmp_path / "c")


EVERYTHING = {"ema": 0.9, "schedule": "cosine", "warmup": 1.0, "accumulate": 2, "clip": 1.0, "freeze": 1,
              "optimizer": "adamw", "batch_by": "group", "reference": "full", "epochs": 4}  # fmt: skip


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.slow
def test_resumed_run_ends_with_the_weights_of_an_undisturbed_one(pku, tmp_path, number):
    train(recipe(pku, **EVERYTHING), tmp_path / "whole", report=lambda line: None)
    out = tmp_path / "killed"
    for interruption in range(2):
        resume = ["--resume"] if interruption else []
        process = subprocess.Popen(
            [sys.executable, *command(pku, out, *resume, **EVERYTHING)], stdout=subprocess.PIPE, text=True
        )
        for line in process.stdout:
            if line.startswith("epoch "):
                time.sleep(0.03)  # into the next epoch
                process.send_signal(number)
                break
        process.stdout.read()
        assert process.wait() == (-9 if number == signal.SIGKILL else 143)
    last = subprocess.run(
        [sys.executable, *command(pku, out, "--resume", **EVERYTHING)],
        check=True,
        capture_output=True,
        text=True,
    )
    assert "resuming at epoch" in last.stdout
    assert weights(out) == weights(tmp_path / "whole")
    assert weights(out / "last") == weights(tmp_path / "whole" / "last")
    assert (out / "metrics.jsonl").read_text() == (tmp_path / "whole" / "metrics.jsonl").read_text()
    assert (out / "evaluation.json").read_text() == (tmp_path / "whole" / "evaluation.json").read_text()


@pytest.mark.parametrize(
    "changes",
    [
        {"batch_size": 12, "loss": "mse=1,plcc=0.5,rank=0.5", "accumulate": 2, "clip": 1.0},
        {"batch_size": 16, "reference": "full", "freeze": 1, "freeze_norm": True, "ema": 0.9},
    ],
)
@pytest.mark.slow
def test_two_processes_give_the_metrics_of_one(pku, tmp_path, changes):
    for processes in (1, 2):
        launch = [
            sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", str(processes),
            "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no",
            "--num_cpu_threads_per_process", "1", "--main_process_port", "0",
        ]  # fmt: skip
        script = command(pku, tmp_path / str(processes), **changes)
        result = subprocess.run([*launch, *script], capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
    one, two = ([json.loads(line) for line in (tmp_path / n / "metrics.jsonl").open()] for n in ("1", "2"))
    assert [h["loss"] for h in one] == pytest.approx([h["loss"] for h in two], rel=1e-3)
    one, two = (
        json.loads((tmp_path / n / "evaluation.json").read_text())["figures"]["pku-i2iqa"]["quality"]
        for n in ("1", "2")
    )
    for name in ("n", "srcc", "krcc", "plcc", "rmse"):
        assert one[name] == pytest.approx(two[name], abs=5e-3)


def test_several_sets_with_different_scales_and_dimensions(pku, tmp_path):
    """The second set rates authenticity only, on 0 to 100, and the wrong way round on the recipe's scale."""
    from aigciqa.training.data import load

    rated = load(pku)
    lines = ["picture,authenticity,group"]
    lines += [
        f"{p},{20 * v},{g}"
        for p, v, g in zip(rated.pictures, rated.labels["quality"], rated.groups, strict=True)
    ]
    manifest = tmp_path / "other.csv"
    manifest.write_text("\n".join(lines))
    run = train(
        recipe(
            pku,
            data=[DataSource(str(pku)), DataSource(str(manifest), score_range=(0.0, 100.0), weight=0.5)],
            dimensions=("quality", "authenticity"),
        ),
        tmp_path / "run",
        report=lambda line: None,
    )
    assert set(run.evaluation) == {"pku-i2iqa", "other"}
    assert set(run.evaluation["other"]) == {"authenticity"}
    # learned on 0 to 5, and judged on the scale of its labels
    predicted = pd.read_csv(tmp_path / "run" / "predictions.csv")
    mine = predicted[predicted["set"] == 1]
    rmse = np.sqrt(((mine["authenticity_score"] - mine["authenticity_label"]) ** 2).mean())
    assert rmse < 5
    assert run.evaluation["other"]["authenticity"]["rmse"] == pytest.approx(20 * rmse)
    assert run.evaluation["other"]["authenticity"]["scale"] == [0, 100]


def test_protocols(pku, tmp_path):
    lines = []
    paper = recipe(pku, split="paper", select="test", epochs=2)
    train(paper, tmp_path / "paper", report=lines.append)
    assert any("warning" in line and "group" in line for line in lines)
    provenance = aigciqa.metric_info(tmp_path / "paper").provenance
    assert "optimistic" in provenance["selection"]
    # the authors' figures: the highest of each over the epochs, beside those of the epoch that was kept
    history = [json.loads(line) for line in (tmp_path / "paper" / "metrics.jsonl").open()]
    written = json.loads((tmp_path / "paper" / "evaluation.json").read_text())
    kept, best = written["figures"]["pku-i2iqa"]["quality"], written["best_of_each"]["quality"]
    for name in ("srcc", "plcc"):
        assert best[name] == max(epoch[f"test_{name}_quality"] for epoch in history) >= kept[name] - 1e-6
        assert history[best[f"{name}_epoch"] - 1][f"test_{name}_quality"] == best[name]
    assert kept["srcc"] == pytest.approx(best["srcc"])  # the epoch is chosen by SRCC, PLCC may be of another
    assert any("best of each" in line for line in lines)
    again = recipe(pku, split=str(tmp_path / "paper" / "splits"), select="last", epochs=2)
    train(again, tmp_path / "again", report=lambda line: None)
    name = "0-pku-i2iqa.csv"
    assert (tmp_path / "again" / "splits" / name).read_text() == (
        tmp_path / "paper" / "splits" / name
    ).read_text()

    lines = []
    patient = recipe(pku, select="validation", validation=0.3, patience=1, epochs=50, lr=0.0)
    run = train(patient, tmp_path / "patient", report=lines.append)
    assert all(
        {"validation_srcc_quality", "validation_plcc_quality"} <= epoch.keys() for epoch in run.history
    )
    assert len(run.history) == 2  # nothing is learned, so the second epoch is no better than the first
    assert not any("warning" in line for line in lines)


def test_an_unstated_scale_is_pointed_out(pku, tmp_path):
    rated = aigciqa.training.load(pku)
    lines = [f"{p},{v}" for p, v in zip(rated.pictures, rated.labels["quality"], strict=True)]
    (tmp_path / "ratings.csv").write_text("picture,quality\n" + "\n".join(lines))
    said = []
    train(
        recipe(pku, data=[DataSource(str(tmp_path / "ratings.csv"))], epochs=1),
        tmp_path / "run",
        report=said.append,
    )
    assert "which is taken for their whole scale; say otherwise with --range" in said[0]


def test_learning_from_everything(pku, tmp_path):
    run = train(recipe(pku, test=0.0, epochs=1), tmp_path, report=lambda line: None)
    assert run.evaluation == {}
    assert not (tmp_path / "evaluation.json").exists()
    assert aigciqa.create_metric(tmp_path, device="cpu").config.name == "small"
    with pytest.raises(InputError, match="needs a test side"):
        recipe(pku, test=0.0, select="test")


def test_later_epochs_decode_nothing(pku, tmp_path, monkeypatch):
    from aigciqa.training import pixels

    decoded = []
    read = pixels.image.read
    monkeypatch.setattr(pixels.image, "read", lambda path: decoded.append(path) or read(path))
    train(recipe(pku, reference="full"), tmp_path, report=lambda line: None)
    assert len(decoded) == len(set(decoded)) == 64 + 8


def test_a_reference_shared_in_a_batch_is_computed_once(pku, tmp_path):
    from aigciqa.training.trainer import _Trainer

    trainer = _Trainer(recipe(pku, reference="full", batch_by="group"), tmp_path, lambda line: None)
    rows = np.flatnonzero(trainer.rows.groups == 0)
    assert trainer.feed.batch(rows, None)["inputs"][0].shape[0] == 8 + 1


def test_start_from_weights(pku, tmp_path, tiny):
    folder = tiny(hidden=None)
    head = aigciqa.create_metric(folder, device="cpu").state_dict()["network.head.fc1.weight"]
    train(recipe(pku, weights=str(folder), lr=0.0, dimensions=("quality", "authenticity")), tmp_path / "a",
          report=lambda line: None)  # fmt: skip
    state = aigciqa.create_metric(tmp_path / "a", device="cpu").state_dict()
    assert torch.equal(state["network.head.fc1.weight"], head)

    scaled = {"weights": str(folder), "lr": 0.0, "dimensions": ("quality", "authenticity")}
    for number, changes in enumerate(({"bounded": True}, {"score_range": (0.0, 100.0)})):
        run = train(recipe(pku, **scaled, **changes), tmp_path / f"scale{number}", report=lambda line: None)
        other = aigciqa.create_metric(run.folder, device="cpu").state_dict()["network.head.fc1.weight"]
        assert other.shape == head.shape and not torch.equal(other, head)  # it says points of another scale

    file = tmp_path / "backbone.pth"
    backbone = {k.removeprefix("network.backbone.net."): v for k, v in state.items() if ".backbone." in k}
    torch.save(backbone, file)
    train(recipe(pku, weights=str(file), lr=0.0, freeze_norm=True), tmp_path / "b", report=lambda line: None)
    again = aigciqa.create_metric(tmp_path / "b", device="cpu").state_dict()
    assert all(torch.equal(again[f"network.backbone.net.{k}"], v) for k, v in backbone.items())
    del backbone["conv_stem.weight"]
    torch.save(backbone, file)
    for wrong, says in (
        (str(file), "1 tensors are missing"),
        ("nr-aigciqa", "do not fit the backbone"),
        ("resnet18.tv_in1k", "not of the backbone"),
    ):
        with pytest.raises(InputError, match=says):
            train(recipe(pku, weights=wrong), tmp_path / "c", report=lambda line: None)


def test_pretrained_tag_comes_through_timm_and_the_hub(hub, pku, tmp_path):
    import timm
    from safetensors.torch import save

    tag = "test_efficientnet.r160_in1k"
    network = timm.create_model("test_efficientnet")
    repo = timm.get_pretrained_cfg(tag).hf_hub_id
    content = save({k: v.contiguous() for k, v in network.state_dict().items()})
    hub.repo(repo).commit({"model.safetensors": content, "config.json": b"{}"})
    train(recipe(pku, weights=tag, lr=0.0, freeze_norm=True), tmp_path / "a", report=lambda line: None)
    state = aigciqa.create_metric(tmp_path / "a", device="cpu").state_dict()
    assert torch.equal(
        state["network.backbone.net.conv_stem.weight"], network.state_dict()["conv_stem.weight"]
    )


def test_every_epoch_has_srcc_and_plcc(pku, tmp_path):
    run = train(recipe(pku, select="validation", validation=0.3), tmp_path, report=lambda line: None)
    for epoch in run.history:
        assert {"validation_srcc_quality", "validation_plcc_quality"} <= epoch.keys()
        assert not any(key.startswith("test_") for key in epoch)  # the test side is looked at once
    assert run.best_of_each == {}


@pytest.mark.parametrize(
    "options", [{"split": "paper", "select": "test"}, {"split": "paper"}, {"select": "test"}]
)
def test_the_best_of_each_stands_beside_the_honest_figure(pku, tmp_path, options):
    """As the code of arXiv 2311.15556 logs it: the maxima over epochs, each by itself."""
    lines = []
    dimensions = ("quality", "overall")
    run = train(recipe(pku, dimensions=dimensions, epochs=5, **options), tmp_path, report=lines.append)
    saved = json.loads((tmp_path / "evaluation.json").read_text())
    assert saved["best_of_each"] == run.best_of_each
    shown = "\n".join(lines)
    for d in dimensions:
        best, figures = run.best_of_each[d], saved["figures"]["pku-i2iqa"][d]
        for kind in ("srcc", "plcc"):
            every = [epoch[f"test_{kind}_{d}"] for epoch in run.history]
            assert best[kind] == max(every) >= figures[kind] - 1e-9
            assert every[best[f"{kind}_epoch"] - 1] == best[kind]
        assert f"{d}: SRCC {best['srcc']:.4f} (epoch {best['srcc_epoch']}), PLCC {best['plcc']:.4f}" in shown
        selected = int(aigciqa.metric_info(tmp_path).provenance["epoch"])  # what the honest figures are of
        for kind in ("srcc", "plcc"):
            assert figures[kind] == pytest.approx(run.history[selected - 1][f"test_{kind}_{d}"], abs=1e-6)


def test_refusals(pku, tmp_path):
    train(recipe(pku, epochs=1), tmp_path / "used", report=lambda line: None)
    for call, says in (
        (lambda: train(recipe(pku), tmp_path / "used"), "holds a run"),
        (lambda: train(recipe(pku, epochs=9), tmp_path / "used", resume=True), "the recipe differs"),
        (lambda: train(recipe(pku, data=[]), tmp_path / "x"), "no data set"),
        (lambda: train(recipe(pku, dimensions=["beauty"]), tmp_path / "x"), "no labels for beauty"),
        (lambda: train(recipe(pku, split="half"), tmp_path / "x"), "split must be"),
        (lambda: train(recipe(pku, loss={"mes": 1}), tmp_path / "x"), "unknown loss"),
        (lambda: recipe(pku, epochs=0), "epochs must be at least 1"),
        (lambda: recipe(pku, select="best"), "select must be one of"),
        (lambda: recipe(pku, speed=3), "unknown speed"),
        (lambda: recipe(pku, reference="both"), "reference must be"),
        (lambda: read_recipe("fr-resnet51"), "no recipe 'fr-resnet51'; shipped are"),
    ):
        with pytest.raises(InputError, match=says):
            call()


def test_shipped_recipes():
    names = list_recipes()
    backbones = ["vgg16", "vgg19", "resnet18", "resnet50", "inceptionv4", "vit-l"]
    assert set(names) == {f"{mode}-{b}" for mode in ("nr", "fr", "pr") for b in backbones}
    for name in names:
        made = read_recipe(name)
        assert made.name == name
        assert (made.loss, made.optimizer, made.batch_size, made.epochs) == ({"mse": 1.0}, "adam", 8, 100)
        assert made.config().mode.lower() == name[:2]


@pytest.mark.slow
@pytest.mark.parametrize("reference", ["none", "full"])
def test_one_command_learns_to_judge_unseen_prompts(tmp_path, reference):
    """The promise: SRCC of at least 0.85 on prompts not trained on, in minutes on a CPU."""
    data = make_pku(tmp_path / "PKU-I2IQA", prompts=40)
    out = tmp_path / "run"
    options = {
        "reference": reference, "backbone": "tf_efficientnet_lite0", "weights": "nr-aigciqa", "mean": "0.5,0.5,0.5",
        "std": "0.5,0.5,0.5", "resize": 72, "crop": 64, "epochs": 8, "batch_size": 16, "lr": 5e-4,
        "schedule": "cosine",
    }  # fmt: skip
    flags = [f for k, v in options.items() for f in (f"--{k.replace('_', '-')}", str(v))]
    script = [sys.executable, "-m", "aigciqa.training.cli", "train", "--data", str(data), "--out", str(out)]
    subprocess.run([*script, *flags], check=True)
    found = json.loads((out / "evaluation.json").read_text())["figures"]["pku-i2iqa"]["quality"]
    assert found["srcc"] >= 0.85


def test_batches_mix_data_sets_in_fixed_numbers():
    """A weight acts only in the batches a row is in, so a small set comes in each of them, over again if need be."""
    sets, units = np.repeat([0, 1, 2], [40, 6, 30]), np.arange(76) // 5
    made = mixed_batches(np.arange(76), units, sets, [8, 2, 10], [1, 0])
    assert all(np.array_equal(np.bincount(sets[batch], minlength=3), [8, 2, 10]) for batch in made)
    times = np.bincount(np.concatenate(made))
    assert len(made) == 5 and set(times[:40]) == {1}  # an epoch is a pass over the first set
    assert set(times[40:46]) <= {1, 2} and set(times[46:]) <= {1, 2}
    first = made[0][sets[made[0]] == 2]
    assert (
        len(set(units[first])) <= 4
    )  # rows of one unit come together: ten rows are of two units, or parts of more
    assert [list(b) for b in made] == [
        list(b) for b in mixed_batches(np.arange(76), units, sets, [8, 2, 10], [1, 0])
    ]
    only = mixed_batches(np.arange(40, 76), None, sets, [8, 2, 10], [1, 0])  # nothing to learn from the first
    assert len(only) == 3 and all(len(batch) == 12 for batch in only)


def test_all_data_sets_or_none_have_rows_per_batch():
    with pytest.raises(InputError, match="per_batch"):
        Recipe(data=(DataSource("a", per_batch=3), DataSource("b")))
