"""The log of a run: a dict for each epoch."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .files import write_whole


def write_logs(folder: Path, history: Sequence[dict[str, Any]]) -> None:
    """Write ``metrics.jsonl``, and the last epoch for TensorBoard where that is installed.

    Args:
        folder: of the run.
        history: all epochs so far.
    """
    write_whole(folder / "metrics.jsonl", "".join(json.dumps(epoch) + "\n" for epoch in history))
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return
    values = history[-1]
    with SummaryWriter(str(folder / "tensorboard")) as writer:
        for key, value in values.items():
            if key != "epoch" and value is not None:
                writer.add_scalar(key, value, values["epoch"])
