"""Models of DNA and RNA for which a sequence and its reverse complement are the same, by construction."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any, cast

import torch

from lyra_kernels.layers import PGC, S4D, RMSNorm

from .lyra import Lyra, LyraForTokenClassification
from .tied import TiedRMSNorm, TiedS4DKernel, tie, tie_ends, tie_pgc, tie_s4d

NUCLEOTIDES = {4: (3, 2, 1, 0), 5: (3, 2, 1, 0, 4)}
"""The complements of "ACGT" and "ACGT-", or with U in the place of T, by how many letters there are."""


class BothStrands(Lyra):
    """What the two classes below add to those of one strand, whose arguments they take.

    Args:
        d_input, d_model, d_output: as of :class:`Lyra`; ``d_model`` must be even, and so the PGC layers' inner widths.
        complement: of each letter or feature, which one it is on the other strand; None stands for the order "ACGT" or
            "ACGT-" with 4 or 5 of them.
        options: the other arguments of :class:`Lyra`, by name. ``bidirectional`` is True here, ``causal`` must not be,
            nor ``pool`` "first" in a model that pools.
        device, dtype: as of :class:`Lyra`.

    Raises:
        ValueError: an argument is out of its range, or looks at one end of a sequence only; the message names it.
    """

    def __init__(
        self,
        d_input: int,
        d_model: int = 64,
        d_output: int = 1,
        *,
        complement: Sequence[int] | None = None,
        device: torch.device | str | int | None = None,
        dtype: torch.dtype | None = None,
        **options: Any,
    ) -> None:
        options = {"bidirectional": True, **options}
        # On the meta device: values are drawn once, for the parameters that stay, as reset_parameters() draws them.
        super().__init__(d_input, d_model, d_output, **options, device="meta", dtype=dtype)
        self._check()
        self.config["complement"] = list(_complement(complement, self.d_input))
        tie_ends(self.encoder, self.decoder, self.config["complement"])
        for layer in self.pgc_layers:
            tie_pgc(cast(PGC, layer))
        for layer in self.s4_layers:
            tie_s4d(cast(S4D, layer), self.config["s4_lr"])
        for norm in (*self.norms, self.final_norm):
            if isinstance(norm, RMSNorm):
                tie(norm, TiedRMSNorm)
        device = torch.device(torch.get_default_device() if device is None else device)
        if device.type != "meta":
            self.to_empty(device=device)
            self.reset_parameters()

    def _check(self) -> None:
        if self.d_model % 2:
            raise ValueError(f"d_model must be even, half of it for each strand, got {self.d_model}")
        for layer in self.pgc_layers:
            if cast(PGC, layer).d_inner % 2:
                raise ValueError(
                    f"pgc_expansion * d_model must be even, half of it for each strand, got {cast(PGC, layer).d_inner}"
                )
        if self.config["causal"]:
            raise ValueError("causal must be False: on the other strand a sequence is read from its other end")
        if len(self.s4_layers) and not self.config["bidirectional"]:
            raise ValueError("bidirectional must be True: on the other strand a sequence is read from its other end")
        if self.pool == "first" and not isinstance(self, LyraForTokenClassification):
            raise ValueError("pool must be mean or max: on the other strand the first token is the last")

    def folded(self) -> Lyra:
        """An ordinary model with the same predictions, whose tensors are all parameters of their own.

        For programs that know no other. It has the same cost but for making the tensors, and twice the parameters,
        which further training would not keep tied.
        """
        kind = LyraForTokenClassification if isinstance(self, LyraForTokenClassification) else Lyra
        config = {name: value for name, value in self.config.items() if name != "complement"}
        like = next(self.decoder.parameters())
        model = kind(**config, metadata=self.metadata, device=like.device, dtype=like.dtype)
        with torch.no_grad():
            for path, module in self.named_modules():
                own = model.get_submodule(path)
                values: dict[str, Any] = {}
                if isinstance(module, TiedS4DKernel):
                    values = dict(zip(("log_dt", "log_A_real", "A_imag", "C"), module.spectrum(), strict=True))
                for name, tensor in (*own.named_parameters(recurse=False), *own.named_buffers(recurse=False)):
                    tensor.copy_(values.get(name, getattr(module, name)))
        return model.train(self.training)


def _signature() -> inspect.Signature:
    """All arguments by name, for what builds a model from a configuration."""
    own = dict(inspect.signature(BothStrands.__init__).parameters)
    del own["options"]
    for name, parameter in inspect.signature(Lyra.__init__).parameters.items():
        own.setdefault(name, parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))
    own["bidirectional"] = own["bidirectional"].replace(default=True)
    return inspect.Signature(list(own.values()))


BothStrands.__init__.__signature__ = _signature()  # type: ignore[attr-defined]


class LyraBothStrands(BothStrands):
    """One prediction per sequence of DNA or RNA, the same for its reverse complement.

    A :class:`Lyra` in which half of the channels read the sequence and half of them its reverse complement, with tied
    parameters, about half as many as of :class:`Lyra`: one pass of the usual cost is a pass over both strands. Hidden
    states are those of the reverse complement with positions reversed and halves of the channels swapped, also those
    of ``return_embeddings``. Features ``(B, L, d_input)`` are complemented by ``complement``, an unknown letter stays
    unknown; with ``lengths`` a sequence is reversed within its length.

    Dropout draws for each channel, so that training on a sequence and on its reverse complement is the same on average.
    What changes a layer's output from outside, such as an adapter for fine-tuning or a hook, has to keep the halves
    alike itself.

    Example:
        >>> model = LyraBothStrands(d_input=4, d_model=64).eval()
        >>> x = torch.randint(4, (32, 100))
        >>> torch.allclose(model(x), model(3 - x.flip(1)), atol=1e-5)
        True
    """


class LyraBothStrandsForTokenClassification(BothStrands, LyraForTokenClassification):
    """One prediction per base, the same for that base in the reverse complement: see :class:`LyraBothStrands`.

    Labels are those of a base pair, not of a strand: a class that turns into another one on the other strand, such as
    "forward gene" into "reverse gene", cannot be told from it.
    """


def _complement(complement: Sequence[int] | None, d_input: int) -> tuple[int, ...]:
    if complement is None:
        if d_input not in NUCLEOTIDES:
            raise ValueError(f"complement must be given for {d_input} letters; it is known for 4 and 5 of DNA or RNA")
        return NUCLEOTIDES[d_input]
    found = tuple(int(i) for i in complement)
    if sorted(found) != list(range(d_input)) or any(found[found[i]] != i for i in found):
        raise ValueError(
            f"complement must have each of the {d_input} letters once, and that of the complement be the letter "
            f"itself, got {complement!r}"
        )
    return found
