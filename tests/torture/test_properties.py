"""What holds for pictures of any shape, type, layout and company."""

import io
from functools import cache

import numpy as np
import pytest
import torch
from conftest import random_network, tiny_config
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import aigciqa
from aigciqa.errors import InputError
from aigciqa.weights import save_checkpoint

NEAR = {"rtol": 1e-4, "atol": 5e-4}  # of scores from 0 to 5
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)]


@pytest.fixture(scope="module", params=DEVICES)
def metric(request, tmp_path_factory):
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    folder = tmp_path_factory.mktemp("checkpoint") / "tiny"
    save_checkpoint(folder, tiny_config(), random_network(tiny_config()).state_dict())
    return aigciqa.create_metric(folder, device=request.param).load()


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint") / "full"
    config = tiny_config("full")
    save_checkpoint(folder, config, random_network(config).state_dict())
    return aigciqa.create_metric(folder, device="cpu").load()


@pytest.fixture(autouse=True, scope="module")
def counted(tally, rounds):
    """One thread, for tiny networks; and how much was tried, in the end."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    tried = []
    yield tried
    torch.set_num_threads(threads)
    tally("properties", inputs=len(tried))


@cache
def coarse(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (7, 7, 4), dtype=np.uint8)


@st.composite
def arrays(draw, channels=(1, 2, 3, 4), largest=150):
    """(H, W, C), uint8, with structure; the shortest sides and the longest."""
    height = draw(st.integers(1, largest))
    width = draw(st.integers(1, largest))
    pixels = Image.fromarray(coarse(draw(st.integers(0, 200))), "RGBA")
    return np.asarray(pixels.resize((width, height), Image.Resampling.BILINEAR))[
        ..., : draw(st.sampled_from(channels))
    ]


def tensor_of(array):
    return torch.from_numpy(np.array(array)).permute(2, 0, 1)


def close(found, expected):
    torch.testing.assert_close(found.cpu(), expected.cpu(), **NEAR)


def layouts_of_array(array):
    """The same pixels, laid out in every way that numpy has."""
    frozen = array.copy()
    frozen.flags.writeable = False
    padded = np.zeros((array.shape[0] + 3, 2 * array.shape[1], array.shape[2] + 1), np.uint8)
    padded[2:-1, ::2, 1:] = array
    return {
        "read-only": frozen,
        "Fortran": np.asfortranarray(array),
        "flipped": np.ascontiguousarray(array[::-1, ::-1])[::-1, ::-1],
        "sliced": padded[2:-1, ::2, 1:],
        "channels first": np.ascontiguousarray(array.transpose(2, 0, 1)).transpose(1, 2, 0),
        "buffer": np.frombuffer(array.tobytes(), np.uint8).reshape(array.shape),
        "float64": array / 255,
        "float32": (array / 255).astype(np.float32),
        "other endian": (array / 255).astype(">f4"),
        "long double": (array / 255).astype(np.longdouble),
    }


def layouts_of_tensor(tensor):
    padded = torch.zeros(tensor.shape[0] + 1, tensor.shape[1] + 2, 2 * tensor.shape[2], dtype=torch.uint8)
    padded[1:, 1:-1, ::2] = tensor
    return {
        "batch": tensor[None],
        "channels_last": tensor[None].contiguous(memory_format=torch.channels_last),
        "sliced": padded[1:, 1:-1, ::2],
        "flipped": tensor.flip(-1).contiguous().flip(-1),
        "transposed": tensor.transpose(1, 2).contiguous().transpose(1, 2),
        "float32": tensor / 255,
        "float64": tensor.double() / 255,
        "requires grad": (tensor / 255).requires_grad_(),
        "expanded": torch.as_strided(tensor, (1, *tensor.shape), (0, *tensor.stride())),
    }


def files_of(array):
    """Encoded without loss, and as Pillow's picture."""
    squeezed = array[..., 0] if array.shape[2] == 1 else array
    picture = Image.fromarray(squeezed)
    kinds = ["PNG", "TIFF"] + ["BMP"] * (array.shape[2] in (1, 3)) + ["WEBP"] * (array.shape[2] == 3)
    found = {"PIL": picture}
    for kind in kinds:
        file = io.BytesIO()
        picture.save(file, kind, **({"lossless": True} if kind == "WEBP" else {}))
        found[kind] = file.getvalue()
    return found


@given(array=arrays())
def test_the_same_pixels_score_the_same_however_they_come(array, metric, counted):
    expected = metric(array)
    assert expected.shape == (1,)
    assert expected.dtype == torch.float32
    assert expected.isfinite().all()
    tensor = tensor_of(array)
    for name, same in (layouts_of_array(array) | layouts_of_tensor(tensor) | files_of(array)).items():
        found = metric(same)
        assert torch.allclose(found, expected, **NEAR), (name, found, expected)
        counted.append(name)
    half = (tensor / 255).half()
    close(metric(half), metric(half.float()))


@given(array=arrays(channels=(1, 3)), data=st.data())
def test_expanded_and_broadcast(array, data, metric, counted):
    """A colour, or a row, in a stride of zero."""
    row = array[:1]
    count = data.draw(st.integers(1, 90))
    wide = np.broadcast_to(row, (count, *row.shape[1:]))
    close(metric(wide), metric(wide.copy()))
    tensor = tensor_of(row).expand(-1, count, -1)
    close(metric(tensor), metric(tensor.contiguous()))
    close(metric(tensor[None].expand(3, -1, -1, -1)), metric(tensor).expand(3))
    counted.append("expanded")


@given(batch=st.lists(arrays(), min_size=2, max_size=12), data=st.data())
def test_a_permutation_of_the_batch_permutes_the_scores(batch, data, metric, counted):
    order = data.draw(st.permutations(range(len(batch))))
    scores = metric(batch)
    assert scores.shape == (len(batch),)
    close(metric([batch[i] for i in order]), scores[order])
    counted.append("permuted")


@given(batch=st.lists(arrays(), min_size=1, max_size=12))
def test_a_score_does_not_depend_on_the_neighbours(batch, metric, counted):
    close(metric(batch), torch.cat([metric(one) for one in batch]))
    black = np.zeros((70, 70, 3), np.uint8)
    white = black + 255
    for one in batch[:2]:
        close(metric([black, one, white])[1:2], metric(one))
        counted.append("neighbours")


@given(
    seeds=st.lists(st.integers(0, 200), min_size=1, max_size=9),
    size=st.tuples(st.integers(1, 99), st.integers(1, 99)),
)
def test_a_batch_tensor_scores_as_its_parts(seeds, size, metric, counted):
    parts = [tensor_of(np.asarray(Image.fromarray(coarse(s)[..., :3].copy()).resize(size))) for s in seeds]
    together = torch.stack(parts)
    expected = metric(parts)
    for same in (together, together.to(memory_format=torch.channels_last), together / 255, list(together)):
        close(metric(same), expected)
        counted.append("batch")


@given(generated=arrays(), reference=arrays(), others=st.lists(arrays(), max_size=4))
def test_pairs_do_not_mix(generated, reference, others, full, counted):
    alone = full(generated, reference)
    assert alone.shape == (1,)
    pictures, references = [*others, generated], [*reversed(others), reference]
    close(full(pictures, references)[-1:], alone)
    close(full([generated, generated], reference), alone.expand(2))
    counted.append("pair")


@given(
    array=arrays(),
    data=st.data(),
    value=st.sampled_from([np.nan, np.inf, -np.inf, 1.01, -0.01, 255.0, 1e30, -1e-3]),
)
def test_values_out_of_range_are_refused(array, data, value, metric, counted):
    spoiled = (array / 255).astype(data.draw(st.sampled_from([np.float16, np.float32, np.float64])))
    place = tuple(data.draw(st.integers(0, n - 1)) for n in spoiled.shape)
    with np.errstate(over="ignore"):  # of half precision, to infinity
        spoiled[place] = value
    for wrong in (spoiled, torch.from_numpy(spoiled).permute(2, 0, 1), [array, spoiled]):
        with pytest.raises(InputError, match=r"^picture( 1)?: float pixels must lie in \[0, 1\]"):
            metric(wrong)
        counted.append("range")


@given(
    shape=st.lists(st.integers(0, 9), min_size=0, max_size=6),
    dtype=st.sampled_from([np.uint8, np.float32, np.int8, np.int64, np.uint16, np.bool_, np.complex64]),
    torch_too=st.booleans(),
)
def test_other_shapes_and_types_are_refused(shape, dtype, torch_too, metric, counted):
    array = np.zeros(shape, dtype)
    if torch_too:
        tensor = torch.from_numpy(array) if dtype != np.uint16 else torch.zeros(shape, dtype=torch.int32)
        right = len(shape) in (3, 4) and shape[-3] in (1, 2, 3, 4)
        right = right and 0 not in shape and dtype in (np.uint8, np.float32)
        wrong = tensor
    else:
        right = (len(shape) == 2 or (len(shape) == 3 and shape[-1] in (1, 2, 3, 4))) and 0 not in shape
        right = right and dtype in (np.uint8, np.float32)
        wrong = array
    counted.append("shape")
    if right:
        assert metric(wrong).isfinite().all()
    else:
        with pytest.raises(InputError, match=r"^picture: "):
            metric(wrong)


THINGS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=400), st.binary(max_size=300),
    st.dictionaries(st.text(max_size=2), st.integers(), max_size=2), st.sets(st.integers(), max_size=2),
    st.lists(st.none() | st.integers() | st.text(max_size=9), max_size=3), st.just(object()), st.just(print),
)  # fmt: skip


@given(thing=THINGS)
def test_anything_else_is_refused_too(thing, metric, counted):
    counted.append("thing")
    with pytest.raises(InputError):
        metric(thing)


@given(array=arrays(), fractions=st.booleans())
def test_nothing_is_changed_in_the_input(array, fractions, metric, full, counted):
    array = (array / 255).astype(np.float32) if fractions else array.copy()
    tensor, picture = tensor_of(array), None if fractions else files_of(array)["PIL"]
    kept = array.copy(), tensor.clone(), picture and picture.tobytes()
    batch = [array, tensor, *([picture] if picture else [])]
    metric(batch)
    for one in batch:
        metric(one)
        full(one, one)
    assert len(batch) == 3 - fractions
    assert np.array_equal(array, kept[0])
    assert torch.equal(tensor, kept[1]) and not tensor.requires_grad
    assert picture is None or picture.tobytes() == kept[2]
    counted.append("unchanged")


@given(array=arrays(channels=(1, 3, 4)), count=st.integers(1, 4))
def test_gradients_are_finite(array, count, metric, counted):
    loss = aigciqa.create_metric(metric._source.name, device=metric.device, as_loss=True)
    for start in (
        tensor_of(array) / 255,
        torch.zeros_like(tensor_of(array)) + 0.5,
        tensor_of(array).float() * 0,
    ):
        images = start.to(metric.device)[None].repeat(count, 1, 1, 1).requires_grad_()
        scores = loss(images)
        close(scores.detach(), metric(images.detach()))
        scores.sum().backward()
        assert images.grad.shape == images.shape
        assert images.grad.isfinite().all()
        close(images.grad, images.grad[:1].expand_as(images))  # each by itself
        counted.append("gradient")
