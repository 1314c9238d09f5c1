"""Attributions: how much each position contributes to the prediction, by integrated gradients.

captum has the method, too, and the tests compare with it. It is not used here: `lyra explain` gives attributions by
default, so that captum would be one more package for everyone, in place of a dozen lines; it adds up the gradients in
the model's float32, not in float64; and it reports no progress.
"""

from __future__ import annotations

import pandas as pd
import torch
from torch.func import functional_call
from torch.nn import functional as F

from ..data.batches import max_tokens_per_batch
from ..errors import InputError, argument
from ..prediction import Predictor
from ..settings.explain import ExplainOptions
from .subject import Progress, Score, Subject, no_progress

COST = 3  # predictions in whose time a gradient is computed, about


def attributions(
    predictor: Predictor, sequence: str, options: ExplainOptions | None = None, *, progress: Progress = no_progress
) -> pd.DataFrame:
    """Contributions of the positions to the difference between the sequence's prediction and the baseline's.

    Integrated gradients (Sundararajan, Taly, Yan 2017): the one-hot letters less the baseline, times the gradient
    averaged along the straight line between the two, summed over the letters of a position. The integral is taken by
    the midpoint rule. By completeness the contributions of all positions sum to the difference of the two
    predictions; how far the sum is off is the integral's error. With the baseline "average" the line stays among
    frequencies of letters, so that only gradients from one letter to another count (Majdandzic et al. 2023).

    Args:
        sequence: text in the model's alphabet.
        options: baseline, steps, positions, numbering, class and scale; see `ExplainOptions`. A model of a class per
            residue needs `at`; of numbers per residue, without it, their mean is explained.
        progress: called with the cost, in predictions, since the last call.

    Returns:
        one row a position: position, letter, attribution (in the scale's units). `attrs` holds unit, predicted,
        baseline_predicted and completeness_error: the absolute difference between the sum over all positions (those
        not asked for included) and predicted - baseline_predicted.

    Raises:
        InputError: as for `mutagenesis`, and a model of a class per residue without `at`.
    """
    options = options or ExplainOptions()
    score = Score(predictor, options)
    if score.per_position:
        raise InputError(
            f"attributions: this model gives a class to each residue; choose one of them with {argument('at')}"
        )
    return integrated_gradients(Subject(score, sequence, options), progress)


def integrated_gradients(subject: Subject, progress: Progress = no_progress) -> pd.DataFrame:
    """`attributions` of a sequence that is already prepared."""
    options, model = subject.options, subject.score_of.predictor.model
    weights = {name: value.detach() for name, value in model.state_dict().items()}  # they need no gradient
    dtype = next(model.parameters()).dtype
    letters = len(subject.score_of.predictor.alphabet)
    known = (subject.tokens >= 0).unsqueeze(-1)
    x = (F.one_hot(subject.tokens.clamp(min=0), letters) * known).to(dtype)  # an unknown letter has no features
    baseline = torch.zeros(letters, dtype=dtype, device=subject.device)
    if options.baseline == "average":
        baseline[subject.alternatives] = 1 / len(subject.alternatives)
    step = x - baseline

    def predict(inputs: torch.Tensor) -> torch.Tensor:
        raw = functional_call(model, weights, (inputs,))
        raw = raw if subject.at is None else raw[:, subject.at]
        return subject.score_of(raw, subject.classes.expand(len(raw)))

    total = torch.zeros_like(x, dtype=torch.float64)
    # A backward pass keeps every layer's activations: batches of a quarter of those of predictions.
    batch = max(1, min(options.batch_size, max_tokens_per_batch(options.batch_size) // (4 * subject.length)))
    for start in range(0, options.steps, batch):
        count = min(batch, options.steps - start)
        share = (torch.arange(start, start + count, device=subject.device) + 0.5) / options.steps
        inputs = (baseline + share.to(dtype)[:, None, None] * step).requires_grad_()
        (gradient,) = torch.autograd.grad(predict(inputs).sum(), inputs)
        total += gradient.double().sum(0)
        progress(COST * count)
    contributions = (step.double() * total / options.steps).sum(-1).cpu().numpy()
    with torch.inference_mode():
        at_baseline = float(predict(baseline.expand_as(x).unsqueeze(0)))
    predicted = float(subject.predicted[0])

    frame = pd.DataFrame(
        {
            "position": subject.sites + options.offset,
            "letter": [subject.letters[site] for site in subject.sites],
            "attribution": contributions[subject.sites],
        }
    )
    frame.attrs |= {
        "unit": subject.score_of.unit, "predicted": predicted, "baseline_predicted": at_baseline,
        "completeness_error": abs(float(contributions.sum()) - (predicted - at_baseline)),
        "sum_of_absolutes": float(abs(contributions).sum()),
    }  # fmt: skip
    return frame
