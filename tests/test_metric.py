import copy
import pickle
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import EXAMPLES, tiny_config
from PIL import Image
from test_stages import lively
from torch import nn

import aigciqa
from aigciqa.config import Transform
from aigciqa.errors import CheckpointError, InputError
from aigciqa.weights import save_checkpoint

TOLERANCE = 5 * 1e-4  # of the score range 0 to 5, the promise of every equality below

packaged = pytest.mark.parametrize("name", ["nr-aigciqa", "fr-aigciqa", "pr-aigciqa"])


def create(source, **options):
    return aigciqa.create_metric(source, device="cpu", **options)


def arguments(metric_name, generated, reference):
    return (generated,) if "nr" in metric_name or "none" in metric_name else (generated, reference)


def test_importing_and_creating_read_nothing():
    code = (
        "import sys, aigciqa\n"
        "assert aigciqa.list_metrics() and aigciqa.metric_info('nr-aigciqa').mode == 'NR'\n"
        "assert 'torch' not in sys.modules and 'numpy' not in sys.modules\n"
        "opened = []\n"
        "sys.addaudithook(lambda *a: opened.append(a) if a[0] in ('open', 'socket.connect') else 0)\n"
        "aigciqa.create_metric('someone/far-away')\n"
        "metric = aigciqa.create_metric('nr-aigciqa')\n"
        "assert not [o for o in opened if '/checkpoints/' in str(o) or o[0] == 'socket.connect'], opened\n"
        "assert not metric.loaded and repr(metric)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_two_metrics_that_most_people_use_stay_below_20_megabytes():
    folders = [create(name)._source.folder for name in ("nr-aigciqa", "fr-aigciqa")]
    assert sum(file.stat().st_size for folder in folders for file in folder.iterdir()) < 20e6


@packaged
def test_packaged_metric(name):
    metric = create(name)
    generated, reference = EXAMPLES / "gen.png", EXAMPLES / "ref.png"
    score = metric(*arguments(name, generated, reference))
    assert score.shape == (1,)
    assert score.dtype == torch.float32
    low, high = metric.score_range
    assert low < score.item() < high
    assert (
        metric(*arguments(name, reference, reference)) > score
    )  # the photograph beats what was made from it
    assert (metric.metric_name, metric.metric_mode, metric.lower_better) == (name, name[:2].upper(), False)
    every = metric.predict(*arguments(name, generated, reference))
    assert tuple(every) == metric.config.dimensions and every["quality"] == score
    assert "pseudo-label" in metric.config.provenance["labels"]
    size = (metric._source.folder / "model.safetensors").stat().st_size
    assert size < 11e6


@packaged
def test_every_kind_of_input_scores_the_same(name):
    metric = create(name)
    reference = EXAMPLES / "ref.png"
    path = EXAMPLES / "gen.png"
    expected = metric(*arguments(name, path, reference))
    array = np.asarray(Image.open(path))
    tensor = torch.from_numpy(array.copy()).permute(2, 0, 1)
    for same in (
        str(path),
        path.read_bytes(),
        Image.open(path),
        array,
        array / 255,
        tensor,
        tensor / 255,
        tensor[None],
    ):
        assert torch.equal(metric(*arguments(name, same, reference)), expected)


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("nr-aigciqa", 4),
        pytest.param("nr-aigciqa", 32, marks=pytest.mark.slow),
        pytest.param("fr-aigciqa", 8, marks=pytest.mark.slow),
        pytest.param("pr-aigciqa", 8, marks=pytest.mark.slow),
    ],
)
def test_score_does_not_depend_on_the_batch(name, count, picture):
    images = [picture(200 + 7 * i, 180 + 13 * (i % 5), seed=i) for i in range(count)]
    prompts = [picture(190, 260, seed=100 + i // 4) for i in range(count)]
    alone = torch.cat([create(name)(*arguments(name, i, p)) for i, p in zip(images, prompts, strict=True)])
    assert alone.std() > 0.01
    for size in (3, count):
        together = create(name, batch_size=size)(*arguments(name, images, prompts))
        assert (together - alone).abs().max() < TOLERANCE
    order = torch.randperm(count)
    shuffled = create(name)(*arguments(name, [images[i] for i in order], [prompts[i] for i in order]))
    assert (shuffled - alone[order]).abs().max() < TOLERANCE


def test_batch_tensor_is_its_members(tiny):
    metric = create(tiny("full"))
    images, prompts = torch.rand(5, 3, 80, 100), torch.rand(5, 3, 90, 70)
    together = metric(images, prompts)
    assert together.shape == (5,)
    for i in range(5):
        assert (metric(images[i], prompts[i]) - together[i]).abs() < TOLERANCE


def test_identical_in_two_processes():
    code = (
        "import aigciqa\n"
        f"pair = {str(EXAMPLES / 'gen.png')!r}, {str(EXAMPLES / 'ref.png')!r}\n"
        "fr, nr = (aigciqa.create_metric(n, device='cpu') for n in ('fr-aigciqa', 'nr-aigciqa'))\n"
        "print(fr(*pair).item().hex(), [s.item().hex() for s in nr(list(pair))])\n"
    )
    runs = [
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        for _ in range(2)
    ]
    assert runs[0].stdout == runs[1].stdout != ""


def test_dimensions(tiny, picture):
    folder = tiny(dimensions=("quality", "authenticity", "overall"))
    every = create(folder).predict([picture(), picture(seed=1)])
    assert list(every) == ["quality", "authenticity", "overall"]
    assert torch.equal(create(folder)([picture(), picture(seed=1)]), every["quality"])
    assert torch.equal(create(folder, dimension="overall")([picture(), picture(seed=1)]), every["overall"])
    with pytest.raises(InputError, match="predicts quality, authenticity, overall, not 'beauty'"):
        create(folder, dimension="beauty")(picture())


def test_references(tiny, picture):
    full = create(tiny("full"))
    images, prompts = [picture(seed=i) for i in range(3)], [picture(60, 50, seed=i) for i in range(10, 13)]
    scores = full(images, prompts)
    one_for_all = full(images, prompts[0])
    assert (one_for_all[0] - scores[0]).abs() < TOLERANCE
    assert (one_for_all[1] - scores[1]).abs() > TOLERANCE
    assert (full(images, [prompts[0]] * 3) - one_for_all).abs().max() < TOLERANCE
    for wrong, says in (
        (None, r"compares with a reference: metric\(generated, reference\)"),
        (prompts[:2], "3 pictures but 2 references"),
        ([prompts[0]], "3 pictures but 1 references"),
        (torch.rand(2, 3, 70, 70), "3 pictures but 2 references"),
        ([prompts[0], None, prompts[2]], r"reference 1 is missing \(None\)"),
    ):
        with pytest.raises(InputError, match=says):
            full(images, wrong)
    with pytest.raises(InputError, match="judges a picture alone"):
        create(tiny("none"))(images, prompts)


def test_partial_reference_may_lack_some(tiny, picture):
    metric = create(tiny("partial"))
    images, prompts = [picture(seed=i) for i in range(3)], [picture(seed=5), None, picture(seed=6)]
    mixed = metric(images, prompts)
    alone = metric(images)
    assert (mixed[1] - alone[1]).abs() < TOLERANCE
    assert (mixed[0] - metric(images[0], prompts[0])).abs() < TOLERANCE
    assert ((mixed - alone).abs() > TOLERANCE).tolist() == [True, False, True]
    assert (metric(images, [None] * 3) - alone).abs().max() < TOLERANCE


def test_wrong_reference_changes_the_score(tiny, picture):
    metric = create(tiny("full"))
    assert (metric(picture(), picture(seed=1)) - metric(picture(seed=1), picture())).abs() > TOLERANCE


def test_as_loss_gives_gradients_that_raise_the_score():
    metric = create("nr-aigciqa", as_loss=True)
    picture = torch.from_numpy(np.array(Image.open(EXAMPLES / "gen.png"))).permute(2, 0, 1)[None] / 255
    picture.requires_grad_()
    before = metric(picture)
    assert torch.equal(before.detach(), create("nr-aigciqa")(picture))  # the same value, gradient or not
    (-before.mean()).backward()
    assert picture.grad.shape == picture.shape
    assert picture.grad.isfinite().all()
    with torch.no_grad():
        better = (picture - 0.02 * picture.grad / picture.grad.abs().max()).clamp(0, 1)
    assert metric(better) > before
    assert not create("nr-aigciqa")(picture).requires_grad
    assert all(not p.requires_grad for p in metric.parameters())


def test_loss_reduction_gives_a_scalar(tiny):
    picture, prompts = torch.rand(3, 3, 64, 64), torch.rand(3, 3, 64, 64)
    each = create(tiny("full"), as_loss=True)
    for reduction, expected in (
        ("mean", each(picture, prompts).mean()),
        ("sum", each(picture, prompts).sum()),
    ):
        metric = create(tiny("full"), as_loss=True, loss_reduction=reduction)
        leaf = picture.clone().requires_grad_()
        loss = metric(leaf, ref=prompts)
        assert loss.shape == () and torch.equal(loss.detach(), expected)
        loss.backward()
        assert leaf.grad.abs().sum() > 0
        assert metric.predict(picture, ref=prompts)["quality"].shape == (3,)  # every score, for the log
    for wrong in ({"loss_reduction": "mean"}, {"as_loss": True, "loss_reduction": "average"}):
        with pytest.raises(InputError, match="loss_reduction"):
            create(tiny("full"), **wrong)


def test_names_by_mode_and_pattern():
    assert aigciqa.list_metrics("PR") == aigciqa.list_models(metric_mode="PR") == ["pr-aigciqa"]
    assert aigciqa.list_metrics(filter=["nr-*", "f?-*"]) == ["fr-aigciqa", "nr-aigciqa"]
    assert aigciqa.list_metrics(exclude_filters="nr-*") == ["fr-aigciqa", "pr-aigciqa"]
    assert aigciqa.list_metrics("NR", filter="*lite*") == []
    with pytest.raises(InputError, match="NR, FR or PR"):
        aigciqa.list_metrics("none")


def test_a_text_prompt_is_no_reference(tmp_path):
    """Wherever a reference or an image may be given, the error says what serves text."""
    gen, text = str(EXAMPLES / "gen.png"), "a cat on a mat, 4k, v1.5 style"
    fr = create("fr-aigciqa")
    serves = "image prompt.*CLIPScore"
    for call in (
        lambda: fr(gen, text),
        lambda: fr([gen, gen], ref=[gen, text * 99]),  # longer than the name of a file may be
        lambda: fr.explain(gen, text),
        lambda: fr(text, gen),
        lambda: aigciqa.rank([gen, gen], text),
        lambda: list(fr.score_files([gen], text)),
    ):
        with pytest.raises(InputError, match=serves):
            call()
    (row,) = fr.score_files([gen], [text])
    assert re.search(serves, row.error)
    with pytest.raises(InputError) as missing:
        fr(gen, str(tmp_path / "my pictures" / "prompt.png"))
    assert "CLIPScore" not in str(missing.value)


def test_as_loss_through_a_reference(tiny):
    metric = create(tiny("full"), as_loss=True)
    generated, reference = (
        torch.rand(2, 3, 70, 70, requires_grad=True),
        torch.rand(3, 70, 70, requires_grad=True),
    )
    metric(generated, reference).sum().backward()
    assert generated.grad.abs().sum() > 0
    assert reference.grad.abs().sum() > 0


# -- stages and tiles


@pytest.fixture
def beyond(tmp_path):
    """Writes a checkpoint that goes beyond the papers' models and opens it."""

    def make(reference, **options):
        config = tiny_config(reference, feature="stages", cells=2, transform=Transform(72, 64, tiles=2))
        save_checkpoint(tmp_path / config.name, config, lively(config).state_dict())
        return create(tmp_path / config.name, **options)

    return make


@pytest.mark.parametrize("reference", ["none", "full", "partial"])
def test_tiles_of_every_kind_of_input_score_the_same(beyond, picture, tmp_path, reference):
    metric = beyond(reference)
    sizes = [(101, 77), (64, 64), (40, 30), (300, 65), (77, 101)]
    pictures = [picture(*size, seed=seed) for seed, size in enumerate(sizes)]
    prompts = [picture(*size, seed=9 - seed) for seed, size in enumerate(reversed(sizes))]
    for i, (a, b) in enumerate(zip(pictures, prompts, strict=True)):
        a.save(tmp_path / f"{i}.png")
        b.save(tmp_path / f"p{i}.png")

    def score(images, references, **options):
        return create(metric._source.name, **options)(
            *((images,) if reference == "none" else (images, references))
        )

    files = [tmp_path / f"{i}.png" for i in range(5)]
    prompt_files = [tmp_path / f"p{i}.png" for i in range(5)]
    expected = torch.cat([score(a, b) for a, b in zip(files, prompt_files, strict=True)])
    assert expected.std() > 0.01
    for size in (None, 1, 2, 5):
        assert (score(files, prompt_files, batch_size=size) - expected).abs().max() < TOLERANCE
    assert (score(files[::-1], prompt_files[::-1]).flip(0) - expected).abs().max() < TOLERANCE
    tensors, theirs = (
        [torch.from_numpy(np.array(x)).permute(2, 0, 1) for x in some] for some in (pictures, prompts)
    )
    assert (score(tensors, theirs) - expected).abs().max() < TOLERANCE
    assert (score([t / 255 for t in tensors], [t / 255 for t in theirs]) - expected).abs().max() < TOLERANCE
    assert (score(tensors[0][None].repeat(3, 1, 1, 1), theirs[0]) - expected[0]).abs().max() < TOLERANCE
    if reference != "none":
        assert (metric(files, prompt_files[::-1]) - expected).abs().max() > TOLERANCE
    if reference == "partial":
        some = metric(files, [prompt_files[0], None, prompt_files[2], None, None])
        assert (some[[0, 2]] - expected[[0, 2]]).abs().max() < TOLERANCE
        assert (some[[1, 3, 4]] - metric([files[i] for i in (1, 3, 4)])).abs().max() < TOLERANCE


def test_as_loss_through_tiles(beyond):
    metric = beyond("full", as_loss=True)
    generated = torch.rand(2, 3, 200, 90, requires_grad=True)
    reference = torch.rand(3, 70, 70, requires_grad=True)
    metric(generated, reference).sum().backward()
    assert reference.grad.isfinite().all()
    assert reference.grad.abs().sum() > 0
    # the middle square shows rows 55 to 144; only tiles see those at the top and the bottom
    assert generated.grad.isfinite().all()
    assert generated.grad[:, :, :40].abs().sum() > 0
    assert generated.grad[:, :, -40:].abs().sum() > 0
    assert torch.allclose(metric(generated, reference), beyond("full")(generated, reference), atol=TOLERANCE)


def test_tiles_in_half_precision_and_compiled(beyond):
    images, prompts = torch.rand(2, 2, 3, 80, 100)
    metric = beyond("full")
    expected = metric(images, prompts)
    compiled = torch.compile(metric, backend="aot_eager")
    assert (compiled(images, prompts) - expected).abs().max() < TOLERANCE
    half = metric.to(torch.bfloat16)(images, prompts)
    assert half.dtype == torch.float32
    assert ((half - expected).abs() < 0.1 * expected.abs() + 0.2).all()


# -- it is an nn.Module


def test_module_protocol(tiny, picture):
    folder = tiny()
    expected = create(folder)(picture())
    for use in (
        lambda m: m.state_dict(), lambda m: list(m.parameters()), lambda m: list(m.modules()), lambda m: m.float(),
        lambda m: m.to("cpu"), lambda m: m.requires_grad_(False), lambda m: list(m.children()), lambda m: m.load(),
    ):  # fmt: skip
        metric = create(folder)
        use(metric)
        assert metric.loaded
        assert torch.equal(metric(picture()), expected)
    metric = create(folder)
    assert not metric.eval().loaded
    assert torch.equal(metric.train()(picture()), expected)
    assert not metric.training

    outer = nn.Sequential(nn.Sigmoid(), create(folder)).train()
    outer(torch.rand(4, 3, 80, 80))
    assert torch.equal(outer[1](picture()), expected)  # no batch statistics moved
    assert any(key.startswith("1.network.backbone") for key in outer.state_dict())

    other = create(folder)
    other.load_state_dict({k: torch.zeros_like(v) for k, v in metric.state_dict().items()})
    assert not torch.equal(other(picture()), expected)


def test_hooks_copies_and_pickles(tiny, picture):
    metric = create(tiny())
    seen = []
    metric.register_forward_hook(lambda module, args, output: seen.append(output))
    expected = metric(picture())
    assert torch.equal(seen[0], expected)
    for clone in (copy.deepcopy(metric), pickle.loads(pickle.dumps(create(tiny())))):
        assert (clone(picture()) - expected).abs() < TOLERANCE


def test_half_precision(tiny, picture):
    metric = create(tiny())
    expected = metric(picture())
    half = metric.to(torch.bfloat16)(picture())
    assert half.dtype == torch.float32
    assert (half - expected).abs() < 0.1 * expected.abs() + 0.2
    assert metric.float()(picture()).dtype == torch.float32


def test_torch_compile(tiny):
    metric = create(tiny())
    images = torch.rand(2, 3, 80, 80)
    compiled = torch.compile(metric, backend="aot_eager")
    assert (compiled(images) - metric(images)).abs().max() < TOLERANCE


def test_state_survives_strides_and_channels_last(tiny):
    metric = create(tiny())
    images = torch.rand(2, 3, 80, 90)
    for same in (
        images.contiguous(memory_format=torch.channels_last),
        images.flip(-1).flip(-1),
        images.double(),
    ):
        assert torch.equal(metric(same), metric(images))


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_cuda_agrees_with_the_cpu(tiny, picture):
    folder = tiny("full")
    images, prompts = [picture(seed=i) for i in range(3)], torch.rand(3, 3, 90, 80)
    expected = create(folder)(images, prompts)
    on_gpu = aigciqa.create_metric(folder, device="cuda")(images, prompts.cuda())
    assert on_gpu.device.type == "cuda"
    assert (on_gpu.cpu() - expected).abs().max() < TOLERANCE


# -- what cannot be opened


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("nr-aigcqa", "did you mean 'nr-aigciqa'"),
        ("completely different", "metrics are fr-aigciqa, nr-aigciqa, pr-aigciqa"),
        ("./runs/none", "no metric, folder or Hub repository"),
        ("", "no metric, folder or Hub repository"),
        (__file__, "is a file; a checkpoint is a folder"),
    ],
)
def test_wrong_source(source, says):
    with pytest.raises(CheckpointError, match=says):
        create(source)


def test_wrong_options(tiny):
    with pytest.raises(InputError, match="device 'gpu' is not available"):
        aigciqa.create_metric("nr-aigciqa", device="gpu")
    with pytest.raises(InputError, match="batch_size must be at least 1"):
        create("nr-aigciqa", batch_size=0)
    with pytest.raises(TypeError, match="dimensions"):
        create("nr-aigciqa", dimensions="quality")
    if not torch.cuda.is_available():
        with pytest.raises(InputError, match="device 'cuda' is not available"):
            aigciqa.create_metric("nr-aigciqa", device="cuda")


def test_folder_must_hold_what_its_config_pins(tiny, tmp_path, picture):
    with pytest.raises(CheckpointError, match=r"not a checkpoint: cannot read config\.json"):
        create(tmp_path)(picture())
    folder = tiny()
    weights = folder / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(CheckpointError, match="wrong checksum, not used"):
        create(folder)(picture())
    assert weights.exists()  # a folder is the user's own: nothing in it is removed
    weights.unlink()
    with pytest.raises(CheckpointError, match=r"has no model\.safetensors"):
        create(folder)(picture())


def test_pickle_under_a_safetensors_name_is_refused(tiny, picture):
    import hashlib

    class Trap:
        def __reduce__(self):
            return (print, ("unpickled!",))

    folder = tiny()
    data = pickle.dumps(Trap())
    (folder / "model.safetensors").write_bytes(data)
    config = aigciqa.metric_info(folder).with_(sha256=hashlib.sha256(data).hexdigest())
    (folder / "config.json").write_text(config.to_json())
    with pytest.raises(CheckpointError, match="not a safetensors file"):
        create(folder)(picture())
