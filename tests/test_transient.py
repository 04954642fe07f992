"""Errors that may pass, and what is done about them: not taken for the image's fault, and tried again when asked to."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def preloaded(tmp_path_factory):
    """The variables of a process whose calls of the system can be made to fail."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if sys.platform != "linux" or compiler is None:
        pytest.skip("needs Linux and a C compiler")
    library = tmp_path_factory.mktemp("faults") / "faults.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, HERE / "faults.c", "-ldl"], check=True)
    return {**os.environ, "LD_PRELOAD": str(library), "OMP_NUM_THREADS": "1"}


@pytest.mark.slow  # many processes
def test_system_calls_that_fail(preloaded):
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "--durations=0"]
    done = subprocess.run(
        [*command, HERE / "preloaded_faults.py"], env=preloaded, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stdout[-9000:] + done.stderr[-3000:]
