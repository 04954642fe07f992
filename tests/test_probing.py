"""Runs with a frozen backbone: what they write down is what the checkpoint scores, and pictures are seen once."""

import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from synthetic import make_pku

import aigciqa
from aigciqa.errors import InputError
from aigciqa.model import Head
from aigciqa.training import probing
from aigciqa.training.data import load
from aigciqa.training.probing import principal_directions
from aigciqa.training.recipe import DataSource, read_recipe
from aigciqa.training.trainer import STATE, train

FROZEN = {
    "name": "small",
    "backbone": "test_efficientnet",
    "weights": "random",
    "feature": "stages",
    "frozen": True,
    "resize": 36,
    "crop": 32,
    "epochs": 4,
    "batch_size": 8,
    "lr": 1e-3,
    "hidden": 16,
    "select": "last",
    "validation": 0.0,
}
DIMENSIONS = ("quality", "correspondence")


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def pku(tmp_path_factory):
    return make_pku(tmp_path_factory.mktemp("pku") / "PKU-I2IQA", prompts=8, size=40)


def recipe(data, /, **changes):
    return read_recipe(None, FROZEN | {"data": [DataSource(str(data))]} | changes)


def silent(line):
    pass


def weights(folder):
    return (Path(folder) / "model.safetensors").read_bytes()


def features_file(folder):
    [file] = Path(folder).glob("features-*.bin")
    return file


# -- what is written down is what the checkpoint scores


@pytest.mark.parametrize(
    ("reference", "changes"),
    [
        ("none", {"feature": "avg"}),
        ("none", {"cells": 2, "tiles": 2, "dropout": 0.3, "half": True}),
        ("full", {"cells": 2, "tiles": 1, "ema": 0.9}),
        ("full", {"half": True}),
        ("full", {"feature": "avg", "select": "validation", "validation": 0.3}),
        ("partial", {"cells": 2}),
        ("partial", {"cells": 2, "half": True}),
    ],
)
def test_the_checkpoint_gives_the_predictions_of_the_run(pku, tmp_path, reference, changes):
    made = recipe(pku, reference=reference, dimensions=DIMENSIONS, lr=1e-2, **changes)
    run = train(made, tmp_path, report=silent)
    written = pd.read_csv(tmp_path / "predictions.csv")
    assert list(written) == [
        "set",
        "row",
        "picture",
        "reference",
        *(f"{d}_{w}" for d in DIMENSIONS for w in ("score", "label")),
    ]
    assert len(written) == 16
    rated = load(pku)
    rows = written["row"].tolist()
    pictures, references = ([column[i] for i in rows] for column in (rated.pictures, rated.references))
    assert written["picture"].tolist() == list(map(str, pictures))
    seen = [None] * len(rows) if reference == "none" else list(map(str, references))
    assert written["reference"].astype(object).where(written["reference"].notna(), None).tolist() == seen
    metric = aigciqa.create_metric(tmp_path, device="cpu")
    found = metric.predict(pictures, None if reference == "none" else references)
    for dimension in DIMENSIONS:
        np.testing.assert_allclose(written[f"{dimension}_label"], rated.labels[dimension][rows], rtol=1e-12)
        scores = written[f"{dimension}_score"].to_numpy()
        assert scores.std() > 0.05
        np.testing.assert_allclose(found[dimension].numpy(), scores, atol=1e-2 if made.half else 2e-3)
        figures = run.evaluation["pku-i2iqa"][dimension]
        assert figures["srcc"] == pytest.approx(
            pd.Series(scores).corr(written[f"{dimension}_label"], method="spearman"), abs=1e-6
        )


def test_partial_reference_where_some_have_none(pku, tmp_path):
    rated = load(pku)
    rows = [
        f"{p},{r if i % 3 else ''},{g},{q}"
        for i, (p, r, g, q) in enumerate(
            zip(rated.pictures, rated.references, rated.groups, rated.labels["quality"], strict=True)
        )
    ]
    (tmp_path / "some.csv").write_text("\n".join(["picture,reference,group,quality", *rows]))
    made = recipe(tmp_path / "some.csv", reference="partial", cells=2, lr=1e-2)
    train(made, tmp_path / "run", report=silent)
    written = pd.read_csv(tmp_path / "run" / "predictions.csv")
    some = load(tmp_path / "some.csv").subset(written["row"].tolist())
    assert 0 < sum(r is None for r in some.references) < len(some)
    metric = aigciqa.create_metric(tmp_path / "run", device="cpu")
    found = metric(some.pictures, some.references).numpy()
    np.testing.assert_allclose(found, written["quality_score"], atol=1e-2)
    apart = np.abs(
        metric(some.pictures).numpy() - written["quality_score"]
    )  # where there is none, that is it
    none = np.array([r is None for r in some.references])
    assert apart[none].max() < 1e-2 < apart[~none].max()


@pytest.mark.parametrize("half", [False, True])
def test_the_backbone_stays_as_it_was(pku, tmp_path, tiny, half):
    start = tiny()
    before = aigciqa.create_metric(start, device="cpu").state_dict()
    train(recipe(pku, weights=str(start), half=half, ema=0.9), tmp_path / "run", report=silent)
    after = aigciqa.create_metric(tmp_path / "run", device="cpu").state_dict()
    names = [name for name in before if ".backbone." in name]
    assert len(names) > 50
    for name in names:
        expected = before[name].half().float() if half and before[name].is_floating_point() else before[name]
        assert torch.equal(after[name], expected), name


def test_a_half_checkpoint_is_half_as_large(pku, tmp_path):
    for half in (False, True):
        train(recipe(pku, half=half, epochs=1), tmp_path / str(half), report=silent)
    assert len(weights(tmp_path / "True")) < 0.6 * len(weights(tmp_path / "False"))


@pytest.mark.parametrize(
    ("reference", "changes", "parts"),
    [
        ("none", {"feature": "avg"}, 1),
        ("none", {"tiles": 1}, 3),
        ("full", {}, 3),
        ("full", {"tiles": 1}, 9),
    ],
)
def test_every_part_of_the_inputs_weighs_the_same_over_the_rows_trained_on(
    pku, tmp_path, reference, changes, parts
):
    from aigciqa.training.trainer import _Trainer

    trainer = _Trainer(recipe(pku, reference=reference, **changes), tmp_path, silent)
    feed, network, rows = trainer.feed, trainer.network, trainer.train_rows
    rng = np.random.default_rng(0)
    width = feed.inputs.shape[1]
    assert (len(network.parts), sum(network.parts)) == (parts, width)
    spread, level = rng.uniform(0.5, 5, width), rng.uniform(-9, 9, width)
    feed.inputs[:] = rng.normal(size=feed.inputs.shape) * spread + level
    held_out = np.setdiff1d(np.arange(len(feed.inputs)), rows)
    assert len(held_out)
    feed.inputs[held_out] = 1000
    inputs = torch.from_numpy(feed.inputs[rows]).float()
    probe = feed.begin(network, rows, trainer.recipe, tmp_path / "other.safetensors").eval()
    with torch.no_grad():
        found = torch.from_numpy(feed.inputs[rows]).float()
        assert found.mean(0).abs().max() < 1e-2
        for part in found.split(network.parts, 1):
            variance = part.var(0, correction=0)
            assert variance.sum() == pytest.approx(width / parts, rel=1e-2)
            assert variance.max() < 1.02 * variance.min()
        assert torch.allclose(found, probe.coordinates(inputs), atol=1e-4)
        # as the checkpoint will hold it, for inputs as they are
        expected = probe(probe.coordinates(inputs)).mean(1)
        folded = probe.folded(network.state_dict())
        network.head = Head(width, network.head.fc1.out_features, 1)
        network.load_state_dict(folded)
        assert torch.allclose(network.head(inputs), expected, atol=1e-4)


def test_directions_are_those_in_which_the_inputs_vary_most():
    rng = np.random.default_rng(0)
    x = torch.from_numpy(
        rng.normal(size=(400, 60)) * np.geomspace(9, 0.1, 60) @ np.linalg.qr(rng.normal(size=(60, 60)))[0]
    )
    found = principal_directions(x, 5, seed=1)
    assert torch.allclose(found.T @ found, torch.eye(5, dtype=x.dtype), atol=1e-6)
    best = torch.linalg.svd(x, full_matrices=False)
    assert ((x @ found).square().sum() / best.S[:5].square().sum()).item() > 0.98
    assert torch.equal(found, principal_directions(x, 5, seed=1))


@pytest.mark.parametrize("bounded", [False, True])
def test_a_head_in_fewer_directions_is_written_for_the_inputs_as_they_are(pku, tmp_path, bounded):
    """The checkpoint scores pictures as the run predicted them."""
    made = recipe(pku, directions=7, members=2, hidden=6, epochs=2, half=False, bounded=bounded)
    run = train(made, tmp_path / "run", report=silent)
    metric = aigciqa.create_metric(run.folder, device="cpu")
    assert metric.network.head.fc1.weight.shape[0] == 6
    assert metric.config.bounded == bounded
    assert torch.linalg.matrix_rank(metric.network.head.fc1.weight) <= 7
    predicted = pd.read_csv(run.folder / "predictions.csv")
    rated = load(pku)
    pictures = [rated.pictures[i] for i in predicted["row"]]
    assert len(pictures) > 3
    scores = metric.predict(pictures)["quality"].numpy()
    assert np.abs(scores - predicted["quality_score"]).max() < 2e-2  # of features in half precision


@pytest.mark.parametrize("reference", ["none", "full"])
def test_a_head_that_learns_from_statistics_only_sees_nothing_else(pku, tmp_path, reference):
    """Of the picture, and of its reference: scores follow the statistics and no feature of the backbone."""
    made = recipe(pku, reference=reference, tiles=1, statistics_only=True, epochs=2, half=False)
    run = train(made, tmp_path / "run", report=silent)
    network = aigciqa.create_metric(run.folder, device="cpu").network
    parts = network.head.fc1.weight.split(network.parts, 1)
    moved = [bool(part.abs().max() > 0) for part in parts]
    assert moved == [False, False, True] * (len(parts) // 3)
    predicted = pd.read_csv(run.folder / "predictions.csv")
    assert predicted["quality_score"].std() > 0


def test_members_are_averaged_and_each_learns_for_itself(pku, tmp_path):
    from aigciqa.training.trainer import _Trainer

    trainer = _Trainer(recipe(pku, members=3, hidden=12), tmp_path, silent)
    probe = trainer.feed.probe.eval()
    x = torch.from_numpy(trainer.feed.inputs[:5]).float()
    members = probe(x)
    assert members.shape == (5, 3, 1)
    assert torch.allclose(members.mean(1), probe.head(x), atol=1e-5)
    probe(x)[:, 1].sum().backward()
    moved = probe.head.fc1.weight.grad.abs().sum(1) > 0
    assert moved[4:8].any()
    assert not moved[:4].any() and not moved[8:].any()


@pytest.mark.parametrize(
    "changes",
    [
        {"directions": 5, "frozen": False},
        {"members": 2, "hidden": None},
        {"members": 2, "hidden": 7},
        {"statistics_only": True},
        {"statistics_only": True, "tiles": 1, "frozen": False},
    ],
)
def test_recipes_of_frozen_heads_that_make_no_sense_are_refused(pku, changes):
    with pytest.raises(InputError, match=r"frozen|multiple of members|tiles"):
        recipe(pku, **changes)


# -- learning


@pytest.mark.parametrize("reference", ["none", "full"])
def test_a_head_learns_to_judge_groups_it_has_not_seen(tmp_path, reference):
    data = make_pku(tmp_path / "PKU-I2IQA", prompts=16, size=48)
    made = recipe(data, reference=reference, epochs=30, hidden=32, lr=3e-3, resize=48, crop=48)
    run = train(made, tmp_path / "run", report=silent)
    assert run.history[-1]["loss"] < 0.3 * run.history[0]["loss"]
    assert run.evaluation["pku-i2iqa"]["quality"]["srcc"] > 0.5


def test_runs_are_repeatable_and_dropout_changes_them(pku, tmp_path):
    for name, changes in (("a", {}), ("b", {}), ("c", {"dropout": 0.5}), ("d", {"seed": 2})):
        train(recipe(pku, epochs=1, **changes), tmp_path / name, report=silent)
    a, b, c, d = (weights(tmp_path / name) for name in "abcd")
    assert a == b
    assert len({a, c, d}) == 3


def test_dropout_reaches_a_backbone_that_learns(pku, tmp_path):
    for dropout in (0.0, 0.5):
        changes = {"frozen": False, "feature": "avg", "dropout": dropout, "epochs": 1}
        train(recipe(pku, **changes), tmp_path / str(dropout), report=silent)
    assert weights(tmp_path / "0.0") != weights(tmp_path / "0.5")


# -- interrupted


@pytest.mark.parametrize("how", ["killed", "terminated"])
def test_a_resumed_run_ends_with_the_weights_of_an_undisturbed_one(pku, tmp_path, how):
    made = recipe(
        pku, reference="full", dropout=0.4, ema=0.9, schedule="cosine", warmup=1.0, optimizer="adamw", epochs=5,
        accumulate=2, clip=1.0, loss={"mse": 1.0, "rank": 0.5}, rank_within="group", batch_by="group",
    )  # fmt: skip
    train(made, tmp_path / "whole", report=silent)

    def interrupt(line):
        if line.startswith(("epoch 1", "epoch 3")):
            if how == "killed":
                raise KeyboardInterrupt
            os.kill(os.getpid(), signal.SIGTERM)  # stops after the next step

    said = []
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt if how == "killed" else SystemExit):
            train(made, tmp_path / "cut", resume=True, report=interrupt)
        state = torch.load(tmp_path / "cut" / STATE, weights_only=True)
        assert (state["step"] > 0) == (how == "terminated")
    train(made, tmp_path / "cut", resume=True, report=said.append)
    assert any("resuming at epoch" in line for line in said)
    for name in ("model.safetensors", "last/model.safetensors", "predictions.csv", "metrics.jsonl"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


def test_a_resumed_run_keeps_its_coordinates(pku, tmp_path, monkeypatch):
    """Where they would be found otherwise, as with another number of threads; also when nothing is left to learn."""
    made = recipe(pku, epochs=3, directions=20)
    train(made, tmp_path / "whole", report=silent)

    def interrupt(line):
        if line.startswith("epoch 2"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(made, tmp_path / "cut", report=interrupt)
    found = probing.principal_directions
    monkeypatch.setattr(probing, "principal_directions", lambda *how: -found(*how).flip(1))
    expected = weights(tmp_path / "whole")
    for _ in range(2):
        train(made, tmp_path / "cut", resume=True, report=silent)
        assert weights(tmp_path / "cut") == expected
    train(made, tmp_path / "other", report=silent)
    assert weights(tmp_path / "other") != expected


# -- the features are computed once


@pytest.fixture
def stored(pku, tmp_path):
    """A run with a cache, and what its cache holds."""
    cache = tmp_path / "cache"
    made = recipe(pku, reference="full", cache=str(cache), cells=2)
    train(made, tmp_path / "first", report=silent)
    return made, features_file(cache)


def test_a_second_run_reads_what_is_stored(stored, tmp_path, pku):
    made, file = stored
    content, index = file.read_bytes(), file.with_suffix(".json").read_bytes()
    assert len(content) == (64 + 8) * 4 * 880 * 2  # pictures, cells, stages, bytes
    other = recipe(pku, reference="none", cache=made.cache, cells=2, seed=made.seed, lr=5e-3, dropout=0.1)
    train(other, tmp_path / "other", report=silent)
    assert features_file(file.parent) == file
    assert (file.read_bytes(), file.with_suffix(".json").read_bytes()) == (content, index)
    file.write_bytes(bytes(len(content)))  # which a run believes
    again = recipe(pku, reference="full", cache=made.cache, cells=2, epochs=1, select="last")
    with pytest.warns(RuntimeWarning, match="logistic"):  # the scores are all the same
        train(again, tmp_path / "zeros", report=silent)
    assert pd.read_csv(tmp_path / "zeros" / "predictions.csv")["quality_score"].nunique() == 1
    assert file.read_bytes() == bytes(len(content))


@pytest.mark.parametrize("tail", [0, 7, 4 * 880 * 2 * 3 + 5])
def test_a_torn_file_is_gone_on_with(stored, tmp_path, tail):
    """Rows that the index does not know of are of a run that was killed before it wrote the index."""
    import json

    made, file = stored
    content = file.read_bytes()
    index = json.loads(file.with_suffix(".json").read_text())
    kept = 20 * 4 * 880 * 2
    marked = bytes(2) + content[2:kept]
    file.write_bytes(marked + b"\x7b" * tail)
    file.with_suffix(".json").write_text(json.dumps({k: v for k, v in index.items() if v < 20}))
    train(made, tmp_path / "again", report=silent)
    assert file.read_bytes() == marked + content[kept:]  # the first 20 were not computed again
    assert json.loads(file.with_suffix(".json").read_text()) == index


def test_a_link_planted_in_the_place_of_the_features_is_not_followed(stored, tmp_path):
    made, file = stored
    victim = tmp_path / "victim"
    file.rename(victim)
    file.symlink_to(victim)
    file.with_suffix(".json").write_text("{}")
    before = victim.read_bytes()
    with pytest.raises(InputError, match="is a link"):
        train(made, tmp_path / "again", report=silent)
    assert victim.read_bytes() == before


def test_features_that_are_gone_are_computed_again(stored, tmp_path):
    made, file = stored
    content = file.read_bytes()
    file.unlink()
    train(made, tmp_path / "gone", report=silent)
    assert file.read_bytes() == content
    file.write_bytes(content[:100])
    train(made, tmp_path / "short", report=silent)
    assert file.read_bytes() == content
    assert weights(tmp_path / "gone") == weights(tmp_path / "short") == weights(tmp_path / "first")


def test_a_run_that_failed_half_way_goes_on_where_it_was(tmp_path, monkeypatch):
    data = make_pku(tmp_path / "PKU-I2IQA", prompts=4, size=40)
    picture = load(data).pictures[25]
    content = picture.read_bytes()
    made = recipe(data, cache=str(tmp_path / "cache"), reference="none")
    train(made, tmp_path / "whole", report=silent)
    whole = features_file(tmp_path / "cache").read_bytes()
    width = len(whole) // 32
    made = recipe(data, cache=str(tmp_path / "cache2"), reference="none")
    monkeypatch.setattr(probing, "SAVED_EVERY", 10)
    picture.write_bytes(b"torn")
    with pytest.raises(InputError, match=picture.name):
        train(made, tmp_path / "failed", report=silent)
    picture.write_bytes(content)
    file = features_file(tmp_path / "cache2")
    assert len(file.read_bytes()) >= 20 * width
    file.write_bytes(bytes(width) + file.read_bytes()[width:])
    train(made, tmp_path / "goes-on", report=silent)
    assert file.read_bytes() == bytes(width) + whole[width:]


def train_at_once(barrier, made, folder):
    torch.set_num_threads(1)  # as in this process: on some processors sums depend on their number
    barrier.wait()
    train(made, folder, report=silent)


@pytest.mark.parametrize("frozen", [True, False])
@pytest.mark.slow
def test_runs_that_begin_at_once_share_a_cache(pku, tmp_path, frozen):
    context = multiprocessing.get_context("spawn")
    made = [
        recipe(pku, cache=str(tmp_path / cache), epochs=1, frozen=frozen, directions=0)
        for cache in ("a", "b")
    ]
    train(made[0], tmp_path / "alone", report=silent)
    barrier = context.Barrier(3)
    runs = [
        context.Process(target=train_at_once, args=(barrier, made[1], tmp_path / f"run{i}")) for i in range(3)
    ]
    for run in runs:
        run.start()
    for run in runs:
        run.join()
    assert [run.exitcode for run in runs] == [0, 0, 0]
    [alone], [shared] = (list((tmp_path / cache).glob("*.bin")) for cache in ("a", "b"))
    assert shared.stat().st_size == alone.stat().st_size
    assert shared.name == alone.name
    assert {weights(tmp_path / f"run{i}") for i in range(3)} == {weights(tmp_path / "alone")}


def test_a_folder_that_another_process_trains_into_is_refused(pku, tmp_path):
    program = "import sys; from pathlib import Path; from aigciqa.training.files import claimed\n"
    program += "lock = claimed(Path(sys.argv[1])); print('claimed', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout.readline().strip() == b"claimed"
        with pytest.raises(InputError, match="being written by another process"):
            train(recipe(pku, epochs=1), tmp_path, report=silent)
        other.kill()  # what it held is free at once
        other.wait()
    train(recipe(pku, epochs=1), tmp_path, report=silent)


def test_another_picture_under_an_old_name_is_looked_at(tmp_path):
    data = make_pku(tmp_path / "PKU-I2IQA", prompts=4, size=40)
    made = recipe(data, cache=str(tmp_path / "cache"))
    train(made, tmp_path / "a", report=silent)
    before = features_file(tmp_path / "cache").read_bytes()
    Image.new("RGB", (40, 40), (9, 200, 90)).save(load(data).pictures[0])
    train(made, tmp_path / "b", report=silent)
    after = features_file(tmp_path / "cache").read_bytes()
    assert after[: len(before)] == before
    assert len(after) == len(before) + len(before) // 32
    assert weights(tmp_path / "a") != weights(tmp_path / "b")


def test_other_backbones_and_views_are_stored_apart(pku, tmp_path):
    cache = tmp_path / "cache"
    for number, changes in enumerate(({}, {"seed": 2}, {"crop": 28}, {"cells": 2}, {"tiles": 1})):
        train(recipe(pku, cache=str(cache), epochs=1, **changes), tmp_path / str(number), report=silent)
        assert len(list(cache.glob("features-*.bin"))) == number + 1


def test_without_a_shared_cache_nothing_stays(pku, tmp_path):
    train(recipe(pku), tmp_path, report=silent)
    assert not list(tmp_path.rglob("features-*"))


@pytest.mark.parametrize("reference", ["none", "full"])
def test_ranking_within_a_reference_compares_what_shares_one_seen_or_not(pku, tmp_path, reference):
    from aigciqa.training.trainer import _Trainer

    alone = tmp_path / "alone.csv"
    rated = load(pku)
    alone.write_text("picture,quality\n" + "".join(f"{rated.pictures[i]},{i}\n" for i in range(3)))
    sources = [DataSource(str(pku))] + [DataSource(str(alone))] * (reference == "none")
    trainer = _Trainer(
        recipe(pku, reference=reference, data=sources, rank_within="reference"), tmp_path, silent
    )
    found = trainer.feed.comparable
    count = len(rated.pictures)
    same = np.array([[a == b for b in rated.references] for a in rated.references])
    assert same.sum() > count
    assert ((found[:count, None] == found[None, :count]) == same).all()
    assert len(set(found[count:]) | set(found[:count])) == len(set(found[:count])) + len(found) - count
