"""History, progress and safe checkpoints."""

from __future__ import annotations

import csv
import io
import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.plugins.io import TorchCheckpointIO
from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from ..errors import argument
from ..files import atomic_path, atomic_text
from ..metrics import METRICS
from ..scores import DETAILS, number
from .module import LyraModule


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its name and renames it; reads tensors and plain values, no pickled code."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | os.PathLike, storage_options: Any = None) -> None:
        whole = io.BytesIO()  # a full disk is an OSError for Python's own files, but not for torch.save
        torch.save(checkpoint, whole)
        with atomic_path(Path(path)) as unfinished:
            unfinished.write_bytes(whole.getbuffer())

    def load_checkpoint(
        self, path: str | os.PathLike, map_location: Any = None, weights_only: bool | None = True
    ) -> dict[str, Any]:
        return torch.load(path, map_location=map_location or "cpu", weights_only=True)


class History(Callback):
    """Keeps one row of losses and scores per epoch and writes them to a CSV file after each.

    The rows are part of the checkpoint, so a resumed run has them all.

    Args:
        path: of the file.
        facts: what stands before the epoch in each row.
        earlier: rows of networks before this one, which the file keeps.
    """

    # Not Lightning's CSVLogger: its file is called metrics.csv, with a column for the step and all columns in the order
    # of the alphabet; it is appended to in place, so that a full disk leaves half a row; and a resumed run deletes it.

    def __init__(self, path: Path, facts: dict[str, Any], earlier: list[dict[str, Any]]) -> None:
        self.path, self.facts, self.earlier = path, facts, earlier
        self.rows: list[dict[str, Any]] = []
        self._before = 0.0  # seconds trained before a resume
        self._start = time.monotonic()

    @property
    def all_rows(self) -> list[dict[str, Any]]:
        return self.earlier + self.rows

    def seconds(self) -> float:
        return self._before + time.monotonic() - self._start

    def on_fit_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._start = time.monotonic()

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        assert isinstance(pl_module, LyraModule)
        row: dict[str, Any] = self.facts | {
            "epoch": trainer.current_epoch + 1,
            "train_loss": float(trainer.callback_metrics["train_loss"]),
            "val_loss": float(trainer.callback_metrics["val_loss"]),
        }
        row |= {f"val_{name}": pl_module.scores[name] for name in METRICS[pl_module.targets.task]}
        self.rows.append(row | {"seconds": round(self.seconds(), 1)})
        if trainer.is_global_zero:
            write_rows(self.path, self.all_rows)

    def state_dict(self) -> dict[str, Any]:
        return {"rows": self.rows, "seconds": self.seconds()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.rows, self._before = list(state["rows"]), state["seconds"]


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    """Rows with the same keys as a CSV file; None is an empty cell."""
    with atomic_text(path) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(rows[0])
        writer.writerows(map(_cell, row.values()) for row in rows)


def _cell(value: float | str | None) -> str:
    return "" if value is None else value if isinstance(value, str) else f"{value:.7g}"


class EpochProgress(Callback):
    """One bar over the whole run with the time left; where the output is no terminal, a line per epoch."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.progress: Progress | None = None

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if not trainer.is_global_zero or not self.console.is_terminal:
            return
        columns = (
            TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(),
            TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(), TextColumn("{task.fields[scores]}"),
        )  # fmt: skip
        self.progress = Progress(*columns, console=self.console)
        assert isinstance(pl_module, LyraModule)
        total = pl_module.total_steps()
        self.task = self.progress.add_task("training", total=total, completed=trainer.global_step, scores="")
        self.progress.start()

    def on_train_batch_end(self, trainer: lightning.Trainer, *_: Any) -> None:
        if self.progress is not None:
            self.progress.update(self.task, completed=trainer.global_step)

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        assert isinstance(pl_module, LyraModule)
        scores = "  ".join(
            f"{name} {number(name, value)}"
            for name, value in pl_module.scores.items()
            if value is not None and name not in DETAILS
        )
        epoch = f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}"
        if self.progress is not None:
            self.progress.update(self.task, description=epoch, scores=f"validation {scores}")
        elif trainer.is_global_zero:
            loss = float(trainer.callback_metrics["train_loss"])
            self.console.print(f"{epoch}  train loss {loss:.4f}  validation {scores}", highlight=False, soft_wrap=True)

    def on_train_end(self, *_: Any) -> None:
        self._stop()

    def on_exception(self, *_: Any) -> None:
        self._stop()

    def _stop(self) -> None:
        if self.progress is not None:
            self.progress.stop()
            self.progress = None


class FiniteLoss(Callback):
    """Stops with a plain message once the loss is no longer a number."""

    def __init__(self, fail: Callable[[str], None]) -> None:
        self.fail = fail

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if not math.isfinite(float(trainer.callback_metrics["train_loss"])):
            self.fail(f"the loss is not finite after epoch {trainer.current_epoch + 1}; try a lower {argument('lr')}")


class AfterFirstEpoch(Callback):
    """Calls a function once, when the first epoch is over and its checkpoint is written."""

    def __init__(self, function: Callable[[], None]) -> None:
        self.function: Callable[[], None] | None = function

    def on_train_epoch_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if trainer.current_epoch > 0:
            self._call()

    def on_train_end(self, *_: Any) -> None:
        self._call()

    def _call(self) -> None:
        if self.function is not None:
            self.function()
            self.function = None
