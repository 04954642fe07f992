"""The program ``aigciqa-score``: its command, in a process that starts and ends without Python's housekeeping."""

import atexit
import gc
import os
import sys


def main() -> None:
    """Run `aigciqa.cli.score`; importing does not look for garbage, and torch is not taken apart in the end.

    Both would be a third of the time to a first score. Garbage is collected from when there is something to score;
    in the end buffers are flushed, and functions of `atexit` are called, as ever.
    """
    code: object = None

    def end() -> None:
        if not isinstance(code, int):  # it failed, or was interrupted
            return
        try:
            for stream in filter(None, (sys.stdout, sys.stderr)):
                stream.flush()
        except (OSError, ValueError):  # Python says what is wrong when it ends
            return
        os._exit(code)

    atexit.register(end)  # the first that is registered is the last that is called
    gc.disable()
    from .cli import score

    try:
        score(obj=collect)
    except SystemExit as ended:
        code = ended.code
        raise


def collect() -> None:
    """Collect garbage from now on, but not among what is there. For a process of the project's own."""
    gc.freeze()
    gc.enable()
