"""From a model's raw output to the target's own units, and the learned part of that step."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from lyra_kernels.layers.precision import keeping_float32

from .settings.training import OUTPUTS
from .transforms import Rank, Transform, fit_transform, read_transform


class RegressionOutput(nn.Module):
    """Maps raw outputs to targets standardised to mean 0 and variance 1, and back to the target's units.

    "linear" is the identity. "sigmoid" is low + (high - low) * sigmoid(raw) with learned ends: measurements such
    as binding or splicing saturate, so that a latent quantity that adds up over residues shows through a
    sigmoid ("global epistasis", Otwinowski et al. 2018). The ends start at the target's 1st and 99th percentiles.

    `transform` is the scale on which the target is standardised, None for its own.
    """

    def __init__(
        self, kind: str, mean: float, std: float, low: float = -2.0, high: float = 2.0,
        transform: Transform | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        if kind not in OUTPUTS:
            raise ValueError(f"kind is {kind!r}; it must be one of {', '.join(OUTPUTS)}")
        self.kind, self.transform = kind, transform
        self.mean, self.std = float(mean), float(std)  # no buffers, which follow the model to half precision
        if kind == "sigmoid":
            self.low = nn.Parameter(torch.tensor(float(low), dtype=torch.float32))
            self.high = nn.Parameter(torch.tensor(float(high), dtype=torch.float32))

    def _apply(self, fn, recurse: bool = True):
        return super()._apply(keeping_float32(fn), recurse)  # in 16 bits no step of an optimizer moves the ends

    @classmethod
    def fit(
        cls, kind: str, values: np.ndarray, weights: np.ndarray | None = None, transform: str = "none"
    ) -> RegressionOutput:
        """Takes the scaling from the training targets (N,), as they are weighted (N,); None for all alike.

        Args:
            transform: "none", "log" or "rank", which ranks the targets as if all weighed alike.

        Raises:
            ValueError: those with a weight above 0 are all equal.
        """
        values = np.asarray(values, dtype=np.float64)
        if weights is not None:
            values, weights = values[weights > 0], weights[weights > 0]
        scale = fit_transform(transform, values)
        values = values if scale is None else scale(torch.from_numpy(values)).numpy()
        mean = float(np.average(values, weights=weights))
        spread = float(np.abs(values - mean).max())  # squares of what is divided by it neither vanish nor overflow
        if np.ptp(values) == 0:
            raise ValueError("all values are equal")
        deviations = (values - mean) / spread
        deviations -= np.average(deviations, weights=weights)  # the mean of values far from zero is rounded
        std = spread * float(np.sqrt(np.average(np.square(deviations), weights=weights)))
        low, high = (np.quantile(values, [0.01, 0.99]) - mean) / std
        return cls(kind, mean, std, low, high, scale)

    def select(self, raw: Tensor) -> Tensor:
        """Of a model's raw outputs (..., 1) those that this reads."""
        return raw[..., 0]

    def forward(self, raw: Tensor) -> Tensor:
        """Standardised predictions."""
        if self.kind == "linear":
            return raw
        return self.low + (self.high - self.low) * torch.sigmoid(raw)

    def standardise(self, targets: Tensor) -> Tensor:
        """float64 targets centred and scaled, and only then rounded to float32."""
        targets = targets.double()
        targets = targets if self.transform is None else self.transform(targets)
        return ((targets - self.mean) / self.std).float()

    def in_units(self, standardised: Tensor) -> Tensor:
        """From the standardised scale to the target's units, in float64."""
        values = standardised.double() * self.std + self.mean
        return values if self.transform is None else self.transform.invert(values)

    def predict(self, raw: Tensor) -> Tensor:
        """Predictions in the target's units, in float64."""
        return self.in_units(self(raw))

    def to_json(self) -> dict[str, Any]:
        """The arguments that make the same output again."""
        ends = {"low": self.low.item(), "high": self.high.item()} if self.kind == "sigmoid" else {}
        scale = {} if self.transform is None else {"transform": self.transform.to_json()}
        return {"kind": self.kind, "mean": self.mean, "std": self.std, **ends, **scale}

    @property
    def digits(self) -> int:
        """Significant digits that show a prediction to a millionth of the targets' spread."""
        mean, std = self.mean, self.std
        if isinstance(self.transform, Rank):
            mean, std = float(self.transform.values.mean()), float(self.transform.values.std(correction=0))
        elif self.transform is not None:  # a share of the value itself
            return 7
        offset = max(abs(mean) / std, 1.0)
        return min(7 + math.floor(math.log10(offset)), 17)


class SeveralOutputs(nn.Module):
    """An output for each of several targets, all of it along the last axis of what `RegressionOutput` takes."""

    def __init__(self, outputs: Sequence[RegressionOutput]) -> None:
        super().__init__()
        self.outputs = nn.ModuleList(outputs)

    @classmethod
    def fit(
        cls, kind: str, values: np.ndarray, weights: np.ndarray | None = None, transform: str = "none"
    ) -> SeveralOutputs:
        """Takes the scaling of each target from the training rows (N, T) that have it, NaN where one has not."""
        known = ~np.isnan(values)
        return cls(
            [
                RegressionOutput.fit(kind, column[here], None if weights is None else weights[here], transform)
                for column, here in zip(values.T, known.T, strict=True)
            ]
        )

    def each(self) -> list[RegressionOutput]:
        return list(self.outputs)  # type: ignore[arg-type]

    @property
    def kind(self) -> str:
        return self.each()[0].kind

    def select(self, raw: Tensor) -> Tensor:
        return raw

    def _along(self, method: str, x: Tensor) -> Tensor:
        return torch.stack([getattr(one, method)(x[..., i]) for i, one in enumerate(self.each())], dim=-1)

    def forward(self, raw: Tensor) -> Tensor:
        return self._along("forward", raw)

    def standardise(self, targets: Tensor) -> Tensor:
        return self._along("standardise", targets)

    def in_units(self, standardised: Tensor) -> Tensor:
        return self._along("in_units", standardised)

    def predict(self, raw: Tensor) -> Tensor:
        return self.in_units(self(raw))

    def to_json(self) -> dict[str, Any]:
        return {"several": [one.to_json() for one in self.each()]}

    @property
    def digits(self) -> int:
        return max(one.digits for one in self.each())


Output = RegressionOutput | SeveralOutputs


def read_output(saved: Mapping[str, Any]) -> Output:
    """What `to_json` gave.

    Raises:
        KeyError, TypeError, ValueError: it is something else.
    """
    if "several" in saved:
        return SeveralOutputs([cast(RegressionOutput, read_output(one)) for one in saved["several"]]).eval()
    return RegressionOutput(**{**saved, "transform": read_transform(saved.get("transform"))}).eval()
