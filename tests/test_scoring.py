"""Many files to many scores: what one call of the metric gives, in order, each content computed once."""

import copy
import gc
import io
import itertools
import pickle
import tarfile
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest
import torch
from PIL import Image

from aigciqa import create_metric, opening, scoring
from aigciqa.errors import InputError
from aigciqa.opening import Cache, Distinct
from aigciqa.sources import Item

TOLERANCE = 1e-4 * 5  # of the score range
WAYS = [(1, 1, None), (4, 3, None), (4, 8, ["cpu", "cpu"]), (1, 1, ["cpu", "cpu"])]

pytestmark = pytest.mark.usefixtures("one_thread", "no_thread_is_left")


@pytest.fixture
def no_thread_is_left():
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before


@pytest.fixture
def files(tmp_path, picture):
    """Writes pictures of mixed sizes and returns their names."""

    def make(count, stem="picture"):
        names = []
        for i in range(count):
            names.append(str(tmp_path / f"{stem}{i}.png"))
            seed = i if stem == "picture" else 1000 + i
            picture(70 + 13 * (i % 5), 100 - 9 * (i % 4), seed).save(names[-1])
        return names

    return make


@pytest.fixture
def white(tmp_path):
    name = str(tmp_path / "white.png")
    Image.new("RGB", (80, 80), "white").save(name)
    return name


def is_white(views):
    """After normalisation white is above 2 everywhere, and no other picture is."""
    return (views.flatten(1).mean(1) > 2).tolist()


def seen_by(metric, hook=lambda views: None):
    """Counts the pictures that the network sees, as one list entry for each forward pass; `hook` is told each."""
    sizes = []

    def count(module, inputs):
        sizes.append(len(inputs[0]))
        hook(inputs[0])

    metric.network.backbone.register_forward_pre_hook(count)
    return sizes


def alive():
    """Every picture that is in memory."""
    return [thing for thing in gc.get_objects() if type(thing) is Distinct]


def endless():
    """Small pictures that all differ."""
    for number in itertools.count():
        file = io.BytesIO()
        colour = (number % 256, number // 256 % 256, number // 65536)
        Image.new("RGB", (8, 8), colour).save(file, "PNG")
        yield Item(f"{number}.png", data=file.getvalue())


def assert_same(rows, expected, pictures):
    rows = list(rows)
    assert [row.picture for row in rows] == list(pictures)
    assert [row.error for row in rows] == [None] * len(rows)
    for dimension, scores in expected.items():
        assert [row.scores[dimension] for row in rows] == pytest.approx(scores.tolist(), abs=TOLERANCE)
    assert scores.std() > 0.05, "the scores hardly differ, so this would show nothing"


# -- the same scores, however they are computed


@pytest.mark.parametrize(("workers", "batch", "devices"), WAYS)
@pytest.mark.parametrize("reference", ["none", "full", "partial"])
def test_scores_are_those_of_predict(reference, workers, batch, devices, tiny, files):
    metric = create_metric(tiny(reference), device="cpu", batch_size=batch)
    pictures, prompts = files(11), files(3, "prompt")
    pictures += pictures[3:5]  # duplicates
    references = None
    if reference != "none":
        references = [prompts[i // 4 % 3] for i in range(len(pictures))]
    if reference == "partial":
        references[2] = references[7] = None
    rows = list(metric.score_files(pictures, references, workers=workers, devices=devices))
    assert_same(rows, metric.predict(pictures, references), pictures)
    assert [row.reference for row in rows] == (references or [None] * len(pictures))


def test_one_reference_for_all_and_a_folder_of_references(tiny, files, tmp_path):
    metric = create_metric(tiny("full"), device="cpu")
    pictures = files(3)
    expected = metric.predict(pictures, files(1, "prompt")[0])
    assert_same(metric.score_files(pictures, str(tmp_path / "prompt0.png")), expected, pictures)
    folder = tmp_path / "prompts"
    folder.mkdir()
    for i, name in enumerate(reversed(files(3, "other"))):
        Path(name).rename(folder / f"picture{i}.png")
    expected = metric.predict(pictures, [folder / f"picture{i}.png" for i in range(3)])
    assert_same(metric.score_files(pictures, folder), expected, pictures)


def test_shards_and_manifests_score_as_the_files_in_them(tiny, files, tmp_path):
    metric = create_metric(tiny("full"), device="cpu", batch_size=3)
    pictures, prompts = files(5), files(5, "prompt")
    prompts[4] = prompts[0]
    expected = metric.predict(pictures, prompts)
    with tarfile.open(tmp_path / "shard.tar", "w") as tar:
        for i, (picture, prompt) in enumerate(zip(pictures, prompts, strict=True)):
            tar.add(picture, f"{i:03}.png")
            tar.add(prompt, f"{i:03}.ref.png")
    named = [f"{tmp_path}/shard.tar/{i:03}.png" for i in range(5)]
    assert_same(metric.score_files(tmp_path / "shard.tar"), expected, named)
    lines = [f"{Path(a).name},{Path(b).name}" for a, b in zip(pictures, prompts, strict=True)]
    (tmp_path / "table.csv").write_text("\n".join(["picture,reference", *lines]))
    assert_same(metric.score_files(tmp_path / "table.csv"), expected, pictures)


def test_permuting_the_list_permutes_the_rows(tiny, files):
    metric = create_metric(tiny("none"), device="cpu", batch_size=3)
    pictures = files(10)
    rows = {row.picture: row.scores for row in metric.score_files(pictures)}
    order = torch.randperm(10, generator=torch.Generator().manual_seed(3)).tolist()
    permuted = [pictures[i] for i in order]
    expected = {d: torch.tensor([rows[p][d] for p in permuted]) for d in ("quality", "authenticity")}
    assert_same(metric.score_files(permuted), expected, permuted)


def test_a_picture_is_its_own_reference(tiny, files):
    metric = create_metric(tiny("full"), device="cpu")
    pictures = files(4)
    sizes = seen_by(metric)
    rows = list(metric.score_files(pictures, pictures))
    assert sum(sizes) == 4
    assert_same(rows, metric.predict(pictures, pictures), pictures)


# -- each content is computed once


@pytest.mark.parametrize(("workers", "batch", "devices"), WAYS)
def test_a_reference_of_eight_pictures_is_computed_once(workers, batch, devices, tiny, files):
    metric = create_metric(tiny("full"), device="cpu", batch_size=batch)
    sizes = seen_by(metric)
    pictures, prompts = files(16), files(2, "prompt")
    rows = metric.score_files(
        pictures, [prompts[i // 8] for i in range(16)], workers=workers, devices=devices
    )
    assert len(list(rows)) == 16
    assert sum(sizes) == 2 * 9
    assert max(sizes) <= batch


def test_the_same_content_under_other_names_is_computed_once(tiny, files, tmp_path):
    metric = create_metric(tiny("none"), device="cpu", batch_size=4)
    sizes = seen_by(metric)
    pictures = files(2)
    content = Path(pictures[0]).read_bytes()
    copies = [str(tmp_path / f"copy{i}.png") for i in range(40)]
    for name in copies:
        Path(name).write_bytes(content)
    items = [*copies, pictures[1], Item("in.tar/0.png", data=content)]
    rows = list(metric.score_files(items))
    assert sum(sizes) == 2
    assert [row.picture for row in rows] == [*copies, pictures[1], "in.tar/0.png"]
    assert len({row.scores["quality"] for row in rows}) == 2


def test_files_too_large_to_be_held_are_known_by_their_content_too(tiny, files, tmp_path, monkeypatch):
    monkeypatch.setattr(opening, "WHOLE", 100)
    metric = create_metric(tiny("none"), device="cpu")
    sizes = seen_by(metric)
    pictures = files(2)
    (tmp_path / "copy.png").write_bytes(Path(pictures[0]).read_bytes())
    pictures.append(str(tmp_path / "copy.png"))
    assert_same(metric.score_files(pictures), metric.predict(pictures), pictures)
    assert sum(sizes) == 2 + 3  # predict computes each


def test_error_names_each_file_of_the_same_broken_content(tiny, tmp_path):
    metric = create_metric(tiny("none"), device="cpu")
    names = [str(tmp_path / name) for name in ("one.png", "another.png")]
    for name in names:
        Path(name).write_bytes(b"no picture")
    for row in metric.score_files([*names, *names]):
        assert row.error == f"{row.picture}: not a picture that Pillow can read"


# -- bounded


def test_reads_a_bounded_number_ahead(tiny):
    metric = create_metric(tiny("none"), device="cpu", batch_size=2)
    asked = 0

    def counted():
        nonlocal asked
        for item in endless():
            asked += 1
            yield item

    rows = metric.score_files(counted(), workers=3)
    assert asked == 0
    for taken, row in enumerate(itertools.islice(rows, 60), 1):
        assert row.picture == f"{taken - 1}.png"
        assert asked - taken <= 2 * (2 + 3) + 4 * 2  # being decoded; three batches computed, one collected
    rows.close()


def test_memory_does_not_grow_with_the_number_of_pictures(tiny, monkeypatch):
    monkeypatch.setattr(scoring, "KEPT", 40)  # more than can be waiting, so some are always done
    metric = create_metric(tiny("none"), device="cpu", batch_size=2)
    sizes = set()
    with closing(metric.score_files(endless(), workers=2)) as rows:
        for _ in range(4):
            for _ in itertools.islice(rows, 50):
                pass
            pictures = alive()
            assert len(pictures) <= 40 + 2 * (2 + 2) + 4 * 2  # kept, being decoded, in batches
            done = [d for d in pictures if d.features.done()]
            # what the network has seen goes; one may be caught in the middle of that
            assert sum(d.views is not None for d in done) <= 1
            sizes |= {d.features.result().untyped_storage().nbytes() for d in done}
            del pictures, done
    # not part of a batch, which would be kept as long as any of its pictures
    assert sizes == {4 * metric.network.width}


def test_cache_forgets_what_was_used_longest_ago():
    cache = Cache(3)
    first, new = cache.claim(b"0", "first")
    assert new and first.name == "first"
    for key in (b"1", b"2"):
        cache.claim(key, "")
    assert cache.claim(b"0", "again") == (first, False)
    cache.claim(b"3", "")
    assert list(cache.known) == [b"2", b"0", b"3"]
    assert cache.claim(b"1", "")[1]
    for key in range(100):
        cache.claim(bytes([key]), "")
        assert len(cache.known) == 3


def test_forgotten_pictures_are_computed_again(tiny, files, monkeypatch):
    monkeypatch.setattr(scoring, "CACHE", 0)
    metric = create_metric(tiny("none"), device="cpu", batch_size=1)
    sizes = seen_by(metric)
    pictures = files(8) * 2  # four are kept
    rows = list(metric.score_files(pictures, workers=1))
    assert sum(sizes) == 16
    assert [row.scores for row in rows[:8]] == [row.scores for row in rows[8:]]


# -- what goes wrong


def test_an_unreadable_picture_is_a_row_and_the_run_goes_on(tiny, files, tmp_path):
    metric = create_metric(tiny("none"), device="cpu", batch_size=2)
    good = files(4)
    cut = tmp_path / "cut.png"
    cut.write_bytes(Path(good[0]).read_bytes()[:900])
    (tmp_path / "empty.png").touch()
    (tmp_path / "list.txt").write_text("good.png")
    bad = [str(cut), *(str(tmp_path / n) for n in ("empty.png", "list.txt", "missing.png")), "http://x/y.png"]
    bad.append(str(tmp_path))  # as an item, for as a source it is a folder of pictures
    names = [*bad[:3], *good[:2], *bad[3:], *good[2:]]
    rows = {row.picture: row for row in metric.score_files(Item(name) for name in names)}
    assert list(rows) == names
    assert [rows[name].scores for name in bad] == [None] * len(bad)
    for name in bad:  # one wording, whichever way in
        with pytest.raises(InputError) as refused:
            metric(name)
        assert rows[name].error == str(refused.value)
        assert name in rows[name].error
    expected = metric.predict(good)
    assert_same([rows[name] for name in good], expected, good)


def test_an_unreadable_reference_is_named(tiny, files, tmp_path):
    metric = create_metric(tiny("full"), device="cpu")
    pictures = files(3)
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"?")
    references = [pictures[2], str(broken), pictures[2]]
    rows = list(metric.score_files(pictures, references))
    assert [row.error for row in rows] == [None, f"{broken}: not a picture that Pillow can read", None]
    assert rows[1].picture == pictures[1] and rows[1].reference == str(broken)


def test_stop_gives_the_rows_before_and_then_the_error(tiny, files):
    metric = create_metric(tiny("none"), device="cpu", batch_size=3)
    pictures = files(9)
    pictures.insert(7, "missing.png")
    found = []
    with pytest.raises(InputError, match=r"missing\.png: cannot be opened"):
        for row in metric.score_files(pictures, on_error="stop"):
            found.append(row)
    assert_same(found, metric.predict(pictures[:7]), pictures[:7])


def test_references_where_there_should_be_none_and_the_other_way_round(tiny, files):
    pictures = files(3)
    rows = list(
        create_metric(tiny("full"), device="cpu").score_files(pictures, [pictures[0], None, pictures[1]])
    )
    assert [bool(row.error) for row in rows] == [False, True, False]
    assert rows[1].error.startswith(f"{pictures[1]}: has no reference, which tiny-full needs")
    rows = list(create_metric(tiny("none"), device="cpu").score_files(pictures, [None, pictures[0], None]))
    assert [bool(row.error) for row in rows] == [False, True, False]
    assert rows[1].error.startswith(f"{pictures[1]}: tiny-none judges a picture alone; give no reference")
    assert rows[1].reference == pictures[0]


def test_lists_of_unlike_length_are_refused(tiny, files):
    pictures = files(3)
    metric = create_metric(tiny("full"), device="cpu")
    with pytest.raises(InputError, match="more pictures than 2"):
        list(metric.score_files(pictures, pictures[:2]))


def test_wrong_arguments(tiny, files):
    metric = create_metric(tiny("none"), device="cpu")
    with pytest.raises(InputError, match="on_error must be row or stop"):
        list(metric.score_files(files(1), on_error="skip"))
    with pytest.raises(InputError, match="workers must be at least 1"):
        list(metric.score_files(files(1), workers=0))
    assert list(metric.score_files(iter([]))) == []


def test_a_batch_that_does_not_fit_is_halved(tiny, files):
    metric = create_metric(tiny("none"), device="cpu", batch_size=8)
    pictures = files(11)
    expected = metric.predict(pictures)

    def refuse(views):
        if len(views) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    sizes = seen_by(metric, refuse)
    assert_same(metric.score_files(pictures), expected, pictures)
    assert sizes == [8, 4, 2, 2, 2, 2, 2, 1]  # and the second batch is not tried at full size again


def test_one_picture_that_does_not_fit_is_the_callers_to_see(tiny, files):
    metric = create_metric(tiny("none"), device="cpu", batch_size=2)

    def refuse(views):
        raise torch.OutOfMemoryError("CUDA out of memory")

    sizes = seen_by(metric, refuse)
    with pytest.raises(torch.OutOfMemoryError):
        list(metric.score_files(files(2)))
    assert sizes == [2, 1]


@pytest.mark.parametrize(("workers", "batch", "devices"), WAYS)
def test_what_the_network_raises_reaches_the_caller(workers, batch, devices, tiny, files, white):
    metric = create_metric(tiny("full"), device="cpu", batch_size=batch)

    def fail(views):
        if any(is_white(views)):
            raise RuntimeError("kernel failed")

    seen_by(metric, fail)
    pictures = files(12)
    pictures[9] = white
    items = [Item(name, pictures[i // 4]) for i, name in enumerate(pictures)] + [Item(pictures[0], white)] * 9
    with pytest.raises(RuntimeError, match="kernel failed"):
        list(metric.score_files(items, workers=workers, devices=devices))


@pytest.mark.parametrize(("workers", "batch", "devices"), WAYS)
def test_closing_early_leaves_no_thread(workers, batch, devices, tiny):
    metric = create_metric(tiny("none"), device="cpu", batch_size=batch)
    rows = metric.score_files(endless(), workers=workers, devices=devices)
    assert next(rows).picture == "0.png"
    rows.close()


def test_an_error_of_the_callers_list_reaches_the_caller(tiny, files):
    def broken():
        yield from files(5)
        raise OSError("connection lost")

    with pytest.raises(OSError, match="connection lost"):
        list(create_metric(tiny("none"), device="cpu", batch_size=1).score_files(broken()))


def test_closing_ends_a_device_that_waits_for_another(tiny, files, white):
    """The second device waits for a picture of a batch which the first has not begun, and never will."""
    metric = create_metric(tiny("none"), device="cpu", batch_size=1)
    held = threading.Event()
    sizes = seen_by(metric, lambda views: held.wait(20) if any(is_white(views)) else None)
    a, b, c, d, e = files(5)
    rows = metric.score_files([a, b, white, c, d, d, e], devices=["cpu", "cpu"])  # first: a, white, d
    assert [next(rows).picture for _ in range(2)] == [a, b]
    while len(sizes) < 5:  # a, b, white (held), c, e: so the second is at d now
        time.sleep(0.01)
    closing = threading.Thread(target=rows.close)
    closing.start()
    time.sleep(0.2)  # so that what had not begun is cancelled
    held.set()
    closing.join(10)
    hangs = closing.is_alive()
    for waiting in alive() if hangs else []:
        waiting.features.cancel()
    assert not hangs


def test_a_score_that_is_no_number_is_an_error_row(tiny, files, white):
    metric = create_metric(tiny("none"), device="cpu", batch_size=3)
    pictures = files(4)
    expected = metric.predict(pictures)

    def spoil(module, inputs, output):
        return output.masked_fill(torch.tensor(is_white(inputs[0]))[:, None], float("nan"))

    metric.network.backbone.register_forward_hook(spoil)
    rows = list(metric.score_files([*pictures[:2], white, *pictures[2:]]))
    assert rows[2].picture == white and rows[2].scores is None and "finite" in rows[2].error
    assert_same(rows[:2] + rows[3:], expected, pictures)


def test_the_network_is_left_as_it_was(tiny, files):
    metric = create_metric(tiny("none"), device="cpu")
    pictures = files(2)
    before = metric(pictures)
    list(metric.score_files(pictures, devices=["cpu", "cpu"]))
    assert torch.equal(metric(pictures), before)
    assert not metric(pictures).is_inference()
    assert torch.get_num_threads() == 1


def test_what_was_made_faster_is_kept_until_the_network_changes(tiny, files):
    metric = create_metric(tiny("none"), device="cpu")
    pictures = files(4)
    first = [row.scores for row in metric.score_files(pictures)]
    kept = metric.faster[1]
    assert [row.scores for row in metric.score_files(pictures)] == first
    assert metric.faster[1] is kept and list(kept) == [torch.device("cpu")]
    metric.network.head.fc2.weight.data.mul_(2)  # which PyTorch does not count
    assert_same(list(metric.score_files(pictures)), metric.predict(pictures), pictures)
    assert metric.faster[1] is not kept
    seen = []
    metric.network.backbone.register_forward_hook(lambda *_: seen.append(1))
    list(metric.score_files(pictures))
    assert seen


def test_a_metric_that_has_scored_files_can_be_copied(tiny, files):
    metric = create_metric(tiny("none"), device="cpu")
    pictures = files(4)
    list(metric.score_files(pictures))
    for other in (copy.deepcopy(metric), pickle.loads(pickle.dumps(metric))):
        assert_same(other.score_files(pictures), metric.predict(pictures), pictures)
    assert metric.faster is not None


def test_the_process_computes_with_as_many_threads_as_before(files):
    """Runners and decoders limit their own threads only."""
    torch.set_num_threads(2)  # the fixture `one_thread` puts it back
    metric = create_metric("nr-aigciqa", device="cpu")
    names = files(3)
    expected = metric(names).tolist()
    rows = metric.score_files(names)
    found = [next(rows)]
    assert torch.get_num_threads() == 2
    found += rows
    later = []
    thread = threading.Thread(target=lambda: later.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert (torch.get_num_threads(), later) == (2, [2])
    assert [row.scores["quality"] for row in found] == pytest.approx(expected, abs=1e-4 * 5)
