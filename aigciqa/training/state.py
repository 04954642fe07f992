"""The state of a run between two steps, from which `--resume` goes on."""

import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..errors import InputError
from .torchfile import load_tensors

if TYPE_CHECKING:
    from .trainer import _Trainer


def collect_state(trainer: "_Trainer") -> dict[str, Any]:
    """Everything that decides how a run goes on, as tensors, numbers, lists and dictionaries."""
    scaler = trainer.accelerator.scaler
    return {
        "epoch": trainer.epoch,
        "step": trainer.step,
        "updates": trainer.updates,
        "network": trainer.network.state_dict(),
        "averaged": trainer.averaged.state_dict() if trainer.recipe.ema else None,
        "optimizer": trainer.optimizer.state_dict(),
        "scaler": scaler.state_dict() if scaler is not None else None,
        "random": torch.get_rng_state(),
        "best": trainer.best,
        "history": trainer.history,
        "losses": trainer.losses,
    }


def restore_state(trainer: "_Trainer", path: Path) -> None:
    """Put a trainer into the state that `collect_state` gave.

    Args:
        trainer: of the same recipe.
        path: of the file that the state was saved to.

    Raises:
        InputError: when the file is damaged, or its state is not of this recipe.
    """
    try:
        _take(trainer, load_tensors(path))
    except Exception as error:  # torch raises many kinds, and a damaged file may have anything in it
        reason = (str(error).splitlines() or [""])[0]
        raise InputError(
            f"{path} is damaged, or is not of this recipe, so the run cannot go on from it: "
            f"{type(error).__name__}: {reason}. The checkpoint in {path.parent} is of the best epoch so far: to "
            "keep it, copy it or begin from it in another folder (--weights RUN --out OTHER). To train anew "
            f"in this folder, remove {path.name} and start again without --resume"
        ) from None


def _take(trainer: "_Trainer", state: Any) -> None:
    trainer.epoch, trainer.step, trainer.updates = state["epoch"], state["step"], state["updates"]
    trainer.best, trainer.history, trainer.losses = state["best"], state["history"], state["losses"]
    kinds: list[tuple[Any, type]] = [
        (n, int) for n in (trainer.epoch, trainer.step, trainer.updates, trainer.best["epoch"])
    ]
    kinds += [(trainer.best["score"], float), (trainer.history, list), (trainer.losses, list)]
    if wrong := [value for value, kind in kinds if not isinstance(value, kind)]:
        raise ValueError(f"{wrong[0]!r:.99} stands where there should be something else")
    if trainer.best["network"] is not None:
        copy.deepcopy(trainer.averaged).load_state_dict(trainer.best["network"])  # raises unless it fits
    trainer.network.load_state_dict(state["network"])
    if state["averaged"] is not None:
        trainer.averaged.load_state_dict(state["averaged"])
    trainer.optimizer.load_state_dict(state["optimizer"])
    if state["scaler"] is not None and trainer.accelerator.scaler is not None:
        trainer.accelerator.scaler.load_state_dict(state["scaler"])
    torch.set_rng_state(state["random"])
