"""Several models as one: networks of several seeds or folds, and simpler models beside them, in one mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from .. import baselines
from ..outputs import Output, read_output
from ..transforms import read_transform
from .lyra import Lyra, LyraForTokenClassification
from .positions import LyraByPosition
from .pretrained import PretrainedMixin
from .strands import LyraBothStrands, LyraBothStrandsForTokenClassification

KINDS: dict[str, type[nn.Module]] = {
    kind.__name__: kind
    for kind in (
        Lyra, LyraForTokenClassification, LyraByPosition, LyraBothStrands, LyraBothStrandsForTokenClassification,
        baselines.Ridge, baselines.AdditiveSigmoid, baselines.PairwiseSigmoid,
    )
}  # fmt: skip
SHARED = -1  # the replicate of a member that stands in all of them


def describe(model: Any, weight: float, replicate: int, output: Output | None = None) -> dict[str, Any]:
    """The entry of a model in `Ensemble`'s list of members."""
    entry = {"kind": type(model).__name__, "config": dict(model.config), "weight": weight, "replicate": replicate}
    return entry | ({} if output is None else {"output": output.to_json()})


def _size(member: Any, what: str) -> int:
    """How many letters a model reads, or outputs it has."""
    if isinstance(member, Lyra):
        return member.d_input if what == "letters" else member.d_output
    return member.letters if what == "letters" else 1


class Ensemble(nn.Module, PretrainedMixin, library_name="lyra-bio"):
    """One prediction from several models.

    Of numbers the prediction is ``intercept + sum of weight * member``, in the target's units, whatever the scale that
    members learned it on; with a ``scale`` each replicate's sum is one on that scale, mapped back, and the prediction
    their mean. Of classes and labels it is the mean of the members' probabilities by their weights.

    Members that differ in their seed or in the rows they were trained on are *replicates*: how far they spread says
    something of how sure the prediction is. The others, such as a ridge regression that is mixed with them, are shared:
    they stand in every replicate.

    Args:
        members: for each model its ``kind`` (the name of its class), ``config`` (the constructor's arguments),
            ``weight``, ``replicate`` (from 0; -1 is shared) and, of a network that predicts numbers, ``output``, what
            the ``to_json`` of its :class:`RegressionOutput` or :class:`SeveralOutputs` gives.
        classes: whether the models predict classes, of which each sequence or residue has one.
        labels: whether they predict labels, of which a sequence may have any.
        intercept: of numbers, what is added; one for each replicate, or one for all.
        scale: of numbers, the scale on which they are mixed, what the ``to_json`` of a transform gives; one for all, or
            one for each replicate; None is the target's own.
        mean, std: of numbers, the centre and unit of what ``forward`` returns, those of the training targets; of
            several targets one each.
        metadata: a dict that JSON can hold, saved and loaded with the model and otherwise left alone.

    Raises:
        ValueError: there are no members, a kind is unknown, members differ in how many letters they read or how many
            outputs they have, replicates are not numbered from 0, or there is not an intercept or scale for each.
    """

    weights: Tensor

    def __init__(
        self,
        members: Sequence[Mapping[str, Any]],
        *,
        classes: bool = False,
        labels: bool = False,
        intercept: float | Sequence[float] = 0.0,
        scale: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
        mean: float | Sequence[float] = 0.0,
        std: float | Sequence[float] = 1.0,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if not members:
            raise ValueError("members must not be empty")
        unknown = {member["kind"] for member in members} - KINDS.keys()
        if unknown:
            raise ValueError(f"members hold a {min(unknown)}; known are {', '.join(KINDS)}")
        intercepts = list(intercept) if isinstance(intercept, Sequence) else intercept
        self.mean, self.std = (list(x) if isinstance(x, Sequence) else float(x) for x in (mean, std))
        self.config = {"members": [dict(member) for member in members], "classes": classes, "labels": labels,
                       "intercept": intercepts, "scale": scale, "mean": self.mean, "std": self.std}  # fmt: skip
        self.metadata = dict(metadata or {})
        self.classes, self.labels = classes, labels
        self.members = nn.ModuleList(KINDS[member["kind"]](**member["config"]) for member in members)
        for what in ("letters", "outputs"):
            sizes = sorted({_size(member, what) for member in self.members})
            if len(sizes) > 1:
                raise ValueError(
                    f"members must all have the same {what}, got models of {' and '.join(map(str, sizes))}"
                )
        self.outputs = nn.ModuleList(
            read_output(member["output"]) if "output" in member else nn.Identity() for member in members
        )
        self.replicates = [int(member["replicate"]) for member in members]
        self.count = max(self.replicates) + 1
        if set(self.replicates) - {SHARED} != set(range(self.count)):
            raise ValueError(f"replicates must be numbered from 0, got {sorted(set(self.replicates))}")
        self.intercepts = intercepts if isinstance(intercepts, list) else [intercepts] * max(self.count, 1)
        if len(self.intercepts) != max(self.count, 1):
            raise ValueError(f"intercept must be one number or {self.count}, one for each replicate")
        of_each = [scale] * max(self.count, 1) if scale is None or isinstance(scale, Mapping) else scale
        self.scales = [read_transform(one) for one in of_each]
        if len(self.scales) != max(self.count, 1):
            raise ValueError(f"scale must be one or {self.count}, one for each replicate")
        weights = torch.tensor([float(member["weight"]) for member in members], dtype=torch.float64)
        self.register_buffer("weights", weights, persistent=False)

    @property
    def length(self) -> int | None:
        """Letters of every sequence that the model can read; None reads any."""
        lengths = (getattr(member, "length", None) for member in self.members)
        return next((int(length) for length in lengths if isinstance(length, int)), None)

    def each(self, x: Tensor, lengths: Tensor | Sequence[int] | None = None) -> Tensor:
        """What every member predicts: numbers in the target's units ``(M, B)``, of several targets ``(M, B, T)``, of
        residues ``(M, B, L)``, or probabilities ``(M, B, ...)``, in float64. Arguments as for :meth:`Lyra.forward`."""
        found = []
        for member, output in zip(self.members, self.outputs, strict=True):
            own = x.to(next(member.parameters()).dtype) if x.is_floating_point() else x
            raw = member(own, lengths=lengths)
            if self.classes:
                found.append(torch.softmax(raw.double(), dim=-1))
            elif self.labels:
                found.append(torch.sigmoid(raw.double()))
            elif isinstance(output, nn.Identity):
                found.append(raw.double()[..., 0])
            else:
                scaling = cast(Output, output)
                found.append(scaling.predict(scaling.select(raw.float())))
        return torch.stack(found)

    def replicated(self, x: Tensor, lengths: Tensor | Sequence[int] | None = None) -> Tensor:
        """What every replicate predicts, as ``each``: ``(R, B, ...)``. Their mean is the ensemble's own prediction."""
        each = self.each(x, lengths)
        return torch.stack([self._replicate(each, r) for r in range(max(self.count, 1))])

    def _replicate(self, each: Tensor, replicate: int) -> Tensor:
        """What a replicate predicts, from what every member does."""
        scale, total = self.scales[replicate], torch.zeros_like(each[0]) + self.intercepts[replicate]
        for member, weight, of in zip(each, self.weights, self.replicates, strict=True):
            if of in (replicate, SHARED):
                own = member if scale is None else scale(member)
                total = total + (weight if of == SHARED else self.count * weight) * own
        return total if scale is None else scale.invert(total)

    def forward(self, x: Tensor, *, lengths: Tensor | Sequence[int] | None = None) -> Tensor:
        """Predict; arguments as for :meth:`Lyra.forward`.

        Returns:
            of numbers ``(B, 1)``, or ``(B, T)`` of several targets, or ``(B, L, 1)`` of residues, the prediction less
            ``mean``, in units of ``std``;
            of classes the logarithms of their probabilities, ``(B, classes)`` or ``(B, L, classes)``; of labels their
            log-odds ``(B, labels)``; in float64.
        """
        return self.raw(self.replicated(x, lengths).mean(0))

    def _apply(self, fn, recurse: bool = True):
        # Moved, but each member stays in its own dtype: those fitted in closed form are in float64.
        def move(tensor: Tensor) -> Tensor:
            like = fn(tensor.new_empty(0))
            return fn(tensor) if like.dtype == tensor.dtype else tensor.to(like.device)

        return super()._apply(move, recurse)

    def raw(self, predicted: Tensor) -> Tensor:
        """What ``forward`` returns for predictions: numbers in the target's units, or probabilities."""
        if self.classes:
            return predicted.clamp(min=torch.finfo(torch.float32).tiny).log()
        if self.labels:
            return torch.logit(predicted, eps=torch.finfo(predicted.dtype).eps)
        mean, std = (torch.tensor(x, dtype=torch.float64, device=predicted.device) for x in (self.mean, self.std))
        standardised = (predicted - mean) / std
        return standardised if isinstance(self.mean, list) else standardised.unsqueeze(-1)

    @classmethod
    def of(
        cls,
        models: Sequence[nn.Module],
        outputs: Sequence[Output | None],
        weights: Sequence[float],
        replicates: Sequence[int],
        **options: Any,
    ) -> Ensemble:
        """The ensemble of models that are there, which it copies; ``options`` as for the class."""
        rows = zip(models, weights, replicates, outputs, strict=True)
        ensemble = cls([describe(*row) for row in rows], **options)
        for member, model in zip(ensemble.members, models, strict=True):
            member.load_state_dict(model.state_dict())
        return ensemble.eval()
