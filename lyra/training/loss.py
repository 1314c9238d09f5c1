"""The loss of a batch: of each label, and its mean over labels, classes and rows as they are weighted."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ..data.batches import IGNORED, Batch
from ..outputs import Output


class Loss:
    """Squared errors of a regression, in the targets' standardised units, or cross-entropies of classes and labels.

    Three things may weigh a label: its row (`Batch.weights`, 1 on average over the training part), its class
    (`class_weights`), and whether there is one at all, 0 where a residue or one of
    several targets has none.

    Args:
        output: the learned scale of a regression, else None.
        class_weights: (classes,) or None.
    """

    def __init__(self, output: Output | None, class_weights: Tensor | None) -> None:
        self.output, self.class_weights = output, class_weights

    def terms(self, raw: Tensor, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Of each label its loss, the weight of its class (or 0 where there is none), and that of its row."""
        assert batch.targets is not None, "training and validation batches have targets"
        raw, targets = raw.float(), batch.targets
        if self.output is not None:
            targets = targets.float().view(len(raw), -1) if targets.dim() == 3 else targets.float()
            classes = (~targets.isnan()).float()
            errors = torch.where(targets.isnan(), 0.0, self.output(self.output.select(raw)) - targets.nan_to_num())
            if batch.censored is not None:  # beyond its limit, any prediction may be right
                errors = torch.where(batch.censored == 0, errors, torch.relu(-batch.censored * errors))
            losses = errors.square()
        elif targets.dim() == 3:
            targets = targets.float().view(len(raw), -1)
            classes = (~targets.isnan()).float()
            losses = F.binary_cross_entropy_with_logits(raw, targets.nan_to_num(), reduction="none")
        else:
            losses = F.cross_entropy(raw.flatten(0, -2), targets.flatten(), reduction="none", ignore_index=IGNORED)
            losses, classes = losses.view(targets.shape), (targets != IGNORED).float()
            if self.class_weights is not None:
                classes = classes * self.class_weights[targets.clamp(min=0)]
        rows = torch.ones_like(losses[:, 0] if losses.dim() > 1 else losses)
        rows = rows if batch.weights is None else batch.weights
        return losses, classes, rows.view(-1, *[1] * (losses.dim() - 1)).expand(losses.shape)

    def step(self, raw: Tensor, batch: Batch) -> Tensor:
        """What a training step makes less: the weighted sum over as many labels as there are.

        Not over the sum of the rows' weights in this batch, by which a row would count more beside light rows than
        beside heavy ones: so the steps of an epoch together are those of the weighted mean over all rows.
        """
        losses, classes, rows = self.terms(raw, batch)
        return (losses * classes * rows).sum() / classes.sum()

    def sums(self, raw: Tensor, batch: Batch) -> Tensor:
        """(2,) the weighted sum of losses and the sum of weights: those of all batches make a weighted mean."""
        losses, classes, rows = self.terms(raw, batch)
        weights = classes * rows
        return torch.stack([(losses * weights).sum(), weights.sum()]).double()
