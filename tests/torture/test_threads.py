"""One metric used by many threads, and carried to other processes."""

import copy
import multiprocessing
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from conftest import random_network, tiny_config
from torch.utils.data import DataLoader, Dataset

import aigciqa
from aigciqa.weights import save_checkpoint

from .makers import encoded, photo

THREADS = 8
WAYS = ["spawn", "fork", pytest.param("forkserver", marks=pytest.mark.slow)]


@pytest.fixture(scope="module", params=["none", "full"])
def checkpoint(request, tmp_path_factory):
    config = tiny_config(request.param)
    folder = tmp_path_factory.mktemp("checkpoint") / "tiny"
    save_checkpoint(folder, config, random_network(config).state_dict())
    return folder


@pytest.fixture(scope="module")
def pictures():
    return [encoded(photo(seed, (70 + seed, 90)), "PNG") for seed in range(12)]


@pytest.fixture(scope="module")
def paths(pictures, tmp_path_factory):
    """The pictures as files."""
    folder = tmp_path_factory.mktemp("pictures")
    made = [folder / f"{i}.png" for i in range(len(pictures))]
    for path, data in zip(made, pictures, strict=True):
        path.write_bytes(data)
    return made


@pytest.fixture
def metric(checkpoint):
    """One that has not been used."""
    return aigciqa.create_metric(checkpoint, device="cpu")


@pytest.fixture(scope="module")
def expected(checkpoint, pictures):
    return scored(aigciqa.create_metric(checkpoint, device="cpu"), pictures)


def scored(metric, pictures):
    """A score for each, with itself turned round as its reference where there is one."""
    references = () if metric.metric_mode == "NR" else (list(reversed(pictures)),)
    return metric(pictures, *references)


def near(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=5e-4)


def test_first_use_by_eight_threads_at_once(checkpoint, pictures, expected, rounds, tally):
    count = rounds(50, 5)
    for _ in range(count):
        metric = aigciqa.create_metric(checkpoint, device="cpu")
        start = threading.Barrier(THREADS)

        def use(number, metric=metric, start=start):
            start.wait()
            if number % 4 == 1:
                assert len(metric.state_dict()) > 10
            if number % 4 == 2:
                assert next(metric.parameters()).ndim
            return scored(metric, pictures)

        with ThreadPoolExecutor(THREADS) as pool:
            for found in pool.map(use, range(THREADS)):
                near(found, expected)
        assert len(list(metric.children())) == 1
    tally("threads", inputs=count * THREADS * len(pictures))


def test_eight_threads_share_a_metric(metric, pictures, paths, expected, rounds, tally):
    """By calls, by `predict` and by `score_files`, all at once."""
    references = None if metric.metric_mode == "NR" else paths[::-1]
    count = rounds(40, 5)

    def use(number):
        if number % 3 == 0:
            return scored(metric, pictures)
        if number % 3 == 1:
            return metric.predict(paths, references)["quality"]
        rows = list(metric.score_files(paths, references))
        assert [row.picture for row in rows] == list(map(str, paths))
        return torch.tensor([row.scores["quality"] for row in rows])

    threads = torch.get_num_threads()
    with ThreadPoolExecutor(THREADS) as pool:
        for found in pool.map(use, range(THREADS * count)):
            near(found, expected)
    assert torch.get_num_threads() == threads
    tally("threads", inputs=count * THREADS * len(pictures))


def test_gradients_of_eight_threads_do_not_mix(checkpoint, rounds):
    metric = aigciqa.create_metric(checkpoint, device="cpu", as_loss=True)
    batches = [torch.rand(2, 3, 80, 70, generator=torch.Generator().manual_seed(s)) for s in range(THREADS)]

    def gradient(images):
        images = images.clone().requires_grad_()
        references = () if metric.metric_mode == "NR" else (images.detach().flip(-1),)
        metric(images, *references).sum().backward()
        return images.grad

    alone = list(map(gradient, batches))
    with ThreadPoolExecutor(THREADS) as pool:
        for _ in range(rounds(20, 3)):
            for found, expected in zip(pool.map(gradient, batches), alone, strict=True):
                torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("loaded", [False, True])
def test_copies(loaded, metric, pictures, expected):
    if loaded:
        metric.load()
    for other in (copy.deepcopy(metric), copy.copy(metric), pickle.loads(pickle.dumps(metric))):
        assert other.loaded == loaded
        near(scored(other, pictures), expected)
        assert not other.training
    deep = copy.deepcopy(metric.load())
    with torch.no_grad():
        deep.network.head.fc2.bias += 1  # its own
    near(scored(metric, pictures), expected)
    near(scored(deep, pictures), expected + 1)


def in_child(metric, paths, pictures, results):
    loaded, found = metric.loaded, scored(metric, pictures)
    rows = metric.score_files(paths, None if metric.metric_mode == "NR" else paths[::-1])
    results.put((loaded, found.tolist(), [row.scores["quality"] for row in rows]))


@pytest.mark.parametrize("loaded", [False, True])
@pytest.mark.parametrize("way", WAYS)
def test_another_process(way, loaded, metric, pictures, paths, expected, tally):
    if loaded:  # and has computed here, with threads that a forked process will not have
        torch.nn.functional.conv2d(torch.rand(8, 8, 99, 99), torch.rand(8, 8, 3, 3))
        scored(metric, pictures)
    context = multiprocessing.get_context(way)
    results = context.Queue()
    child = context.Process(target=in_child, args=(metric, paths, pictures, results))
    child.start()
    try:
        was_loaded, *found = results.get(timeout=120)
        child.join(60)
    finally:
        child.kill()
    assert was_loaded == loaded
    for scores in found:
        near(torch.tensor(scores), expected)
    tally("processes", inputs=2 * len(pictures))


class Scored(Dataset):
    """Pictures with their scores, computed in the loader's workers."""

    def __init__(self, metric, pictures):
        self.metric, self.pictures = metric, pictures

    def __len__(self):
        return len(self.pictures)

    def __getitem__(self, number):
        references = () if self.metric.metric_mode == "NR" else (self.pictures[-1 - number],)
        return number, self.metric(self.pictures[number], *references)[0]


@pytest.mark.parametrize("loaded", [False, True])
@pytest.mark.parametrize("way", WAYS)
def test_workers_of_a_data_loader(way, loaded, metric, pictures, expected, tally):
    if loaded:
        metric.load()
    loader = DataLoader(
        Scored(metric, pictures), batch_size=5, num_workers=2, multiprocessing_context=way, timeout=120
    )
    numbers, scores = zip(*loader, strict=True)
    assert torch.cat(numbers).tolist() == list(range(len(pictures)))
    near(torch.cat(scores), expected)
    tally("processes", inputs=len(pictures))
