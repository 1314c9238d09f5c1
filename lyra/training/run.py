"""A whole training run: data, model, fit, and the folder that it leaves."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import lightning
import numpy as np
import torch
from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from rich.console import Console

from ..data.batches import SequenceDataset
from ..data.loading import DataOptions, LabelledData, load_labelled
from ..data.tables import readable
from ..data.targets import Targets
from ..errors import InputError
from ..files import check_folder, write_json
from ..models import Lyra, LyraForTokenClassification
from ..outputs import RegressionOutput
from .callbacks import AtomicCheckpointIO, EpochProgress, FiniteLoss, History
from .module import MONITOR, LyraDataModule, LyraModule
from .recipe import Hardware, Recipe
from .results import REPORT, Results, write_results

CHECKPOINTS = "checkpoints"
SETTINGS = "run.json"


def train(
    path: str | Path,
    out: str | Path,
    data_options: DataOptions,
    recipe: Recipe,
    hardware: Hardware,
    *,
    resume: bool = False,
    overwrite: bool = False,
    console: Console | None = None,
    title: str | None = None,
) -> Results | None:
    """Trains on a table and writes model, scores, predictions, history, pictures and report into `out`.

    The best epoch is chosen on the validation part; the test part is first read when training is over.

    Args:
        resume: go on from the last finished epoch of the same run in `out`.
        overwrite: replace what is in `out`.
        title: heading of the report; the data's name by default.

    Returns:
        the results, or None in a process that is not the first of several.

    Raises:
        InputError: anything that a user can put right.
        KeyboardInterrupt: on interrupt; `resume` then goes on from the last finished epoch.
    """
    out, console = Path(out), console or Console(stderr=True)
    quiet = getattr(rank_zero_only, "rank", 0) != 0
    say: Callable[[str], None] = (
        (lambda text: None) if quiet else (lambda text: console.print(text, highlight=False, soft_wrap=True))
    )
    recipe.check()
    settings = {"data": fingerprint(path), "data_options": data_options.to_json(), "recipe": recipe.to_json()}
    if not quiet:
        prepare_folder(out, settings, resume, overwrite)
    data = load_labelled(path, data_options, lambda text: say(f"warning: {text}"))
    say(describe(data))

    lightning.seed_everything(recipe.seed, verbose=False)
    module, loaders = build_module(data, recipe)
    steps_per_epoch = len(loaders.train) // loaders.batch_size + 1
    epochs = recipe.resolved_epochs(steps_per_epoch)
    n_parameters = sum(p.numel() for p in module.model.parameters())
    say(
        f"model: {recipe.model}, {n_parameters:,} parameters; at most {epochs} epochs of batches of "
        f"{loaders.batch_size}"
    )
    history = History(out / "history.csv")
    trainer = make_trainer(out, recipe, hardware, epochs, history, console)
    if not quiet:
        write_json(out / SETTINGS, settings)
    last = out / CHECKPOINTS / "last.ckpt"
    fit(trainer, module, loaders, last if resume and last.exists() else None)
    if not trainer.is_global_zero:
        return None

    assert isinstance(trainer.checkpoint_callback, ModelCheckpoint)
    best = trainer.checkpoint_callback.best_model_path
    module.load_state_dict(torch.load(best, map_location="cpu", weights_only=True)["state_dict"])
    results = write_results(out, module.cpu().eval(), data, recipe, history, title or Path(path).name)
    shutil.rmtree(out / CHECKPOINTS, ignore_errors=True)
    return results


def fingerprint(path: str | Path) -> dict[str, str]:
    """Name and contents of the data, so that a run is only resumed on the same."""
    with readable(path) as file:
        return {"name": file.name, "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}


def prepare_folder(out: Path, settings: dict[str, Any], resume: bool, overwrite: bool) -> None:
    """Sees to it that no other run's files are mixed with this one's.

    Raises:
        InputError: `out` holds another run and neither `resume` nor `overwrite` was given, or there is nothing to
            resume, or the settings differ from those of the run to resume.
    """
    if resume and not out.is_file():
        check_resumable(out, settings)
        return
    check_folder(out, SETTINGS, overwrite, "--resume goes on with it, --overwrite replaces it")
    if out.is_dir() and any(out.iterdir()):
        shutil.rmtree(out)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{out}: cannot be made: {error.strerror}; give another --out") from None


def check_resumable(out: Path, settings: dict[str, Any]) -> None:
    try:
        before = json.loads((out / SETTINGS).read_text())
    except (OSError, ValueError):
        raise InputError(f"{out}: has no run to resume; leave --resume out") from None
    if (out / REPORT).exists():
        raise InputError(f"{out}: the run is finished; give another --out, or --overwrite instead of --resume")
    for group in settings:
        old, new = before.get(group), settings[group]
        if old != new:
            names = [name for name in new if old.get(name) != new[name]] if isinstance(new, dict) else [group]
            raise InputError(
                f"{out}: the run to resume had other settings ({', '.join(names)}); give the same ones, "
                "or --overwrite instead of --resume"
            )


def describe(data: LabelledData) -> str:
    sizes = ", ".join(f"{len(data.rows(part)):,} {part}" for part in ("train", "val", "test"))
    lengths = np.diff(data.offsets)
    span = f"{lengths.min()}" if lengths.min() == lengths.max() else f"{lengths.min()} to {lengths.max()}"
    classes = f" with {len(data.targets.classes)} classes" if data.targets.classes else ""
    return (
        f"data: {sizes}; {data.alphabet.name}, length {span}; {data.targets.task}{classes} of {data.source['target']}"
    )


def build_module(data: LabelledData, recipe: Recipe) -> tuple[LyraModule, LyraDataModule]:
    """The model with its scaling from the training part, and the batches."""
    parts = {
        name: SequenceDataset(data.tokens, data.offsets, data.rows(name), data.values) for name in ("train", "val")
    }
    training = np.concatenate([np.atleast_1d(data.values[i]) for i in data.rows("train")])
    output = weights = None
    if data.targets.task == "regression":
        output = RegressionOutput.fit(recipe.output, training)
    elif recipe.class_weights == "balanced":
        counts = np.bincount(training, minlength=len(data.targets.classes))
        weights = torch.tensor(len(training) / (len(counts) * np.maximum(counts, 1)), dtype=torch.float32)
    model = build_model(recipe, len(data.alphabet), data.targets)
    batch_size = recipe.resolved_batch_size(len(parts["train"]))
    loaders = LyraDataModule(parts["train"], parts["val"], batch_size, recipe.seed)
    return LyraModule(model, data.targets, recipe, output, weights), loaders


def build_model(recipe: Recipe, d_input: int, targets: Targets) -> Lyra:
    """An untrained model for the task."""
    kind = LyraForTokenClassification if targets.task == "token" else Lyra
    options: dict[str, Any] = {
        name: getattr(recipe, name) for name in ("d_model", "d_state", "dropout", "s4_lr", "pool", "bidirectional")
    }
    if recipe.model == "paper":
        return kind.paper(d_input, targets.d_output, **options)
    layers: dict[str, Any] = {"num_pgc_layers": recipe.pgc_layers, "num_s4_layers": recipe.s4_layers}
    return kind(d_input, d_output=targets.d_output, **layers, **options)


def make_trainer(
    out: Path, recipe: Recipe, hardware: Hardware, epochs: int, history: History, console: Console
) -> lightning.Trainer:
    def fail(message: str) -> None:
        raise InputError(message)

    checkpoints = ModelCheckpoint(
        dirpath=out / CHECKPOINTS, filename="best", monitor=MONITOR, mode="max", save_top_k=1, save_last=True,
        save_on_train_epoch_end=True, enable_version_counter=False,
    )  # fmt: skip
    stopping = EarlyStopping(MONITOR, mode="max", patience=recipe.patience, check_finite=False)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    try:
        return lightning.Trainer(
            accelerator=hardware.accelerator, devices=_devices(hardware.devices), strategy=hardware.strategy,
            precision=cast(Any, hardware.precision), max_epochs=epochs, gradient_clip_val=recipe.gradient_clip,
            callbacks=[FiniteLoss(fail), history, EpochProgress(console), stopping, checkpoints],
            plugins=[AtomicCheckpointIO()], logger=False, enable_progress_bar=False, enable_model_summary=False,
            use_distributed_sampler=False, num_sanity_val_steps=0, default_root_dir=out,
        )  # fmt: skip
    except (MisconfigurationException, ValueError, TypeError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"--accelerator, --devices, --strategy or --precision cannot be used: {reason}") from None


def _devices(text: str) -> int | str:
    return int(text) if text.isdigit() else text


def fit(trainer: lightning.Trainer, module: LyraModule, loaders: LyraDataModule, checkpoint: Path | None) -> None:
    """trainer.fit, with an interrupt raised as KeyboardInterrupt once everything is closed."""
    try:
        trainer.fit(module, datamodule=loaders, ckpt_path=checkpoint, weights_only=True)
    except SystemExit:  # Lightning's answer to an interrupt
        raise KeyboardInterrupt from None
    if trainer.interrupted:
        raise KeyboardInterrupt
