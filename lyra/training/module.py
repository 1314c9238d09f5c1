"""The LightningModule: loss, validation scores, optimizer and schedule."""

from __future__ import annotations

from typing import Any

import lightning
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from ..data.batches import IGNORED, Batch, BucketSampler, SequenceDataset, SortedSampler, max_tokens_per_batch
from ..data.targets import Targets
from ..models import Lyra, parameter_groups
from ..outputs import Output, RegressionOutput
from ..prediction import converter
from ..scoring import score
from ..settings.data import BATCH_SIZE
from ..settings.training import Recipe
from . import selection
from .averaging import WeightAverages, put
from .loss import Loss
from .strands import turn_at_random

MONITOR = "best"  # grows with each epoch that is better than all before, and is 0 for the others


class LyraModule(lightning.LightningModule):
    """Trains a Lyra model.

    Args:
        complement: `other_letters` of the alphabet, to train on either strand at random; None for one strand.

    Attributes:
        model: the network.
        output: the learned output scale of a regression, else None.
        averages: of the weights, which are validated and kept in their place; None keeps the weights themselves.
        scores: the latest validation scores.
    """

    def __init__(
        self,
        model: Lyra,
        targets: Targets,
        recipe: Recipe,
        output: Output | None,
        class_weights: Tensor | None = None,
        complement: Tensor | None = None,
        averages: WeightAverages | None = None,
    ) -> None:
        super().__init__()
        self.model, self.targets, self.recipe, self.output = model, targets, recipe, output
        self.class_weights: Tensor | None
        self.complement: Tensor | None
        self.register_buffer("class_weights", class_weights, persistent=False)
        self.averages = averages
        self.register_buffer("complement", complement, persistent=False)
        self.scores: dict[str, float | None] = {}
        self._best: list[selection.Key] = []  # each epoch that was better than all before
        self._validation: list[tuple[Tensor, Tensor, Tensor]] = []

    @property
    def loss(self) -> Loss:
        return Loss(self.output, self.class_weights)  # made anew, for the module may move to another device

    def outputs(self, batch: Batch) -> Tensor:
        """The model's raw outputs, for validation."""
        return self.model(batch.tokens, lengths=batch.lengths)

    def batch_loss(self, batch: Batch) -> Tensor:
        """Of a training batch."""
        if self.complement is not None:
            batch = turn_at_random(batch, self.complement)
        return self.loss.step(self.model(batch.tokens, lengths=batch.lengths), batch)

    def seed_epoch(self) -> None:
        """Each epoch draws dropout and strands from its own seed, so that a run resumed between epochs is the same run.

        In an epoch's first step, not in on_train_epoch_start: Lightning leaves that out after a resume.
        """
        seed = self.recipe.seed * 1_000_003 + self.current_epoch * self.trainer.world_size + self.global_rank
        torch.manual_seed(seed)

    def training_step(self, batch: Batch, index: int) -> Tensor:
        if index == 0:
            self.seed_epoch()
        loss = self.batch_loss(batch)
        self.log("train_loss", loss, on_step=False, on_epoch=True, sync_dist=True, batch_size=len(batch))
        return loss

    def on_train_batch_end(self, *_: Any) -> None:
        self.after_step()

    def after_step(self) -> None:
        """To be called after each step of the optimizer."""
        if self.averages is not None:
            self.averages.update(self)

    def on_validation_start(self) -> None:
        if self.averages is not None:
            self.averages.swap_in(self)

    def on_validation_end(self) -> None:
        if self.averages is not None:
            self.averages.swap_out(self)

    def validation_step(self, batch: Batch, index: int) -> None:
        raw = self.outputs(batch)
        loss = self.loss.sums(raw, batch)
        assert batch.targets is not None
        if self.targets.names:
            convert = converter(self.targets, self.output)
            true = batch.targets.view(len(raw), -1).double()
            predictions, true = convert(raw), true if self.output is None else self.output.in_units(true)
        elif isinstance(self.output, RegressionOutput):  # scored as standardised, which changes the RMSE alone
            real: Any = slice(None) if batch.censored is None else batch.censored == 0
            real = ~batch.targets.isnan() if self.targets.per_residue else real
            predictions, true = self.output(raw[..., 0][real].float()).double(), batch.targets[real].double()
            if self.output.transform is not None:  # but for another scale
                predictions, true = self.output.in_units(predictions), self.output.in_units(true)
        else:
            real = batch.targets != IGNORED if self.targets.task == "token" else slice(None)
            predictions, true = converter(self.targets, None)(raw)[real], batch.targets[real]
        self._validation.append((predictions, true, loss))  # on its device: reading it would wait for a card

    def on_validation_epoch_end(self) -> None:
        # Every process validates on all of the data: the scores, and what follows from them, agree without talk.
        predictions = [part.cpu().numpy() for part, _, _ in self._validation]
        targets = [part.cpu().numpy() for _, part, _ in self._validation]
        total, weight = torch.stack([loss for _, _, loss in self._validation]).cpu().sum(0)
        self._validation = []
        task = self.targets.task
        self.scores = score(self.targets, np.concatenate(predictions), np.concatenate(targets))
        own_units = self.targets.names or getattr(self.output, "transform", None) is not None
        if isinstance(self.output, RegressionOutput) and not own_units:
            for name in ("rmse", "mae"):
                if (error := self.scores.get(name)) is not None:
                    self.scores[name] = error * self.output.std
        loss = float((total / weight).float())  # as Lightning hands it to the history
        self.log("val_loss", loss)
        key = selection.key(task, {"val_loss": loss, **{f"val_{name}": value for name, value in self.scores.items()}})
        better = not self._best or key > self._best[-1]
        if better:
            self._best.append(key)
        self.log(MONITOR, float(len(self._best)) if better else 0.0)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["best"] = [list(key) for key in self._best]
        checkpoint["averages"] = None if self.averages is None else self.averages.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self._best = [(score, loss) for score, loss in checkpoint["best"]]
        if self.averages is not None:
            self.averages.load_state_dict(checkpoint["averages"])

    def take(self, checkpoint: dict[str, Any]) -> None:
        """The weights that were validated when the checkpoint was written."""
        self.load_state_dict(checkpoint["state_dict"])
        if checkpoint["averages"] is not None:
            put(self, checkpoint["averages"]["averages"])

    def total_steps(self) -> int:
        """Of the optimizer, in all epochs together."""
        return int(self.trainer.estimated_stepping_batches)

    def optimizer_options(self) -> dict[str, Any]:
        # Fused, the step is one pass over the weights, but Lightning clips no gradients for it in mixed precision.
        return {"fused": not str(self.trainer.precision).endswith("mixed")}

    def configure_optimizers(self) -> Any:
        groups = parameter_groups(self.model, lr=self.recipe.lr, weight_decay=self.recipe.weight_decay)
        if self.output is not None and (ends := list(self.output.parameters())):
            groups.append({"params": ends, "lr": self.recipe.lr, "weight_decay": 0.0})
        optimizer = torch.optim.AdamW(groups, lr=self.recipe.lr, betas=(0.9, 0.99), **self.optimizer_options())
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer,
            max_lr=[group["lr"] for group in optimizer.param_groups],
            total_steps=self.total_steps() + 1,
            pct_start=self.recipe.warmup,
            cycle_momentum=False,
            div_factor=20,
            final_div_factor=100,
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class LyraDataModule(lightning.LightningDataModule):
    """Training and validation batches by length; the test part is not in here."""

    def __init__(self, train: SequenceDataset, val: SequenceDataset, batch_size: int, seed: int) -> None:
        super().__init__()
        self.train, self.val, self.batch_size, self.seed = train, val, batch_size, seed

    def train_sampler(self) -> BucketSampler:
        rank, world_size = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        limit = max_tokens_per_batch(self.batch_size)
        return BucketSampler(self.train.lengths, self.batch_size, limit, self.seed, rank, world_size)

    def train_dataloader(self) -> DataLoader:
        return DataLoader(self.train, sampler=self.train_sampler(), batch_size=None)

    def val_sampler(self) -> SortedSampler:
        size = max(self.batch_size, BATCH_SIZE)
        return SortedSampler(self.val.lengths, size, max_tokens_per_batch(size))

    def val_dataloader(self) -> DataLoader:
        return DataLoader(self.val, sampler=self.val_sampler(), batch_size=None)

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        return batch.to(device)
