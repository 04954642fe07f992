"""`aigciqa.rank`: the best of several pictures."""

import io

import pytest
import torch
from torchvision.transforms.functional import pil_to_tensor

import aigciqa
from aigciqa import CheckpointError, InputError

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def several(picture):
    return [picture(seed=seed) for seed in range(5)]


def test_order_is_that_of_the_scores(tiny, several):
    metric = aigciqa.create_metric(tiny(), device="cpu")
    order, scores = ranking = aigciqa.rank(several, metric=metric)
    assert scores == metric(several).tolist()
    assert sorted(scores, reverse=True) == [scores[i] for i in order]
    assert len(set(scores)) == 5 and ranking.best == scores.index(max(scores)) == order[0]


@pytest.mark.parametrize("reference", ["full", "partial"])
def test_beside_one_prompt_or_several(tiny, several, picture, reference):
    folder, prompt = tiny(reference), picture(seed=9)
    metric = aigciqa.create_metric(folder, device="cpu")
    one = aigciqa.rank(several, prompt, metric=folder, device="cpu")
    assert one.scores == metric(several, prompt).tolist()
    assert aigciqa.rank(several, [prompt] * 5, metric=folder, device="cpu").order == one.order
    others = [picture(seed=20 + i) for i in range(5)]
    assert (
        aigciqa.rank(several, others, metric=folder, device="cpu").scores == metric(several, others).tolist()
    )


def test_by_any_dimension(tiny, several):
    folder = tiny()
    metric = aigciqa.create_metric(folder, dimension="authenticity", device="cpu")
    expected = metric.predict(several)
    for dimension in ("quality", "authenticity"):
        assert (
            aigciqa.rank(several, metric=metric, dimension=dimension).scores == expected[dimension].tolist()
        )
        by_name = aigciqa.rank(several, metric=folder, dimension=dimension, device="cpu")
        assert by_name.scores == expected[dimension].tolist()
    assert aigciqa.rank(several, metric=metric).scores == expected["authenticity"].tolist()


def test_ties_keep_their_order(tiny, picture):
    same, other = picture(seed=1), picture(seed=2)
    ranking = aigciqa.rank([same, other, same, other, same], metric=tiny(), device="cpu")
    assert ranking.order in ([0, 2, 4, 1, 3], [1, 3, 0, 2, 4])


def test_tensors_and_files_rank_alike(tiny, several, tmp_path):
    folder, files = tiny(), []
    for number, image in enumerate(several):
        image.save(tmp_path / f"{number}.png")
        files.append(tmp_path / f"{number}.png")
    batch = torch.stack([pil_to_tensor(image) for image in several])
    ranking = aigciqa.rank(files, metric=folder, device="cpu")
    assert ranking == aigciqa.rank(batch, metric=folder, device="cpu")


@pytest.mark.slow
def test_the_named_metrics(several, picture):
    """The one that fits: with a prompt full reference, else none."""
    one, prompt = several[:1], picture(seed=9)
    assert (
        aigciqa.rank(one, device="cpu").scores
        == aigciqa.create_metric("nr-aigciqa", device="cpu")(one).tolist()
    )
    beside = aigciqa.create_metric("fr-aigciqa", device="cpu")(one, prompt).tolist()
    assert aigciqa.rank(one, prompt, device="cpu").scores == beside


def test_errors_say_what_to_do(tiny, several, picture):
    nr, fr = tiny(), tiny("full")
    for images, arguments, message in (
        ("gen.png", {}, "in a list"),
        (picture(), {}, "in a list"),
        (torch.zeros(3, 64, 64), {}, "in a list"),
        ([], {}, "the list is empty"),
        (torch.zeros(0, 3, 64, 64), {}, "the list is empty"),
        (several, {"dimension": "beauty"}, "predicts quality, authenticity, not 'beauty'"),
        ([*several, b"no picture"], {}, "picture 5.*not a picture"),
        (several, {"ref": picture()}, "judges a picture alone"),
        (several, {"metric": fr}, "compares with a reference"),
        (several, {"metric": fr, "ref": [picture()] * 4}, "5 pictures but 4 references"),
        (several, {"metric": aigciqa.create_metric(nr), "device": "cpu"}, "leave device out"),
    ):
        with pytest.raises(InputError, match=message):
            aigciqa.rank(images, **{"metric": nr} | arguments)
    with pytest.raises(CheckpointError, match="did you mean 'nr-aigciqa'"):
        aigciqa.rank(several, metric="nr-aigcqa")


def test_a_score_that_is_not_finite_has_no_rank(tiny, several):
    metric = aigciqa.create_metric(tiny(), device="cpu").load()
    metric.network.head.fc2.bias.data[0] = float("nan")
    with pytest.raises(InputError, match="picture 0 has no finite score"):
        aigciqa.rank(several, metric=metric)


def test_exported():
    assert "rank" in dir(aigciqa) and "rank" in aigciqa.__all__
    assert "rank" not in vars(aigciqa)  # loaded when asked for, as torch is with it


def test_open_files_and_bytes(tiny, several):
    data = io.BytesIO()
    several[0].save(data, "PNG")
    ranking = aigciqa.rank((data.getvalue(), several[0]), metric=tiny(), device="cpu")
    assert ranking.order == [0, 1] and ranking.scores[0] == pytest.approx(ranking.scores[1], abs=1e-5)
