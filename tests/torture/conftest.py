"""What all tests of hostile input, faults and attacks share: `make torture` runs them, `make torture-short` fewer.

Everything below this folder has the marker ``torture``; what only the full run does is marked ``slow`` as well.
"""

from collections import Counter, defaultdict
from pathlib import Path

import pytest
from conftest import random_network, tiny_config
from hypothesis import HealthCheck, settings

import aigciqa
from aigciqa.weights import save_checkpoint

_TALLY = pytest.StashKey[defaultdict[str, Counter[str]]]()


def pytest_addoption(parser):
    parser.addoption("--torture-short", action="store_true", help="fewer rounds of each torture")


def pytest_configure(config):
    config.stash[_TALLY] = defaultdict(Counter)
    common = {"deadline": None, "database": None, "suppress_health_check": list(HealthCheck)}
    settings.register_profile("full", max_examples=400, print_blob=True, **common)
    settings.register_profile("short", max_examples=30, derandomize=True, **common)
    settings.load_profile("short" if _short(config) else "full")


@pytest.hookimpl(tryfirst=True)  # before those that are not asked for are deselected
def pytest_collection_modifyitems(items):
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.torture)


def pytest_terminal_summary(terminalreporter, config):
    tally = config.stash[_TALLY]
    if tally:
        terminalreporter.section("torture")
    for group, counts in sorted(tally.items()):
        said = [f"{counts[key]:,} {what}" for key, what in _SAID.items() if counts[key]]
        said.append(f"lost rows: {counts['lost']}")
        terminalreporter.write_line(f"{group}: {', '.join(said)}")


_SAID = {"inputs": "inputs tried", "faults": "faults injected"}


def _short(config) -> bool:
    return config.getoption("torture_short", False)  # unknown where this folder was not named


@pytest.fixture(scope="session")
def tally(pytestconfig):
    """Counts for the summary: ``tally(group, inputs=0, faults=0, lost=0)``, as often as there is something to count.

    A lost row is one that a run should have given and did not; the test fails for it, too.
    """

    def count(group: str, *, inputs: int = 0, faults: int = 0, lost: int = 0) -> None:
        pytestconfig.stash[_TALLY][group].update(inputs=inputs, faults=faults, lost=lost)

    return count


@pytest.fixture(scope="session")
def rounds(pytestconfig):
    """``rounds(full, short)``: how often to do a thing in this run."""
    return lambda full, short: short if _short(pytestconfig) else full


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """The folder of a tiny metric."""
    folder = tmp_path_factory.mktemp("checkpoint") / "tiny"
    save_checkpoint(folder, tiny_config(), random_network(tiny_config()).state_dict())
    return folder


@pytest.fixture(scope="module")
def metric(checkpoint):
    return aigciqa.create_metric(checkpoint, device="cpu").load()
