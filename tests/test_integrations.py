"""Our metrics inside other libraries, each of which really runs here."""

import copy
import importlib
import io
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import EXAMPLES
from PIL import Image
from torchvision.transforms.functional import pil_to_tensor

import aigciqa
from aigciqa import InputError

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def batches(picture):
    """Three batches of unlike size."""
    pictures = torch.stack([pil_to_tensor(picture(seed=seed)) for seed in range(7)])
    return pictures.split([3, 3, 1])


def encoded(image, kind="PNG"):
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


@pytest.mark.parametrize("library", ["torchmetrics", "ignite", "datasets", "pyiqa"])
def test_a_missing_library_is_named_with_its_extra(library, monkeypatch):
    """As where it is not installed: no module of that name can be imported."""
    name = f"aigciqa.integrations.{library}"
    monkeypatch.delitem(sys.modules, name, raising=False)
    needed = {"datasets": "pyarrow"}.get(library, library)
    for known in [module for module in sys.modules if module.startswith(f"{needed}.")]:
        monkeypatch.delitem(sys.modules, known)
    monkeypatch.setitem(sys.modules, needed, None)
    with pytest.raises((ImportError, InputError), match=re.escape(f"pip install 'aigciqa[{library}]'")):
        importlib.import_module(name).register()  # pyiqa is needed only here
    monkeypatch.delitem(sys.modules, name, raising=False)


# -- torchmetrics


def test_torchmetrics_mean_of_all_pictures(tiny, batches):
    from aigciqa.integrations.torchmetrics import AigciqaScore

    metric = aigciqa.create_metric(tiny(), device="cpu")
    expected = metric.predict(torch.cat(batches))
    score, every = AigciqaScore(metric), AigciqaScore(metric, dimension="all")
    sizes = set()
    for batch in batches:
        torch.testing.assert_close(score(batch), metric(batch).mean())  # forward: of this batch
        every.update(list(batch))
        sizes.add(sum(state.numel() for state in score.metric_state.values()))
    assert sizes == {3}  # two sums and a count, however many pictures
    torch.testing.assert_close(score.compute(), expected["quality"].mean())
    assert every.compute().keys() == expected.keys()
    torch.testing.assert_close(every.compute()["authenticity"], expected["authenticity"].mean())
    assert score.compute().shape == () and score.higher_is_better is True
    assert (score.plot_lower_bound, score.plot_upper_bound) == (0.0, 5.0)
    score.reset()
    score.update(batches[0])
    torch.testing.assert_close(score.compute(), metric(batches[0]).mean())


def test_torchmetrics_a_score_for_each(tiny, batches):
    from aigciqa.integrations.torchmetrics import AigciqaScore

    metric = aigciqa.create_metric(tiny("full"), device="cpu")
    prompts = torch.cat(batches).flip(0)
    each = AigciqaScore(metric, dimension="authenticity", reduction="none")
    with pytest.warns(UserWarning, match="before"):
        assert each.compute().shape == (0,)
    each.reset()
    for batch, references in zip(batches, prompts.split([3, 3, 1]), strict=True):
        each.update(batch, references)
    torch.testing.assert_close(each.compute(), metric.predict(torch.cat(batches), prompts)["authenticity"])


def test_torchmetrics_keeps_no_graph_and_no_weights(tiny, batches):
    from aigciqa.integrations.torchmetrics import AigciqaScore

    metric = aigciqa.create_metric(tiny(), device="cpu", as_loss=True)
    model = torch.nn.Module()
    model.score = AigciqaScore(metric)
    pictures = (batches[0] / 255).requires_grad_()
    model.score.update(pictures)
    assert not model.score.total.requires_grad and not model.score(pictures).requires_grad
    assert not list(model.parameters()) and not model.state_dict()
    assert model.train().score.metric.training is False


def test_torchmetrics_moves_copies_and_pickles(tiny, batches):
    from aigciqa.integrations.torchmetrics import AigciqaScore

    score = AigciqaScore(tiny())
    score.update(batches[0])
    for other in (pickle.loads(pickle.dumps(score)), copy.deepcopy(score), score.clone()):
        other.update(batches[1])
        torch.testing.assert_close(other.compute(), score.metric(torch.cat(batches[:2])).mean())
    assert score.count == 3
    moved = AigciqaScore(score.metric).to("meta")
    assert moved.metric.device.type == moved.total.device.type == "meta"


def test_torchmetrics_collection(tiny, batches):
    from torchmetrics import MetricCollection

    from aigciqa.integrations.torchmetrics import AigciqaScore

    nr, other = tiny(), aigciqa.create_metric(tiny(name="other", dimensions=("quality",)), device="cpu")
    collection = MetricCollection(
        {"quality": AigciqaScore(nr), "authenticity": AigciqaScore(nr, dimension="authenticity"),
         "other": AigciqaScore(other)}, prefix="val_",
    )  # fmt: skip
    for batch in batches:
        collection.update(batch)
    expected = aigciqa.create_metric(nr, device="cpu").predict(torch.cat(batches))
    found = collection.compute()
    torch.testing.assert_close(found["val_quality"], expected["quality"].mean())
    torch.testing.assert_close(found["val_authenticity"], expected["authenticity"].mean())
    torch.testing.assert_close(found["val_other"], other(torch.cat(batches)).mean())


def test_torchmetrics_collection_of_nr_fr_and_theirs(tiny, batches):
    from torchmetrics import MetricCollection
    from torchmetrics.image import PeakSignalNoiseRatio

    from aigciqa.integrations.torchmetrics import AigciqaScore

    nr, fr, pr = (aigciqa.create_metric(tiny(kind), device="cpu") for kind in ("none", "full", "partial"))
    collection = MetricCollection(
        {
            "nr": AigciqaScore(nr),
            "fr": AigciqaScore(fr),
            "pr": AigciqaScore(pr),
            "psnr": PeakSignalNoiseRatio(1.0),
        }
    )
    batches = [batch / 255 for batch in batches]
    prompts = [batch.flip(-1) for batch in batches]
    for batch, references in zip(batches, prompts, strict=True):
        collection.update(batch, references)
    both, found = (torch.cat(batches), torch.cat(prompts)), collection.compute()
    torch.testing.assert_close(found["nr"], nr(both[0]).mean())
    torch.testing.assert_close(found["fr"], fr(*both).mean())
    torch.testing.assert_close(found["pr"], pr(*both).mean())
    torch.testing.assert_close(found["psnr"], PeakSignalNoiseRatio(1.0)(*both))
    ours = MetricCollection({"nr": AigciqaScore(nr), "fr": AigciqaScore(fr)})
    by_name = ours(batches[0], references=prompts[0])  # forward, references by name
    torch.testing.assert_close(
        by_name, {"nr": nr(batches[0]).mean(), "fr": fr(batches[0], prompts[0]).mean()}
    )


def test_torchmetrics_plot_spans_the_score_range(tiny, batches):
    from matplotlib import pyplot

    from aigciqa.integrations.torchmetrics import AigciqaScore

    mean, every = AigciqaScore(tiny()), AigciqaScore(tiny(), dimension="all")
    each = AigciqaScore(tiny(), reduction="none")
    values = [mean(batch) for batch in batches]
    every.update(batches[0])
    each.update(batches[0])
    for drawn in (mean.plot(values), mean.plot(), each.plot(), every.plot()):
        axes = drawn[1]
        low, high = axes.get_ylim()
        assert low <= 0.0 < 5.0 <= high < 6.0
    _, axes = pyplot.subplots()
    assert mean.plot(values, ax=axes)[1] is axes
    curve = axes.lines[0].get_ydata()
    assert list(curve) == pytest.approx([value.item() for value in values])
    pyplot.close("all")


def test_torchmetrics_errors(tiny, batches):
    from aigciqa.integrations.torchmetrics import AigciqaScore

    score = AigciqaScore(tiny())
    with pytest.raises(InputError, match=r"must lie in \[0, 1\]"):
        score.update(batches[0].float())
    assert score.count == 0
    with pytest.raises(InputError, match="predicts quality, authenticity"):
        AigciqaScore(tiny(), dimension="beauty")
    with pytest.raises(InputError, match="mean or none"):
        AigciqaScore(tiny(), reduction="sum")
    score.metric.load().network.head.fc2.bias.data.fill_(float("nan"))
    with pytest.raises(InputError, match="not finite"):
        score.update(batches[0])


TWO_PROCESSES = """
import sys
import torch
from torch import distributed
from ignite import distributed as idist

from aigciqa.integrations import ignite, torchmetrics

rank, folder, pictures = int(sys.argv[1]), sys.argv[2], torch.load(sys.argv[3])
torch.set_num_threads(1)
distributed.init_process_group("gloo", init_method=f"file://{sys.argv[4]}", rank=rank, world_size=2)
of_each = [int(n) for n in sys.argv[5].split(",")]
mine = pictures[: of_each[0]] if rank == 0 else pictures[of_each[0] : sum(of_each)]
mean = torchmetrics.AigciqaScore(folder, dimension="all")
each = torchmetrics.AigciqaScore(folder, reduction="none")
epoch = ignite.AigciqaScore(folder)
for metric in (mean, each, epoch):
    if len(mine):
        metric.update(mine)
found = [mean.compute(), each.compute(), epoch.compute() if sum(of_each) else None, int(mean.count)]
torch.save(found, f"{sys.argv[4]}.{rank}")
distributed.destroy_process_group()
"""


@pytest.mark.slow
@pytest.mark.parametrize("of_each", [(2, 5), (0, 3), (3, 0), (0, 0)], ids=str)
def test_two_processes_are_as_one(tiny, batches, tmp_path, of_each):
    """With unlike numbers of images, also where a process has seen none."""
    from aigciqa.integrations.torchmetrics import AigciqaScore

    folder, pictures = tiny(), torch.cat(batches)[: sum(of_each)]
    torch.save(pictures, tmp_path / "pictures")
    command = [sys.executable, "-c", TWO_PROCESSES]
    rest = [str(folder), str(tmp_path / "pictures"), str(tmp_path / "meeting"), ",".join(map(str, of_each))]
    both = [subprocess.Popen([*command, str(rank), *rest]) for rank in range(2)]
    assert [process.wait(120) for process in both] == [0, 0]

    if not sum(of_each):
        for rank in range(2):
            mean, each, _, count = torch.load(tmp_path / f"meeting.{rank}")
            assert mean["quality"].isnan() and each.shape == (0,) and count == 0
        return
    alone = AigciqaScore(folder, dimension="all")
    alone.update(pictures)
    expected = aigciqa.create_metric(folder, device="cpu")(pictures)
    counts = []
    for rank in range(2):
        mean, each, epoch, count = torch.load(tmp_path / f"meeting.{rank}")
        torch.testing.assert_close(mean, alone.compute(), atol=1e-6, rtol=0)
        torch.testing.assert_close(each, expected, atol=1e-5, rtol=0)
        assert epoch == pytest.approx(expected.mean().item(), abs=1e-5)
        counts.append(count)
    assert counts == list(of_each)  # what each has seen is its own again


# -- PyTorch Ignite


def test_ignite_run(tiny, batches):
    from ignite.engine import Engine

    from aigciqa.integrations.ignite import AigciqaScore

    nr, fr = (aigciqa.create_metric(tiny(kind), device="cpu") for kind in ("none", "full"))
    pairs = [(batch, batch.flip(0)) for batch in batches]
    expected = nr.predict(torch.cat(batches))
    evaluator = Engine(lambda engine, batch: {"y_pred": batch[0], "y": batch[1]})
    AigciqaScore(nr).attach(evaluator, "nr")
    AigciqaScore(nr, dimension="all", output_transform=lambda output: list(output["y_pred"])).attach(
        evaluator, "every"
    )
    AigciqaScore(fr).attach(evaluator, "fr")
    for _ in range(2):  # the second run begins anew
        found = evaluator.run(pairs).metrics
        assert found["nr"] == pytest.approx(expected["quality"].mean().item(), abs=1e-5)
        assert found["every"]["authenticity"] == pytest.approx(
            expected["authenticity"].mean().item(), abs=1e-5
        )
        beside = torch.cat([fr(*pair) for pair in pairs])
        assert found["fr"] == pytest.approx(beside.mean().item(), abs=1e-5)


def test_ignite_output_that_loaders_and_models_give(tiny, batches):
    from ignite.exceptions import NotComputableError

    from aigciqa.integrations.ignite import AigciqaScore

    nr, fr, pr = (aigciqa.create_metric(tiny(k), device="cpu") for k in ("none", "full", "partial"))
    batch, prompts = batches[0], batches[1]

    def score(metric, output):
        ours = AigciqaScore(metric)
        ours.update(output)
        return pytest.approx(ours.compute(), abs=1e-5)

    assert score(nr, list(batch)) == nr(batch).mean().item()
    for pair in ((batch, prompts), [batch, prompts], (list(batch), list(prompts))):
        assert score(fr, pair) == fr(batch, prompts).mean().item()
    assert score(pr, batch) == pr(batch).mean().item()
    assert score(pr, (batch, prompts)) == pr(batch, prompts).mean().item()
    for both in ((batch, prompts), [batch, prompts]):  # never the prompts scored, too
        with pytest.raises(InputError, match=r"output_transform=lambda output: output\[0\]"):
            AigciqaScore(nr).update(both)
    with pytest.raises(NotComputableError):
        AigciqaScore(nr).compute()
    with pytest.raises(InputError, match="predicts"):
        AigciqaScore(nr, dimension="beauty")


# -- Hugging Face datasets


@pytest.fixture
def quiet():
    from datasets import disable_progress_bars, enable_progress_bars

    disable_progress_bars()
    yield
    enable_progress_bars()


def test_datasets_columns_of_every_kind(tiny, picture, tmp_path, quiet):
    from datasets import Dataset, Features, Value
    from datasets import Image as Picture

    from aigciqa.integrations.datasets import score_batch

    folder = tiny()
    metric = aigciqa.create_metric(folder, device="cpu")
    files = []
    for seed in range(3):
        files.append(str(tmp_path / f"{seed}.png"))
        picture(seed=seed).save(files[-1])
    contents = [Path(f).read_bytes() for f in files]
    (tmp_path / "broken.png").write_bytes(contents[0][:200])
    bad = str(tmp_path / "broken.png")
    expected = metric.predict(files)
    score = score_batch({"source": folder, "device": "cpu"})
    paths = Dataset.from_dict({"image": [bad, files[0], None, *files[1:]]})
    in_bytes = Dataset.from_dict({"image": [contents[0][:200], contents[0], None, *contents[1:]]},
                                 features=Features({"image": Value("binary")}))  # fmt: skip
    for dataset in (
        paths,
        in_bytes,
        paths.cast_column("image", Picture()),
        paths.cast_column("image", Picture(decode=False)),
        paths.cast_column("image", Picture(decode=False)).with_format("torch"),
    ):
        # the first batch has nothing but the broken one
        scored = dataset.map(score, batched=True, batch_size=1, writer_batch_size=1).with_format(None)
        scored = scored.remove_columns("image")
        assert scored.column_names == ["quality", "authenticity", "error", "metric"]
        for dimension, scores in expected.items():
            found = scored[dimension]
            assert [found[0], found[2]] == [None, None]
            assert [found[1], *found[3:]] == pytest.approx(scores.tolist(), abs=1e-5)
        assert "broken" in scored[0]["error"] or "truncated" in scored[0]["error"]
        assert scored["error"][1:] == [None, "column 'image' is empty here", None, None]
        assert set(scored["metric"]) == {metric.config.stamp}


def test_datasets_take_nan_for_a_picture_that_is_missing(tiny, picture, tmp_path):
    from aigciqa.integrations.datasets import score_batch

    path, folder = str(tmp_path / "a.png"), tiny("partial")
    picture().save(path)
    nan = float("nan")
    found = score_batch({"source": folder, "device": "cpu"}, reference="ref")(
        {"image": [path, nan, path], "ref": [nan, nan, None]}
    )
    assert found["error"] == [None, "column 'image' is empty here", None]
    assert found["quality"][0] == found["quality"][2] is not None


def test_ray_takes_nan_for_a_reference_that_is_missing():
    pa = pytest.importorskip("pyarrow")
    from aigciqa.integrations.ray import _pictures

    assert _pictures(pa.table({"ref": pa.array([float("nan"), None])}), "ref") == [(None, None)] * 2


def test_datasets_decoded_pictures_and_streams(tiny, picture, quiet):
    from datasets import Dataset
    from datasets import Image as Picture

    from aigciqa.integrations.datasets import score_batch

    metric = aigciqa.create_metric(tiny("partial"), device="cpu")
    pictures = [picture(seed=seed) for seed in range(3)]
    dataset = Dataset.from_dict(
        {"made": [encoded(p) for p in pictures], "prompt": [encoded(pictures[2]), None, None]}
    )
    dataset = dataset.cast_column("made", Picture()).cast_column("prompt", Picture())
    score = score_batch({"source": tiny("partial"), "device": "cpu"}, "made", "prompt", prefix="pr_")
    expected = metric(pictures, [pictures[2], None, None]).tolist()
    assert dataset.map(score, batched=True)["pr_quality"][:] == pytest.approx(expected, abs=1e-5)
    as_tensors = dataset.with_format("torch").map(score, batched=True).with_format(None)
    assert as_tensors["pr_quality"][:] == pytest.approx(expected, abs=1e-5)
    stream = dataset.to_iterable_dataset().map(score, batched=True)
    assert [row["pr_quality"] for row in stream] == pytest.approx(expected, abs=1e-5)

    def transform(batch):  # tensors, of which one is out of range
        made = [pil_to_tensor(p) / 255 for p in batch["made"]]
        return {"made": [made[0], made[1] * 3, *made[2:]], "prompt": batch["prompt"]}

    found = score(transform(dataset[:]))
    assert found["pr_quality"] == pytest.approx([expected[0], None, expected[2]], abs=1e-5)
    assert [bool(error) for error in found["pr_error"]] == [False, True, False]


def test_datasets_cache_follows_the_checkpoint(tiny, picture, tmp_path, quiet):
    from datasets import Dataset, load_from_disk
    from datasets.fingerprint import Hasher

    from aigciqa.integrations.datasets import score_batch
    from aigciqa.weights import save_checkpoint

    folder = tiny()
    Dataset.from_dict({"image": [encoded(picture(seed=s)) for s in range(2)]}).save_to_disk(tmp_path / "set")
    dataset = load_from_disk(tmp_path / "set")
    score = score_batch(folder)
    begun = Hasher.hash(score)
    first = dataset.map(score, batched=True)
    assert Hasher.hash(score) == begun == Hasher.hash(pickle.loads(pickle.dumps(score)))  # weights are in now
    weights = folder / "model.safetensors"
    state = aigciqa.create_metric(folder, device="cpu").network.state_dict()
    weights.rename(tmp_path / "away")
    again = dataset.map(score_batch(folder), batched=True)  # without the weights: nothing is computed
    assert again[:] == first[:] and again.cache_files == first.cache_files
    state["head.fc2.bias"] += 1
    save_checkpoint(folder, aigciqa.metric_info(folder), state)
    other = dataset.map(score_batch(folder), batched=True)
    assert other["quality"][0] == pytest.approx(first["quality"][0] + 1, abs=1e-4)
    assert Hasher.hash(score_batch(folder, prefix="x")) != Hasher.hash(score_batch(folder))


def test_datasets_two_processes(tiny, picture, quiet):
    from datasets import Dataset

    from aigciqa.integrations.datasets import score_batch

    metric = aigciqa.create_metric(tiny("full"), device="cpu")
    pictures = [encoded(picture(seed=seed)) for seed in range(4)]
    expected = metric(pictures, pictures[::-1]).tolist()  # here first: children inherit what it leaves
    dataset = Dataset.from_dict({"image": pictures, "prompt": pictures[::-1]})
    scored = dataset.map(score_batch(tiny("full"), reference="prompt"), batched=True, num_proc=2)
    assert scored["quality"][:] == pytest.approx(expected, abs=1e-5)


def test_datasets_errors(tiny, quiet):
    from datasets import Dataset

    from aigciqa.integrations.datasets import score_batch

    with pytest.raises(InputError, match="name its column"):
        score_batch(tiny("full"))
    with pytest.raises(InputError, match="judges a picture alone"):
        score_batch(tiny(), reference="prompt")
    for columns, message in (({"picture": ["a"]}, "no column 'image'"),
                             ({"image": ["a"], "error": ["b"]}, "error already.*prefix")):  # fmt: skip
        with pytest.raises(InputError, match=message):
            Dataset.from_dict(columns).map(score_batch(tiny()), batched=True)


# -- pyiqa


@pytest.fixture
def pyiqa():
    return pytest.importorskip("pyiqa", reason="needs pyiqa; make test-apart has it")


def test_pyiqa_scores_are_ours(pyiqa, tiny, picture, tmp_path):
    from aigciqa.integrations.pyiqa import register

    picture(seed=1).save(tmp_path / "gen.png")
    picture(150, 100, seed=2).save(tmp_path / "ref.jpg")
    gen, ref = str(tmp_path / "gen.png"), str(tmp_path / "ref.jpg")
    for kind in ("none", "full", "partial"):
        ours = aigciqa.create_metric(tiny(kind), device="cpu")
        assert register(tiny(kind)) == [ours.metric_name]
        theirs = pyiqa.create_metric(ours.metric_name, device="cpu")
        pair = (gen,) if kind == "none" else (gen, ref)
        torch.testing.assert_close(theirs(*pair), ours(*pair), atol=1e-6, rtol=0)
        tensors = [pil_to_tensor(Image.open(file))[None] / 255 for file in pair]
        torch.testing.assert_close(theirs(*tensors), ours(*pair), atol=1e-6, rtol=0)
        assert theirs.metric_mode == ("NR" if kind == "none" else "FR")
        assert theirs.lower_better is False and theirs.score_range == "~0, ~5"
        assert ours.metric_name in pyiqa.list_models(theirs.metric_mode)

        tensors[0].requires_grad_()
        assert not theirs(*tensors).requires_grad
        loss = pyiqa.create_metric(ours.metric_name, device="cpu", as_loss=True)(*tensors)
        torch.testing.assert_close(loss.detach(), ours(*pair).mean(), atol=1e-6, rtol=0)
        loss.backward()
        assert tensors[0].grad.abs().sum() > 0
    other = pyiqa.create_metric("tiny-none", device="cpu", dimension="authenticity")
    nr = aigciqa.create_metric(tiny(), device="cpu", dimension="authenticity")
    torch.testing.assert_close(other(gen), nr(gen), atol=1e-6, rtol=0)


def test_pyiqa_named_metrics(pyiqa):
    from aigciqa.integrations.pyiqa import register

    assert register() == register() == aigciqa.list_metrics()
    gen, ref = str(EXAMPLES / "gen.png"), str(EXAMPLES / "ref.png")
    for name in ("nr-aigciqa", "fr-aigciqa", "pr-aigciqa"):
        pair = (gen,) if name == "nr-aigciqa" else (gen, ref)
        ours = aigciqa.create_metric(name, device="cpu")(*pair)
        torch.testing.assert_close(pyiqa.create_metric(name, device="cpu")(*pair), ours, atol=1e-5, rtol=0)


OF_PYIQA = """
device = torch.device("cpu")
metric = pyiqa.create_metric("{name}", device=device)
loss = pyiqa.create_metric("{name}", True, device, loss_reduction="mean")
score = metric(gen, ref=ref)
loss(gen, ref=ref).backward()
names = pyiqa.list_models(metric_mode=metric.metric_mode, filter="tiny-*", exclude_filters=["*-partial"])
"""


def test_a_program_for_pyiqa_runs_with_only_the_import_changed(pyiqa, tiny, monkeypatch):
    from aigciqa import weights
    from aigciqa.integrations.pyiqa import register

    folder = tiny("full")
    monkeypatch.setattr(weights, "PACKAGED", folder.parent)  # our own names, where register gives pyiqa one
    folder.rename(folder.parent / "tiny-full")
    register(folder.parent / "tiny-full", "tiny-full")
    found = []
    for module in (pyiqa, aigciqa):
        names = {"pyiqa": module, "torch": torch, "ref": torch.full((2, 3, 64, 64), 0.5)}
        names["gen"] = torch.linspace(0, 1, 2 * 3 * 64 * 64).reshape(2, 3, 64, 64).requires_grad_()
        exec(OF_PYIQA.format(name="tiny-full"), names)
        found.append((names["score"], names["gen"].grad, names["names"]))
    (score, gradient, listed), (ours, our_gradient, our_list) = found
    torch.testing.assert_close(score, ours, atol=1e-6, rtol=0)
    torch.testing.assert_close(gradient, our_gradient, atol=1e-7, rtol=0)
    assert listed == our_list == ["tiny-full"] and gradient.abs().sum() > 0


def test_pyiqa_errors(pyiqa, tiny):
    from aigciqa.integrations.pyiqa import register

    with pytest.raises(InputError, match="pyiqa has a metric 'lpips' of its own"):
        register(tiny(), "lpips")
    with pytest.raises(InputError, match="for FID"):
        register(tiny(), "fidelity")
    with pytest.raises(InputError, match="register"):
        register(name="mine")
    register(tiny("full"), "mine")
    with pytest.raises(AssertionError, match="reference image"):
        pyiqa.create_metric("mine", device="cpu")(torch.rand(1, 3, 64, 64))


# -- as a training loss


@pytest.mark.slow
def test_a_picture_improves_by_gradient(tmp_path):
    """The knobs bring it nearer to the undamaged picture; free pixels only raise the score, as the example says."""
    gained = {}
    for how in ("knobs", "pixels"):
        script = [
            sys.executable,
            str(EXAMPLES / "improve.py"),
            str(EXAMPLES / "ref.png"),
            str(tmp_path / f"{how}.png"),
        ]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        ran = subprocess.run([*script, "--how", how], capture_output=True, text=True, env=environment)
        assert ran.returncode == 0, ran.stderr
        before, after = (line.split() for line in ran.stdout.splitlines()[1:3])
        gained[how] = float(after[1]) - float(before[1]), float(after[2]) - float(before[2])
        assert Image.open(tmp_path / f"{how}.png").size == (512, 256)
    assert gained["knobs"][0] > 0.3 and gained["knobs"][1] > 1
    assert gained["pixels"][0] > gained["knobs"][0] and gained["pixels"][1] < gained["knobs"][1] / 2
