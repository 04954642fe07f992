"""Training: a recipe and data sets to a checkpoint, with Hugging Face accelerate as the engine."""

import copy
import json
import math
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator, DistributedDataParallelKwargs, PartialState
from torch import Tensor, nn

from ..errors import InputError, Parameter
from ..layers import Norm
from ..progress import Progress
from ..stamp import config_digest
from ..weights import save_checkpoint
from .feed import Feed, PictureFeed, SharedForward, gathered
from .files import claimed, save_whole, write_whole
from .initial import initial_network, is_tag, named_weights
from .logs import write_logs
from .losses import combined
from .norm import synchronise
from .pixels import Pixels
from .probing import ProbeFeed
from .recipe import Recipe, read_recipe
from .record import RECORD, check_places, differences, record, same_data, write_record
from .rows import Rows, batches, divide, join, mixed_batches, open_data
from .side import PREDICTIONS, best_of_each, correlations, evaluate_side, said_of_best, write_predictions
from .state import collect_state, restore_state

STATE = "state.pt"
COORDINATES = "coordinates.safetensors"  # of the head of a frozen backbone


@dataclass
class Run:
    """What `train` gives back.

    Args:
        folder: a checkpoint that `create_metric` opens, with the logs, splits and predictions of the run.
        history: a dict for each epoch, as in ``metrics.jsonl``.
        evaluation: by data set and dimension, the figures of ``evaluation.json``; empty when there is no test side.
        best_of_each: by dimension, what the papers would report, see `aigciqa.training.side.best_of_each`.
    """

    folder: Path
    history: list[dict[str, Any]]
    evaluation: dict[str, dict[str, Any]]
    best_of_each: dict[str, dict[str, Any]]


def train(
    recipe: Recipe,
    folder: str | Path,
    *,
    resume: bool = False,
    report: Callable[[str], None] = print,
    bootstrap: int = 1000,
) -> Run:
    """Train, select, test once, and write a checkpoint.

    Started by ``accelerate launch`` it uses the processes it finds; `recipe.batch_size` is over all of them.

    Args:
        recipe: what to do.
        folder: where the run goes. It must be empty, unless resuming.
        resume: continue a run that was interrupted, to the same weights as if it had not been. Its data may have moved
            meanwhile (`recipe.data`), but must be the same.
        report: called with each line for the user.
        bootstrap: resamples for the intervals of the test side's figures; 0 for no intervals.

    Raises:
        InputError: for data or a recipe that cannot be trained on, or a folder in use.

    Source:
        The papers' optimisation, arXiv 2311.15556: Adam on the mean squared error.
    """
    folder = Path(folder)
    if (folder / STATE).exists() and not resume:
        raise InputError(
            f"{folder} holds a run; resume it, ",
            Parameter("resume", "", "True"),
            ", or choose another folder",
        )
    if resume and (folder / "recipe.yaml").exists():
        saved = read_recipe(folder / "recipe.yaml")
        if other := differences(saved, recipe):
            raise InputError(
                f"the recipe differs from {folder / 'recipe.yaml'} in {', '.join(other)}; resume with the same one"
            )
        check_places(recipe)
    with claimed(folder) if PartialState().is_main_process else nullcontext():
        return _Trainer(recipe, folder, report, bootstrap).run()


class _Trainer:
    def __init__(self, recipe: Recipe, folder: Path, report: Callable[[str], None], bootstrap: int = 1000):
        self.recipe, self.folder, self.bootstrap = recipe, folder, bootstrap
        self.accelerator = Accelerator(
            mixed_precision=recipe.precision,
            kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=recipe.freeze > 0)],
        )
        self.main = self.accelerator.is_main_process
        self.report = report if self.main else lambda line: None
        torch.manual_seed(recipe.seed)
        rated = open_data(recipe)
        if not (folder / STATE).exists():
            if self.main:
                write_record(folder / RECORD, record(recipe, rated))
        elif (folder / RECORD).exists():
            rated = same_data(folder / RECORD, recipe, rated)
        self.rows: Rows = join(recipe, rated)
        with self.accelerator.main_process_first():
            self.train_rows, self.validation_rows, self.test_rows, leaks = divide(recipe, rated, folder)
            if not len(self.train_rows):
                raise InputError("nothing to train on: the split leaves the training side empty")
            self.config = recipe.config()
            cache = Path(recipe.cache or folder / "cache")
            if not recipe.frozen:
                pixels = Pixels(self.rows.paths, self.config.transform, cache)
        for source, one in zip(recipe.data, rated, strict=True):
            if one.range_is_observed and source.score_range is None:
                low, high = one.score_range
                self.report(
                    f"{one.name}: its labels lie from {low:g} to {high:g}, which is taken for their whole scale; "
                    "say otherwise with --range LOW,HIGH"
                )
        for leak in leaks:
            self.report(f"warning: {leak}")
        self.network = initial_network(
            self.config, recipe.weights, self.rows.mean_labels(self.train_rows).tolist()
        )
        self.network.to(self.accelerator.device).to(memory_format=torch.channels_last)
        self.feed: Feed
        if not recipe.frozen:
            self.feed = PictureFeed(self.rows, pixels, self.accelerator, recipe.rank_within)
            model: nn.Module = SharedForward(self.network, self.config.transform, recipe.dropout)
        else:
            feed = ProbeFeed(
                self.rows, self.network, self.config, cache, self.accelerator, recipe.rank_within
            )
            file = folder / COORDINATES
            if self.main and not (folder / STATE).exists():
                file.unlink(missing_ok=True)  # of a run that never came to its first state
            if (folder / STATE).exists() and not file.exists():  # found again, directions may be other ones
                raise InputError(
                    f"{file} is gone, and the weights of this run mean nothing without it; put it back, or remove "
                    f"{STATE} in this folder and start again without --resume"
                )
            model, self.feed = feed.begin(self.network, self.train_rows, recipe, file), feed
        self.averaged = copy.deepcopy(self.network) if recipe.ema else self.network
        if self.accelerator.num_processes > 1:
            synchronise(self.network.backbone, self.accelerator.device)
        self.model = self.accelerator.prepare(model)
        self.optimizer = self.accelerator.prepare(self._optimizer())
        self.epoch, self.step, self.updates = 0, 0, 0
        self.best: dict[str, Any] = {"score": -math.inf, "epoch": -1, "network": None}
        self.history: list[dict[str, Any]] = []
        self.losses: list[float] = []  # of this epoch
        self.stopping = False

    def _optimizer(self) -> torch.optim.Optimizer:
        r = self.recipe
        kind = torch.optim.Adam if r.optimizer == "adam" else torch.optim.AdamW
        groups = [
            {"params": list(part.parameters()), "lr": rate}
            for part, rate in zip((self.network.backbone, self.network.head), self._base_rates(), strict=True)
        ]
        fused = self.accelerator.device.type in ("cpu", "cuda")
        return kind(groups, weight_decay=r.weight_decay, fused=fused)

    def _base_rates(self) -> tuple[float, float]:
        """Of the backbone and the head, before the schedule."""
        r = self.recipe
        return r.lr, r.lr if r.head_lr is None else r.head_lr

    # -- the run

    def run(self) -> Run:
        if self.main:
            write_whole(self.folder / "recipe.yaml", self.recipe.to_yaml())
        self.load_state()
        self.report(
            f"{len(self.train_rows)} rows to train on, {len(self.validation_rows)} to validate, "
            f"{len(self.test_rows)} to test, {len(self.rows.paths)} pictures"
        )
        deterministic = torch.are_deterministic_algorithms_enabled()
        torch.use_deterministic_algorithms(True, warn_only=True)
        restore = self._stop_on_sigterm()
        try:
            while self.epoch < self.recipe.epochs and not self._out_of_patience():
                self.train_epoch()
                self.finish_epoch()
        finally:
            torch.use_deterministic_algorithms(deterministic)
            restore()
        return self.finish()

    def _stop_on_sigterm(self) -> Callable[[], None]:
        """Save at the next step and exit when asked to terminate."""
        if threading.current_thread() is not threading.main_thread():
            return lambda: None

        def stop(signum: int, frame: Any) -> None:
            self.stopping = True

        before = signal.signal(signal.SIGTERM, stop)

        def restore() -> None:
            signal.signal(signal.SIGTERM, before)

        return restore

    def _out_of_patience(self) -> bool:
        patience = self.recipe.patience
        return patience > 0 and self.epoch - 1 - self.best["epoch"] >= patience

    def train_epoch(self) -> None:
        r = self.recipe
        rows = self.train_rows[self.rows.weights[self.train_rows] > 0]
        units = {"row": None, "group": self.rows.groups, "reference": self.rows.contents}[r.batch_by]
        seed = [r.seed, self.epoch]
        if any(sizes := [source.per_batch for source in r.data]):
            made = mixed_batches(rows, units, self.rows.sets, sizes, seed)
        else:
            made = batches(rows, units, r.batch_size, seed)
        draws = np.random.default_rng([r.seed, self.epoch, 1]).random((len(self.rows.paths), 3))
        frozen = self.epoch < r.freeze
        self.model.train()
        for module in self.network.backbone.modules():
            if frozen or (r.freeze_norm and isinstance(module, nn.modules.batchnorm._BatchNorm | Norm)):
                module.eval()
        progress = Progress(f"epoch {self.epoch + 1}/{r.epochs}", len(made), begun=self.step, shown=self.main)
        # the next batch is put together while this one is learned from
        with progress, ThreadPoolExecutor(1) as ahead:
            load = lambda i: self.feed.batch(made[i], draws if r.augment else None)  # noqa: E731
            waiting = ahead.submit(load, self.step) if self.step < len(made) else None
            for i in range(self.step, len(made)):
                assert waiting is not None
                batch, waiting = waiting.result(), ahead.submit(load, i + 1) if i + 1 < len(made) else None
                last = (i + 1) % r.accumulate == 0 or i + 1 == len(made)
                self.losses.append(self.learn(batch, frozen, last, (self.epoch * len(made) + i) / len(made)))
                progress.done()
                if last and self.stopping:
                    self.step = i + 1
                    self.save_state()
                    self.report(
                        f"stopped in epoch {self.epoch + 1}, batch {self.step}; continue with --resume"
                    )
                    raise SystemExit(143)
        self.history.append({"epoch": self.epoch + 1, "loss": float(np.mean(self.losses))})
        self.step, self.losses = 0, []

    def learn(self, batch: dict[str, Any], frozen: bool, update: bool, progress: float) -> float:
        r, accelerator = self.recipe, self.accelerator
        with nullcontext() if update else accelerator.no_sync(self.model):
            scores = self.model(*batch["inputs"], frozen)
            scores = gathered(scores.float(), accelerator.num_processes)
            terms = [
                combined(
                    member, batch["labels"], r.loss, weights=batch["weights"], comparable=batch["comparable"],
                    margin=r.margin,
                )
                for member in (scores.unbind(1) if scores.ndim == 3 else [scores])
            ]  # fmt: skip
            loss = torch.stack(terms).mean()
            accelerator.backward(loss / r.accumulate)
        if update:
            if r.clip:
                accelerator.clip_grad_norm_(self.model.parameters(), r.clip)
            for group, rate in zip(self.optimizer.param_groups, self._base_rates(), strict=True):
                group["lr"] = rate * self._rate(progress)
            self.optimizer.step()
            self.optimizer.zero_grad()
            self.updates += 1
            if r.ema:
                self._average()
        return loss.item()

    def _rate(self, progress: float) -> float:
        """Of the learning rate, after `progress` epochs."""
        r = self.recipe
        rate = min(1.0, progress / r.warmup) if r.warmup else 1.0
        if r.schedule == "cosine":
            rate *= 0.5 * (1 + math.cos(math.pi * progress / r.epochs))
        return rate

    @torch.no_grad()
    def _average(self) -> None:
        decay = min(self.recipe.ema, (1 + self.updates) / (10 + self.updates))  # short at first
        for mean, now in zip(
            self.averaged.state_dict().values(), self.network.state_dict().values(), strict=True
        ):
            if mean.is_floating_point():
                mean.lerp_(now, 1 - decay)
            else:
                mean.copy_(now)

    # -- selection and test

    def finish_epoch(self) -> None:
        r = self.recipe
        sides = {"validation": self.validation_rows} if r.select == "validation" else {}
        if r.select == "test" or (r.split == "paper" and len(self.test_rows)):
            sides["test"] = self.test_rows  # for what the papers report
        for side, rows in sides.items():
            scores = self.feed.predict(rows, self.averaged)
            found = correlations(r.dimensions, scores, self.rows.labels[rows])
            self.history[-1] |= {f"{side}_{name}": value for name, value in found.items()}
        score = float(self.epoch)
        if r.select != "last":
            ranked = [self.history[-1][f"{r.select}_srcc_{d}"] for d in r.dimensions]
            score = float(np.mean([-1.0 if math.isnan(v) else v for v in ranked]))
        if score > self.best["score"]:
            state = {k: v.detach().cpu().clone() for k, v in self.averaged.state_dict().items()}
            self.best = {"score": score, "epoch": self.epoch, "network": state}
            self.write_checkpoint(self.folder, state, self.epoch + 1)
        self.epoch += 1
        self.save_state()
        if self.main:
            write_logs(self.folder, self.history)
        self.report("  ".join(f"{k} {v:.4g}" for k, v in self.history[-1].items() if v is not None))

    def finish(self) -> Run:
        """Test the selected weights, once, and write everything down."""
        self.write_checkpoint(self.folder / "last", self.averaged.state_dict(), self.epoch)
        sha256 = self.write_checkpoint(self.folder, self.best["network"], self.best["epoch"] + 1)
        network = copy.deepcopy(self.averaged)
        network.load_state_dict(self.best["network"])
        evaluation: dict[str, dict[str, Any]] = {}
        best: dict[str, dict[str, Any]] = {}
        if len(self.test_rows):
            scores = self.feed.predict(self.test_rows, network)
            if self.main:
                write_predictions(self.folder / PREDICTIONS, self.recipe, self.rows, self.test_rows, scores)
                evaluation = evaluate_side(
                    self.recipe, self.rows, self.test_rows, scores, self.bootstrap, self.report
                )
                best = best_of_each(self.history, self.recipe.dimensions)
                if best:
                    self.report(said_of_best(best))
                of = {"metric": self.config.name, "sha256": sha256, "config": config_digest(self.config)}
                written = json.dumps({**of, "figures": evaluation, "best_of_each": best}, indent=2)
                write_whole(self.folder / "evaluation.json", written)
        self.accelerator.wait_for_everyone()
        if self.main and self.recipe.cache is None:
            self.feed.discard()
        return Run(self.folder, self.history, evaluation, best)

    # -- files

    def write_checkpoint(self, folder: Path, state: dict[str, Tensor], epoch: int) -> str:
        """Write it, and return its checksum."""
        if self.main:
            r = self.recipe
            names = ", ".join(self.rows.names)
            provenance = {
                "labels": r.labels or f"unknown labels of {names} (the recipe does not say who gave them)",
                "license": r.license,
                "data": names,
                "split": r.split + (f", fold {r.fold} of {r.folds}" if r.folds else ""),
                "selection": "best epoch on the test side (optimistic)" if r.select == "test" else r.select,
                "epoch": str(epoch),
            }
            if is_tag(begun := named_weights(r.weights, self.config)):
                provenance["base_model"] = f"timm/{begun}"
            if isinstance(self.feed, ProbeFeed):
                state = self.feed.probe.folded(state)
            return save_checkpoint(
                folder, self.config.with_(provenance=provenance), state, half=self.recipe.half
            ).sha256
        return ""

    def save_state(self) -> None:
        """All that `load_state` needs, in one file that appears whole or not at all."""
        state = collect_state(self)
        if self.main:
            save_whole(self.folder / STATE, state)

    def load_state(self) -> None:
        if (self.folder / STATE).exists():
            restore_state(self, self.folder / STATE)
            step = f", batch {self.step + 1}" if self.step else ""
            self.report(f"resuming at epoch {self.epoch + 1}{step}")
