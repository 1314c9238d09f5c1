"""Training on one CUDA card, with steps that are CUDA graphs and batches that are made on the card.

A step of a small model takes a card a fraction of what Python needs to ask for it. So Lightning is handed many steps
at a time, as one batch of its own, and its hooks run between these; nothing in a step waits for the card.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any, cast

import lightning
import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch import Tensor

from ..data.batches import Batch, BucketSampler, SequenceDataset, SortedSampler
from ..data.resident import ResidentDataset
from ..errors import InputError, argument
from ..graphs import Replayed
from .module import LyraDataModule, LyraModule
from .steps import CudaGraphs, RecordedSteps

BATCHES_AT_A_TIME = 32


def why_not(trainer: lightning.Trainer) -> str | None:
    """Why steps cannot be CUDA graphs here, or None."""
    device = trainer.strategy.root_device
    if device.type != "cuda":
        return f"training needs a CUDA card for it, and runs on {device.type}"
    if trainer.world_size > 1 or not isinstance(trainer.strategy, SingleDeviceStrategy):
        return "it is for training in one process on one card"
    if getattr(trainer.precision_plugin, "scaler", None) is not None:
        return f"precision {trainer.precision} looks at the gradients in each step"
    return None


def use_graphs(wanted: bool | None, trainer: lightning.Trainer) -> bool:
    """Whether this run uses them; None says yes where they can be used.

    Raises:
        InputError: they are wanted and cannot be used.
    """
    reason = why_not(trainer)
    if wanted and reason is not None:
        raise InputError(f"{argument('graphs', True)}: {reason}; leave it out")
    return wanted is not False and reason is None


class GraphedLyraModule(LyraModule):
    """Trains like the module that it is made of, by steps that are recorded.

    Args:
        module: the untrained module.
        warn: told why steps are not replayed, if they cannot be.
    """

    def __init__(self, module: LyraModule, warn: Callable[[str], None]) -> None:
        super().__init__(
            module.model,
            module.targets,
            module.recipe,
            module.output,
            module.class_weights,
            module.complement,
            module.averages,
        )
        self.automatic_optimization = False  # Lightning's word for: training_step does it all
        self.warn = warn
        self.steps: RecordedSteps | None = None
        self.replayed: Replayed | None = None
        self.losses = torch.zeros(())  # sum over the sequences since it was last logged

    def total_steps(self) -> int:
        loaders = cast(GraphedDataModule, self.trainer.datamodule)  # type: ignore[attr-defined]
        return loaders.train_dataloader().count * cast(int, self.trainer.max_epochs)

    def optimizer_options(self) -> dict[str, Any]:
        return {"fused": True, "capturable": True}

    def record_steps(self, data: ResidentDataset) -> RecordedSteps:
        """Before the first step, and so after what a resumed run has loaded."""
        self.losses = torch.zeros((), device=self.device)
        optimizer = self.torch_optimizer()
        for group in optimizer.param_groups:  # which have the options of their checkpoint
            rate = torch.tensor(group["lr"], dtype=torch.float32, device=self.device)  # read by graphs where it lies
            group |= {**self.optimizer_options(), "lr": rate}
        for state in optimizer.state.values():
            state["step"] = state["step"].to(self.device)
        return RecordedSteps(lambda rows, width: self.step(data.batch(rows, width)), self.recorder(), self.warn)

    def recorder(self) -> Any:
        return CudaGraphs(self.device)

    def torch_optimizer(self) -> torch.optim.Optimizer:
        return cast(torch.optim.Optimizer, self.optimizers(use_pl_optimizer=False))

    def step(self, batch: Batch) -> None:
        """One step of the optimizer, all of it on the card."""
        optimizer = self.torch_optimizer()
        optimizer.zero_grad(set_to_none=True)
        loss = self.batch_loss(batch)
        with torch.autocast(self.device.type, enabled=False):  # Lightning has it on for all of training_step
            loss.backward()
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            torch.nn.utils.clip_grad_norm_(parameters, self.recipe.gradient_clip)
            optimizer.step()
            self.losses.add_(loss.detach(), alpha=len(batch))

    def training_step(self, group: Group, index: int) -> None:  # type: ignore[override]
        if index == 0:
            self.seed_epoch()
        self.steps = self.steps or self.record_steps(group.data)
        counted = cast(LightningOptimizer, self.optimizers())
        schedule = cast(torch.optim.lr_scheduler.LRScheduler, self.lr_schedulers())
        for rows, width in group.batches:
            counted._on_before_step()  # what Lightning counts as trainer.global_step
            self.steps(rows, width)
            schedule.step()
            counted._on_after_step()
            self.after_step()
        loss = self.losses / len(group)
        self.losses.zero_()
        self.log("train_loss", loss, on_step=False, on_epoch=True, batch_size=len(group))

    def on_train_batch_end(self, *_: Any) -> None:
        """Lightning's batch is many steps here, each with its own end."""

    def validation_step(self, group: Group, index: int) -> None:  # type: ignore[override]
        for rows, width in group.batches:
            super().validation_step(group.data.batch(rows, width), index)

    def outputs(self, batch: Batch) -> Tensor:
        if self.replayed is None:
            self.replayed = Replayed(self.model, self.warn)
        return self.replayed(batch)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Leaves the checkpoint that a run without graphs leaves, which can go on with it."""
        super().on_save_checkpoint(checkpoint)
        for state in checkpoint["optimizer_states"]:
            for group in state["param_groups"]:
                group |= {**super().optimizer_options(), "lr": float(group["lr"]), "capturable": False}
        for state in checkpoint["lr_schedulers"]:
            state["_last_lr"] = [float(rate) for rate in state["_last_lr"]]


class Group:
    """Some batches in a row, as rows of data that lie on the card."""

    def __init__(self, data: ResidentDataset, rows: list[list[int]]) -> None:
        self.data, self.batches = data, data.rows(rows)

    def __len__(self) -> int:
        return sum(len(rows) for rows, _ in self.batches)


class GroupLoader:
    """A group at a time in the order of a sampler, of as many batches in every epoch."""

    batch_sampler = None  # what Lightning asks of whatever has a `sampler`, whose set_epoch it calls

    def __init__(self, dataset: SequenceDataset, sampler: BucketSampler | SortedSampler) -> None:
        self.dataset, self.sampler, self.count = dataset, sampler, len(sampler)

    def __len__(self) -> int:
        return -(-self.count // BATCHES_AT_A_TIME)

    def __iter__(self) -> Iterator[tuple[SequenceDataset, list[list[int]]]]:
        rows = islice(iter(self.sampler), self.count)
        while group := list(islice(rows, BATCHES_AT_A_TIME)):
            yield self.dataset, group


class GraphedDataModule(LyraDataModule):
    """The batches of the module that it is made of, in groups, made on the card."""

    def __init__(self, loaders: LyraDataModule) -> None:
        super().__init__(loaders.train, loaders.val, loaders.batch_size, loaders.seed)
        self.resident: dict[SequenceDataset, ResidentDataset] = {}

    def train_dataloader(self) -> GroupLoader:  # type: ignore[override]
        return GroupLoader(self.train, self.train_sampler())

    def val_dataloader(self) -> GroupLoader:  # type: ignore[override]
        return GroupLoader(self.val, self.val_sampler())

    def transfer_batch_to_device(  # type: ignore[override]
        self, batch: tuple[SequenceDataset, list[list[int]]], device: torch.device, dataloader_idx: int
    ) -> Group:
        dataset, rows = batch
        if dataset not in self.resident:
            self.resident[dataset] = ResidentDataset(dataset, device)
        return Group(self.resident[dataset], rows)
