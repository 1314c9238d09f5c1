"""One network of a run: built for some rows of the data, trained, and the weights taken that are to be kept."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from rich.console import Console

from ..data.batches import SequenceDataset
from ..data.loading import LabelledData
from ..data.targets import Targets
from ..data.weights import scaled
from ..errors import InputError, argument
from ..models import (
    Lyra,
    LyraBothStrands,
    LyraBothStrandsForTokenClassification,
    LyraByPosition,
    LyraForTokenClassification,
)
from ..outputs import Output, RegressionOutput, SeveralOutputs
from ..settings.training import Hardware, Recipe
from .averaging import WeightAverages
from .callbacks import AtomicCheckpointIO, EpochProgress, FiniteLoss, History
from .graphed import GraphedDataModule, GraphedLyraModule, use_graphs
from .module import MONITOR, LyraDataModule, LyraModule
from .plan import FOLDS, common_length
from .strands import other_letters

CHECKPOINTS = "checkpoints"
FINISHED = "finished"  # an empty file beside the checkpoints of a network that needs no more training
SEEDS = 1_000_003  # from one network's seed to the next


@dataclass
class Rows:
    """Which rows a network is trained on, and by which it is validated: positions in the data."""

    train: np.ndarray
    val: np.ndarray


@dataclass
class Network:
    """A trained network.

    Attributes:
        model: in evaluation mode, on the device it was trained on; output: its scaling, for a regression.
        history: losses and scores, a row an epoch; seconds: spent in training.
    """

    model: Lyra
    output: Output | None
    history: list[dict[str, Any]]
    seconds: float


class Workshop:
    """Trains networks one after the other and keeps in a folder what an interrupted run needs to go on.

    Args:
        data: all rows.
        recipe: with everything said (see `plan`).
        out: the run's folder; resume: go on with what is in there.
        warn: told why there are no CUDA graphs, where there are none.
        first_callbacks: of the first network's training.
    """

    def __init__(
        self, data: LabelledData, recipe: Recipe, hardware: Hardware, out: Path, console: Console,
        warn: Callable[[str], None], *, resume: bool, first_callbacks: list[Callback],
    ) -> None:  # fmt: skip
        self.data, self.recipe, self.hardware, self.out, self.console = data, recipe, hardware, out, console
        self.warn, self.resume, self.callbacks = warn, resume, first_callbacks
        self.rows: list[dict[str, Any]] = []  # of the history, of all networks so far

    @property
    def networks_a_fit(self) -> int:
        return self.recipe.ensemble * (FOLDS if self.recipe.mix == "folds" else 1)

    def train(self, name: str, rows: Rows, index: int, several: bool) -> Network:
        """Trains the network of a name that is its own in this run.

        Args:
            index: of its seed; several: whether it is one of several, which the history names.

        Raises:
            InputError: anything that a user can put right.
            KeyboardInterrupt: on interrupt.
        """
        recipe = replace(self.recipe, seed=(self.recipe.seed + index * SEEDS) % 2**32)
        lightning.seed_everything(recipe.seed, verbose=False)
        module, loaders = build_module(self.data, recipe, rows)
        epochs = recipe.resolved_epochs(len(loaders.train) // loaders.batch_size + 1)
        history = History(self.out / "history.csv", {"network": name} if several else {}, self.rows)
        folder = self.out / CHECKPOINTS / str(index)
        trainer = make_trainer(folder, recipe, self.hardware, epochs, history, self.console)
        trainer.callbacks += self.callbacks  # type: ignore[attr-defined]
        self.callbacks = []
        if not (self.resume and (folder / FINISHED).exists()):
            last = folder / "last.ckpt"
            self._fit(trainer, module, loaders, last if self.resume and last.exists() else None)
            if trainer.is_global_zero:
                (folder / FINISHED).touch()
        kept = torch.load(folder / f"{recipe.keep}.ckpt", map_location="cpu", weights_only=True)
        if not history.rows:
            last_state = torch.load(folder / "last.ckpt", map_location="cpu", weights_only=True)["callbacks"]
            history.load_state_dict(last_state[history.state_key])
        module.take(kept)
        trained_on = trainer.strategy.root_device  # from which Lightning takes the module to the CPU
        module = module.to(trained_on if trained_on.type == "cuda" else "cpu").eval()
        self.rows = history.all_rows
        return Network(module.model, module.output, history.rows, history.seconds())

    def _fit(
        self, trainer: lightning.Trainer, module: LyraModule, loaders: LyraDataModule, checkpoint: Path | None
    ) -> None:
        if use_graphs(self.hardware.graphs, trainer):
            module, loaders = GraphedLyraModule(module, self.warn), GraphedDataModule(loaders)
            trainer.gradient_clip_val = None  # a recorded step clips by itself
        try:
            trainer.fit(module, datamodule=loaders, ckpt_path=checkpoint, weights_only=True)
        except SystemExit:  # Lightning's answer to an interrupt
            raise KeyboardInterrupt from None
        if trainer.interrupted:
            raise KeyboardInterrupt


def build_module(data: LabelledData, recipe: Recipe, rows: Rows) -> tuple[LyraModule, LyraDataModule]:
    """The model with its scaling from the training rows, and the batches, in whose weights these are 1 on average."""
    training, values = data.labels_of(rows.train), data.values
    output: Output | None = None
    weights = None
    weighted = None if data.weights is None else scaled(data.weights, rows.train)
    if data.targets.names:
        known = np.concatenate(values)
        if data.targets.task == "regression":
            used = None if weighted is None else weighted[rows.train]
            output = SeveralOutputs.fit(recipe.output, known[rows.train], used, data.transform)
            known = output.standardise(torch.from_numpy(known)).numpy()
        values = list(known.astype(np.float32)[:, None, :])
    elif data.targets.numeric:
        used = None if weighted is None else data.each(weighted, data.measured(rows.train))
        output = RegressionOutput.fit(recipe.output, training, used, data.transform)
        every = np.concatenate(values) if data.targets.per_residue else np.array(values)
        every = output.standardise(torch.from_numpy(every)).numpy()
        values = np.split(every, data.offsets[1:-1]) if data.targets.per_residue else list(every)
    elif recipe.class_weights == "balanced":
        counts = np.bincount(training, minlength=len(data.targets.classes))
        weights = torch.tensor(len(training) / (len(counts) * np.maximum(counts, 1)), dtype=torch.float32)
    train, val = (
        SequenceDataset(data.tokens, data.offsets, part, values, weighted, data.censored)
        for part in (rows.train, rows.val)
    )
    model = build_model(recipe, len(data.alphabet), data.targets, common_length(data))
    loaders = LyraDataModule(train, val, recipe.resolved_batch_size(len(train)), recipe.seed)
    complement = other_letters(data.alphabet) if recipe.strand == "augment" else None
    averages = WeightAverages(recipe.average) if recipe.average else None
    return LyraModule(model, data.targets, recipe, output, weights, complement, averages), loaders


def build_model(recipe: Recipe, d_input: int, targets: Targets, length: int | None) -> Lyra:
    """An untrained model for the task; `length` is that of all sequences, where the model is to know positions."""
    token, both = targets.per_residue, recipe.strand == "both"
    kind: Any = LyraForTokenClassification if token else Lyra
    if both:
        kind = LyraBothStrandsForTokenClassification if token else LyraBothStrands
    options: dict[str, Any] = {
        name: getattr(recipe, name) for name in ("d_model", "d_state", "dropout", "s4_lr", "pool", "bidirectional")
    }
    options["causal"] = not recipe.bidirectional  # so that what is trained one way can stream
    if recipe.positions:
        kind = LyraByPosition
        options["length"] = length
    if recipe.model == "paper":
        return kind.paper(d_input, targets.d_output, **options)
    layers: dict[str, Any] = {"num_pgc_layers": recipe.pgc_layers, "num_s4_layers": recipe.s4_layers}
    return kind(d_input, d_output=targets.d_output, **layers, **options)


def make_trainer(
    folder: Path, recipe: Recipe, hardware: Hardware, epochs: int, history: History | None, console: Console
) -> lightning.Trainer:
    """A trainer that keeps its checkpoints in a folder.

    Raises:
        InputError: Lightning cannot use the hardware so.
    """

    def fail(message: str) -> None:
        raise InputError(message)

    # Two, since save_last=True of Lightning 2.6 writes last.ckpt in the epochs alone in which the best one is written.
    best: list[Callback] = []
    if recipe.keep == "best" and recipe.patience is not None:
        checkpoint = ModelCheckpoint(
            dirpath=folder, filename="best", monitor=MONITOR, mode="max", save_on_train_epoch_end=True,
            enable_version_counter=False,
        )  # fmt: skip
        best = [EarlyStopping(MONITOR, mode="max", patience=recipe.patience, check_finite=False), checkpoint]
    last = ModelCheckpoint(
        dirpath=folder, filename="last", save_on_train_epoch_end=True, enable_version_counter=False
    )  # fmt: skip
    shown: list[Callback] = [] if history is None else [history, EpochProgress(console)]
    callbacks = [FiniteLoss(fail), *shown, *best, last]
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    try:
        return lightning.Trainer(
            accelerator=hardware.accelerator, devices=_devices(hardware.devices), strategy=hardware.strategy,
            precision=cast(Any, hardware.precision), max_epochs=epochs, gradient_clip_val=recipe.gradient_clip,
            callbacks=callbacks,
            plugins=[AtomicCheckpointIO()], logger=False, enable_progress_bar=False, enable_model_summary=False,
            use_distributed_sampler=False, num_sanity_val_steps=0, default_root_dir=folder,
        )  # fmt: skip
    except (MisconfigurationException, ValueError, TypeError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"{argument('accelerator')}, {argument('devices')}, {argument('strategy')} or {argument('precision')} "
            f"cannot be used: {reason}"
        ) from None


def _devices(text: str) -> int | str:
    return int(text) if text.isdigit() else text
