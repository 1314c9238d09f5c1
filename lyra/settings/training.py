"""The settings of a training run. The defaults are the recipe: what to use when nothing is known better."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from ..errors import InputError, argument, check_choice

MODELS = ("paper", "layered")
POOLS = ("mean", "max", "first")
STRANDS = ("one", "both", "augment")
OUTPUTS = ("sigmoid", "linear")
MIXES = ("none", "validation", "folds")
KEPT = ("best", "last")
CLASS_WEIGHTS = ("none", "balanced")
STEPS = 4000  # optimizer steps that the automatic number of epochs aims at
EPOCHS = (10, 200)  # and its bounds


@dataclass
class Recipe:
    """Model and optimisation.

    Attributes:
        model: "paper", the published 47,000-parameter model, or "layered" with the numbers of layers below.
        positions: whether the model learns where in the sequence a letter stands, for sequences of one length; None
            says yes for a regression on such.
        d_model, d_state, dropout, pool: of either model; dropout None goes by the number of sequences.
        bidirectional: whether outputs depend on both sides of a residue; where not, the model is causal, all layers.
        pgc_layers, s4_layers: of the layered one.
        strand: of DNA and RNA, "one", as sequences are written; "both", a model that has the same answer for a sequence
            and its reverse complement; or "augment", by which in each epoch a random half of the training sequences
            are their reverse complements.
        output: of numbers, "linear", or "sigmoid", which learns a saturating scale.
        class_weights: "balanced" weighs classes by the inverse of their frequency.
        epochs: None takes as many as make about `STEPS` steps.
        batch_size: None takes 128, less for fewer than 2048 training sequences.
        lr, weight_decay: of AdamW, under a one-cycle schedule that warms up for the share `warmup` of the steps.
        s4_lr: learning rate of the state spaces' dynamics (log_dt, log_A_real, A_imag).
        keep: the weights of the "best" epoch by the validation part, or of the "last" one of a schedule that comes to
            its end, so that the validation part chooses nothing; None takes the last with a mix by folds (unless
            there is a patience), else the best.
        patience: epochs without a better validation score after which training stops, where the best is kept; None
            takes 15.
        average: the weights that are kept are an exponential average over the steps, of this decay; 0 keeps the last
            ones, None goes by the number of rows.
        ensemble: networks, of a seed each, whose mean the model predicts.
        mix: for a regression on sequences of one length, whether the networks are mixed with simpler models (ridge,
            additive and pairwise through a sigmoid): "validation", with weights by the validation part; "folds", each
            of five networks and of the simpler models on four fifths of the rows, with weights by the predictions for
            the fifth left out; or "none". None goes by the number of rows.
        seed: of the initial weights, the order of the batches and dropout.
    """

    model: str = "paper"
    d_model: int = 64
    d_state: int = 64
    dropout: float | None = None
    pgc_layers: int = 2
    s4_layers: int = 4
    pool: str = "max"
    positions: bool | None = None
    bidirectional: bool = True
    strand: str = "one"
    output: str = "sigmoid"
    class_weights: str = "none"
    epochs: int | None = None
    batch_size: int | None = None
    lr: float = 8e-3
    weight_decay: float = 0.01
    s4_lr: float = 1e-3
    warmup: float = 0.15
    gradient_clip: float = 1.0
    keep: str | None = None
    patience: int | None = None
    average: float | None = None
    ensemble: int = 1
    mix: str | None = None
    seed: int = 0

    def check(self) -> None:
        """Raises InputError for a setting that makes no sense."""
        for name, allowed in (
            ("model", MODELS),
            ("pool", POOLS),
            ("strand", STRANDS),
            ("output", OUTPUTS),
            ("class_weights", CLASS_WEIGHTS),
        ):
            check_choice(name, getattr(self, name), allowed)
        for name, allowed in (("mix", MIXES), ("keep", KEPT)):
            if (given := getattr(self, name)) is not None:
                check_choice(name, given, allowed)
        for name in ("d_model", "d_state", "epochs", "batch_size", "patience", "lr", "s4_lr", "ensemble"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise InputError(f"{argument(name)} {value}: must be above 0")
        if self.d_state % 2:
            raise InputError(f"{argument('d_state')} {self.d_state}: must be even, since modes come in conjugate pairs")
        for name in ("dropout", "average"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < 1:
                raise InputError(f"{argument(name)} {value}: must be at least 0 and below 1")
        if not (math.isfinite(self.weight_decay) and self.weight_decay >= 0):
            raise InputError(
                f"{argument('weight_decay')} {self.weight_decay}: must not be negative, and a finite number"
            )
        if self.seed >= 2**32:
            raise InputError(f"{argument('seed')} {self.seed}: must be below {2**32:,}")
        if min(self.pgc_layers, self.s4_layers) < 0 or self.seed < 0:
            raise InputError(
                f"{argument('pgc_layers')}, {argument('s4_layers')} and {argument('seed')} must not be negative"
            )

        if self.keep == "last" and self.patience is not None:
            raise InputError(
                f"{argument('patience', self.patience)} {argument('keep', 'last')}: the last epoch is that of the "
                "whole schedule; leave one out"
            )
        if self.strand == "both":
            self._check_both_strands()

    def _check_both_strands(self) -> None:
        """Raises InputError for a setting with which a model cannot be the same for both strands."""
        both = argument("strand", "both")
        if not self.bidirectional:
            raise InputError(
                f"{argument('bidirectional', False)}: the other strand is read from the other end; leave it out, or "
                f"{both}"
            )
        if self.pool == "first":
            raise InputError(
                f"{argument('pool', 'first')}: the first residue is the last one of the other strand; give mean or "
                f"max, or leave {both} out"
            )
        step = 8 if self.model == "paper" else 2  # the paper's first layer is a quarter as wide
        if self.d_model % step:
            raise InputError(
                f"{argument('d_model')} {self.d_model}: must be a multiple of {step} with {both}, which gives each "
                f"strand half of the channels of each layer"
            )

    def resolved_batch_size(self, n_train: int) -> int:
        """128, halved while that leaves fewer than 16 batches an epoch, at least 8."""
        if self.batch_size is not None:
            return self.batch_size
        size = 128
        while size > 8 and n_train < 16 * size:
            size //= 2
        return size

    def resolved_epochs(self, steps_per_epoch: int) -> int:
        """As many epochs as make about `STEPS` steps, within `EPOCHS`."""
        if self.epochs is not None:
            return self.epochs
        return min(max(math.ceil(STEPS / steps_per_epoch), EPOCHS[0]), EPOCHS[1])

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass
class Hardware:
    """What Lightning's Trainer is told about the machine; see its documentation for the values.

    Attributes:
        graphs: whether training steps are replayed as CUDA graphs; None says yes where one CUDA card trains.
    """

    accelerator: str = "auto"
    devices: str = "auto"
    strategy: str = "auto"
    precision: str = "32-true"
    graphs: bool | None = None
