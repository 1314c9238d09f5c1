"""A whole training run: data, model, fit, and the folder that it leaves."""

from __future__ import annotations

import contextlib
import json
import logging
import re
import shutil
import warnings
from collections.abc import Callable, Collection
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
from ..data.loading import LabelledData, load_with_wild_type
from ..data.sources import Source
from ..data.targets import Targets
from ..data.wild_types import read_wild_type
from ..errors import InputError, argument
from ..files import (
    check_folder,
    check_no_file,
    check_outside,
    claimed_folder,
    commit_replacement,
    remove_unfinished,
    replaced_content,
    write_json,
)
from ..models import Lyra, LyraForTokenClassification
from ..outputs import Output, RegressionOutput, SeveralOutputs
from ..scores import Results
from ..settings.data import DataOptions
from ..settings.training import Hardware, Recipe
from . import effects, selection
from .callbacks import AfterFirstEpoch, AtomicCheckpointIO, EpochProgress, FiniteLoss, History
from .graphed import GraphedDataModule, GraphedLyraModule, use_graphs
from .module import MONITOR, LyraDataModule, LyraModule
from .results import REPORT, write_results

OWN = re.compile(  # all that a run leaves in its folder, and what is in there while it goes on
    r"model/(config\.json|model\.safetensors|README\.md|\.gitattributes)|checkpoints/[^/]+\.ckpt|(run|metrics)\.json|"
    r"(history|predictions)\.csv|report\.html|(along_sequences|learning_curve|confusion|epistasis|summary|predicted_vs_measured)\.png"
)
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
    given: Collection[str] = (),
) -> Results | None:
    """Trains on a table and writes model, scores, predictions, history, pictures and report into `out`.

    The best epoch is chosen on the validation part; the test part is first read when training is over.

    Args:
        resume: go on from the last finished epoch of the same run in `out`.
        overwrite: replace what is in `out`.
        title: heading of the report; the data's name by default.
        given: names of the settings that the user gave, of which each must have an effect.

    Returns:
        the results, or None in a process that is not the first of several.

    Raises:
        InputError: anything that a user can put right.
        KeyboardInterrupt: on interrupt; `resume` then goes on from the last finished epoch.
    """
    out, console = Path(out), console or Console(stderr=True)
    quiet = getattr(rank_zero_only, "rank", 0) != 0

    def say(text: str) -> None:
        if not quiet:
            console.print(text, highlight=False, markup=False, emoji=False, soft_wrap=True)

    def warn(text: str) -> None:
        say(f"warning: {text}")

    if resume and overwrite:
        raise InputError(
            f"{argument('resume', True)} {argument('overwrite', True)}: go on with the run in {argument('out')}, or "
            "replace it; leave one out"
        )
    recipe.check()
    data_options.check()
    wild_type = read_wild_type(data_options.wild_type, warn)
    effects.check_before_reading(given, recipe)
    check_no_file(out)
    with contextlib.nullcontext() if quiet else claimed_folder(out):
        if not quiet and not resume:
            check_folder(
                out,
                SETTINGS,
                OWN,
                overwrite,
                f"{argument('resume', True)} goes on with it, {argument('overwrite', True)} replaces it",
            )
        source = Source(path)
        settings = {
            "data": {"name": Path(source.name).name, "sha256": source.sha256()},
            # the wild type itself, in case that its file changes before the run is resumed
            "data_options": {**data_options.to_json(), "wild_type": wild_type},
            "recipe": recipe.to_json(),
        }
        if not quiet and resume:
            check_resumable(out, settings)
        data = load_with_wild_type(source, data_options, wild_type, warn)
        effects.check_with_data(given, data, data_options.unlabelled)
        describe(data, say)

        lightning.seed_everything(recipe.seed, verbose=False)
        module, loaders = build_module(data, recipe)
        epochs = recipe.resolved_epochs(len(loaders.train) // loaders.batch_size + 1)
        parameters = sum(parameter.numel() for parameter in module.model.parameters())
        size = loaders.batch_size
        say(f"model: {recipe.model}, {parameters:,} parameters; at most {epochs} epochs of batches of {size}")
        history = History(out / "history.csv")
        trainer = make_trainer(out, recipe, hardware, epochs, history, console)
        if source.stream and trainer.world_size > 1:
            raise InputError(f"{source}: can be read by one process only; give a file, or {argument('devices', 1)}")
        graphs = use_graphs(hardware.graphs, trainer)
        if graphs:
            module, loaders = GraphedLyraModule(module, warn), GraphedDataModule(loaders)
            trainer.gradient_clip_val = None  # a recorded step clips by itself
        last = out / CHECKPOINTS / "last.ckpt"
        if quiet or resume:
            if not quiet:
                remove_unfinished(out)
                trainer.callbacks.append(AfterFirstEpoch(lambda: commit_replacement(out)))  # type: ignore[attr-defined]
            fit(trainer, module, loaders, last if resume and last.exists() else None)
        else:
            for name, read in ((None, source.file()), ("wild_type", data_options.wild_type or "")):
                check_outside(out, read, name)
            with replaced_content(out) as commit:
                trainer.callbacks.append(AfterFirstEpoch(commit))  # type: ignore[attr-defined]
                write_json(out / SETTINGS, settings | {"graphs": graphs})
                fit(trainer, module, loaders, None)
        if not trainer.is_global_zero:
            return None

        assert isinstance(trainer.checkpoint_callback, ModelCheckpoint)
        best = trainer.checkpoint_callback.best_model_path
        module.load_state_dict(torch.load(best, map_location="cpu", weights_only=True)["state_dict"])
        trained_on = trainer.strategy.root_device  # from which Lightning takes the module to the CPU
        module = module.to(trained_on if trained_on.type == "cuda" else "cpu").eval()
        results = write_results(out, module, data, recipe, history, title or Path(source.name).name, graphs, warn)
        for part, name in results.one_class.items():
            warn(
                f"on the {part} part every prediction is {name}, so MCC is 0 or undefined; AUROC and AUPRC "
                "tell whether the probabilities rank the classes all the same"
            )
        shutil.rmtree(out / CHECKPOINTS, ignore_errors=True)
        return results


def check_resumable(out: Path, settings: dict[str, Any]) -> None:
    try:
        before = json.loads((out / SETTINGS).read_text())
    except (OSError, ValueError):
        raise InputError(f"{out}: has no run to resume; leave {argument('resume', True)} out") from None
    if (out / REPORT).exists():
        raise InputError(
            f"{out}: the run is finished; give another {argument('out')}, or {argument('overwrite', True)} instead of "
            f"{argument('resume', True)}"
        )
    for group in settings:
        old, new = before.get(group), settings[group]
        if old != new:
            names = [name for name in new if old.get(name) != new[name]] if isinstance(new, dict) else [group]
            raise InputError(
                f"{out}: the run to resume had other settings ({', '.join(names)}); give the same ones, "
                f"or {argument('overwrite', True)} instead of {argument('resume', True)}"
            )


def describe(data: LabelledData, say: Callable[[str], None]) -> None:
    """Says what was read, what was guessed, and what there is to train on, a line each."""
    say(f"rows: {data.rows_read}")
    if data.guesses:
        say(f"guessed: {'; '.join(data.guesses)}")
    for note in data.notes:
        say(note)
    sizes = ", ".join(f"{len(data.rows(part)):,} {part}" for part in ("train", "val", "test"))
    lengths = np.diff(data.offsets)
    span = f"{lengths.min()}" if lengths.min() == lengths.max() else f"{lengths.min()} to {lengths.max()}"
    classes = f" with {len(data.targets.classes)} classes" if data.targets.classes else ""
    say(f"data: {sizes}; {data.alphabet.name}, length {span}; {data.targets.task}{classes} of {data.source.target}")
    if (problem := selection.undefined_because(data.targets.task, data.labels("val"))) is not None:
        say(f"warning: {problem}, so the epoch to keep is chosen by the validation loss")


def build_module(data: LabelledData, recipe: Recipe) -> tuple[LyraModule, LyraDataModule]:
    """The model with its scaling from the training part, and the batches."""
    training, values = data.labels("train"), data.values
    output: Output | None = None
    weights = None
    if data.targets.names:
        known = np.concatenate(values)
        rows = data.rows("train")
        if data.targets.task == "regression":
            weighted = None if data.weights is None else data.weights[rows]
            output = SeveralOutputs.fit(recipe.output, known[rows], weighted, data.transform)
            known = output.standardise(torch.from_numpy(known)).numpy()
        values = list(known.astype(np.float32)[:, None, :])
    elif data.targets.task == "regression":
        used = None if data.weights is None else data.weights[data.scored("train")]
        output = RegressionOutput.fit(recipe.output, training, used, data.transform)
        values = list(output.standardise(torch.from_numpy(np.array(values))).numpy())
    elif recipe.class_weights == "balanced":
        counts = np.bincount(training, minlength=len(data.targets.classes))
        weights = torch.tensor(len(training) / (len(counts) * np.maximum(counts, 1)), dtype=torch.float32)
    parts = {name: SequenceDataset(data.tokens, data.offsets, data.rows(name), values, data.weights, data.censored)
             for name in ("train", "val")}  # fmt: skip
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
        raise InputError(
            f"{argument('accelerator')}, {argument('devices')}, {argument('strategy')} or {argument('precision')} "
            f"cannot be used: {reason}"
        ) from None


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
