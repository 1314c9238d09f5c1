"""A sequence under study, and the one number of the model's answer that is explained."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from ..alphabets import INVALID, Alphabet
from ..data.batches import max_tokens_per_batch
from ..data.sequences import letter_error
from ..errors import InputError, argument, shorten
from ..outputs import SeveralOutputs
from ..prediction import Predictor
from ..settings.explain import SCALES, ExplainOptions

Progress = Callable[[int], None]  # called with the number of model calls, in sequences, since the last time


def no_progress(done: int) -> None:
    """The default: nobody watches."""


def substitutable(alphabet: Alphabet) -> np.ndarray:
    """Tokens of the letters that stand for a residue: no gap, no stop."""
    return np.array([token for token, letter in enumerate(alphabet.letters) if letter.isalpha()])


class Score:
    """From a model's raw outputs to one number per sequence: a regression's prediction, or how likely a class is.

    Attributes:
        unit: what the number is, for people.
        chosen: the index of the class that the user named, or None.
        by_class: whether the model is a classifier; per_position: whether each substitution is
            scored where it happens; mean: whether the mean of the residues' numbers is explained.
    """

    def __init__(self, predictor: Predictor, options: ExplainOptions) -> None:
        """Raises InputError: the options ask for what this model does not have."""
        options.check()
        task, classes = predictor.targets.task, predictor.targets.classes
        self.predictor = predictor
        self.scale = options.scale or SCALES[task][0]
        names = predictor.targets.names
        self.by_class = task in ("classification", "token")
        self.output = predictor.output
        self.per_position = task == "token" and options.at is None
        self.mean = task == "token-regression" and options.at is None
        self.chosen: int | None = None
        if self.scale not in SCALES[task]:
            raise InputError(f"{argument('scale')} {shorten(self.scale)}: must be one of {', '.join(SCALES[task])} "
                             "for this model, "
                             f"whose task is {task}")  # fmt: skip
        if options.at is not None and not predictor.targets.per_residue:
            raise InputError(f"{argument('at')} {options.at}: this model's task is {task}, with one answer for the "
                             "whole "
                             f"sequence; leave {argument('at')} out")  # fmt: skip
        if names:
            if options.class_name not in names:
                given = "" if options.class_name is None else f" {shorten(options.class_name)}"
                raise InputError(f"{argument('class_name')}{given}: this model has several targets; choose one of "
                                 f"{', '.join(names)}")  # fmt: skip
            self.chosen = names.index(options.class_name)
            if isinstance(self.output, SeveralOutputs):
                self.output = self.output.each()[self.chosen]
        elif options.class_name is not None:
            if not self.by_class:
                raise InputError(f"{argument('class_name')} {shorten(options.class_name)}: this model predicts a "
                                 "number, no class; "
                                 f"leave {argument('class_name')} out")  # fmt: skip
            if options.class_name not in classes:
                raise InputError(
                    f"{argument('class_name')} {shorten(options.class_name)}: must be one of {', '.join(classes)}"
                )
            self.chosen = classes.index(options.class_name)
        several = predictor.members > 1
        if self.scale == "latent" and (self.output is None or self.output.kind != "sigmoid" or several):
            raise InputError(
                f"{argument('scale')} latent: this model has no sigmoid at its end; leave {argument('scale')} out"
            )
        target = (predictor.source and predictor.source.target) or "prediction"
        target = names[self.chosen] if names and self.chosen is not None else target
        target = f"mean {target} of the residues" if self.mean else target
        of = "the predicted class" if self.chosen is None else (names or classes)[self.chosen]
        self.unit = {
            "target": target, "latent": f"{target} before the sigmoid",
            "log-odds": f"log-odds of {of}", "probability": f"probability of {of}",
        }[self.scale]  # fmt: skip

    @property
    def digits(self) -> int:
        """Significant digits of a score that are worth showing to people."""
        return self.predictor.digits - 3 if self.scale == "target" else 4

    def __call__(self, raw: Tensor, classes: Tensor) -> Tensor:
        """(B, d_output) raw outputs, and for a classifier the class of each (B,), to (B,) float64.

        Where the mean of residues is explained, the raw outputs of all of them (B, L, 1).
        """
        values = self._each(raw.double(), classes)
        return values.mean(-1) if self.mean else values

    def _each(self, raw: Tensor, classes: Tensor) -> Tensor:
        output = self.output
        if self.predictor.targets.names:
            raw = raw[..., [self.chosen]]
        assert not isinstance(output, SeveralOutputs)
        if self.scale == "target":
            assert output is not None
            return output.predict(raw[..., 0])
        if self.scale == "latent":
            assert output is not None
            return raw[..., 0] * torch.sign(output.high - output.low)  # so that more is more
        if self.predictor.targets.names:
            return torch.sigmoid(raw[..., 0]) if self.scale == "probability" else raw[..., 0]
        index = classes.unsqueeze(-1)
        others = raw.scatter(-1, index, -torch.inf).logsumexp(-1)
        log_odds = raw.gather(-1, index).squeeze(-1) - others
        return torch.sigmoid(log_odds) if self.scale == "probability" else log_odds


class Subject:
    """One sequence, encoded, with the positions asked for and its own score.

    Attributes:
        tokens: (L,) int64 on the model's device; letters: the sequence as the model reads it.
        sites: indices of the positions asked for; open: those of them that hold a letter to substitute (no gap, no
            stop, no unknown letter).
        classes: (L,) int64, the class that is explained at each position; (1,) where there is one answer.
        predicted: the sequence's own score (1,), or at each position (L,) if each is scored where it happens.
    """

    def __init__(self, score: Score, sequence: str, options: ExplainOptions, where: str = "sequence") -> None:
        """Raises InputError: an unknown letter, an empty sequence, a position outside; `where` names the sequence."""
        self.score_of, self.options = score, options
        predictor, alphabet = score.predictor, score.predictor.alphabet
        if not sequence:
            raise InputError(f"{where}: is empty; it needs at least one letter")
        encoded = alphabet.encode(sequence)
        if (bad := np.flatnonzero(encoded == INVALID)).size:
            raise letter_error(where, sequence, int(bad[0]), alphabet, f"{alphabet.unknown} is any letter")
        self.letters = alphabet.decode(encoded)
        self.length = len(sequence)
        predictor.check_length(self.length, where)
        self.alternatives = substitutable(alphabet)
        self.sites = options.sites(self.length, where)
        self.open = self.sites[np.isin(encoded[self.sites], self.alternatives)]
        self.at = None if options.at is None else options.index("at", options.at, self.length, where)
        self.device = next(predictor.model.parameters()).device
        self.tokens = torch.from_numpy(encoded.astype(np.int64)).to(self.device)
        self.batch = max(1, min(options.batch_size, max_tokens_per_batch(options.batch_size) // self.length))
        with torch.no_grad():  # not inference_mode: the classes take part in gradients later
            raw = self.raw(self.tokens.unsqueeze(0))
            raw = raw[0] if score.per_position else raw
            one = raw[:, 0] if score.mean else raw
            self.classes = one.argmax(-1) if score.chosen is None else torch.full_like(one[..., 0].long(), score.chosen)
            self.predicted = score(raw, self.classes).cpu().numpy()
        if not np.isfinite(self.predicted).all():
            raise InputError(
                f"{where}: the prediction is not a finite number, so there is nothing to explain; train the model again"
            )

    def raw(self, x: Tensor) -> Tensor:
        """Raw outputs (B, d_output), or (B, L, d_output) of all residues where none of them is chosen."""
        raw = self.score_of.predictor.model(x)
        return raw if self.at is None else raw[:, self.at]

    def unchanged(self, sites: np.ndarray) -> np.ndarray:
        """The sequence's own score where changes at these positions are scored."""
        return self.predicted[sites] if self.score_of.per_position else np.broadcast_to(self.predicted, sites.shape)

    def class_names(self, sites: np.ndarray) -> list[str]:
        """The class that is explained at each of these positions."""
        classes = self.classes.cpu().numpy()
        names = self.score_of.predictor.targets.classes
        here = classes[sites] if self.score_of.per_position else np.broadcast_to(classes, sites.shape)
        return [names[i] for i in here]

    def substitutions(self) -> tuple[np.ndarray, np.ndarray]:
        """Every single substitution: index of the position (M,), new token (M,)."""
        sites = np.repeat(self.open, len(self.alternatives))
        tokens = np.tile(self.alternatives, len(self.open))
        other = tokens != self.tokens.cpu().numpy()[sites]
        return sites[other], tokens[other]

    @torch.inference_mode()
    def score_mutants(self, sites: np.ndarray, tokens: np.ndarray, progress: Progress = no_progress) -> np.ndarray:
        """Scores (M,) of the sequence with `tokens` (M, k) at the positions `sites` (M, k), batch by batch."""
        scores = np.empty(len(sites))
        for start in range(0, len(sites), self.batch):
            where = torch.from_numpy(sites[start : start + self.batch]).to(self.device)
            new = torch.from_numpy(tokens[start : start + self.batch]).to(self.device)
            raw = self.raw(self.tokens.repeat(len(where), 1).scatter(1, where, new))
            if self.score_of.per_position:
                raw, classes = raw[torch.arange(len(where), device=self.device), where[:, 0]], self.classes[where[:, 0]]
            else:
                classes = self.classes.expand(len(where))
            scores[start : start + len(where)] = self.score_of(raw, classes).cpu().numpy()
            progress(len(where))
        return scores

    def name(self, site: int, token: int) -> str:
        """A substitution in the usual notation, such as A24G."""
        return f"{self.letters[site]}{site + self.options.offset}{self.score_of.predictor.alphabet.letters[token]}"
