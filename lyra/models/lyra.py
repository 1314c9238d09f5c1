"""The Lyra models: projected gated convolutions for what is near, state spaces for what is far."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lyra_kernels.layers import PGC, S4D, RMSNorm, checks
from lyra_kernels.layers._children import is_idle, part, plain_tensors
from lyra_kernels.layers.initialisation import reset_descendants
from lyra_kernels.layers.prenorm import plus_input, prenorm_block
from lyra_kernels.layers.s4d import ALGORITHMS

from ..settings.training import POOLS
from .pooling import pool
from .pretrained import PretrainedMixin
from .state_dicts import infer_arguments, read_state_dict
from .streaming import LyraState, StreamingMixin

_ENCODER = (part("encoder", nn.Linear, "weight", "bias"),)


class Lyra(
    nn.Module,
    StreamingMixin,
    PretrainedMixin,
    library_name="lyra-bio",
    paper_url="https://arxiv.org/abs/2503.16351",
    tags=["biology", "protein", "dna", "rna", "state-space-model"],
):
    """One prediction per sequence.

    A linear encoder, ``num_pgc_layers`` projected gated convolutions and ``num_s4_layers`` S4D layers, each
    with a residual connection, then pooling over the sequence, a norm and a linear decoder.

    Args:
        d_input: letters of the alphabet, or features per token.
        d_model: channels throughout.
        d_output: numbers predicted.
        num_pgc_layers, num_s4_layers: how many layers of each kind, from 0 up.
        d_state: states per channel of an S4D layer, even.
        pgc_expansion: inner width of the PGC layers relative to ``d_model``, one number or one per layer.
        pgc_kernel_size: tokens under the PGC layers' convolutions; odd unless ``causal``.
        dropout: probability, in training; see :class:`PGC` and :class:`S4D` for what is zeroed.
        prenorm: whether each S4D layer's norm comes before it rather than after its residual connection.
        pool: "mean", "max" or "first" token.
        s4_lr: learning rate of the state spaces' dynamics (see :func:`parameter_groups`); 0 freezes them,
            None leaves the optimizer's.
        pgc_residual: whether the PGC layers have residual connections.
        pgc_dropout: dropout of the PGC layers; None takes ``dropout``.
        final_norm: whether a norm and dropout come before the decoder.
        causal: whether the PGC layers look only backwards. The whole model is causal then up to the pooling.
        bidirectional: whether the S4D layers look both ways. Not together with ``causal``.
        algorithm: how S4D layers compute: "auto", "fft", "direct" or "scan".
        pgc_eps: added to the mean square in the PGC layers' norms; norm_eps: in the S4D layers' norms; final_norm_eps:
            in the last one, None takes ``norm_eps``.
        metadata: a dict that JSON can hold, saved and loaded with the model and otherwise left alone.
        device, dtype: of the parameters, as in :mod:`torch.nn`; the state spaces' stay in float32 for a dtype of 16
            bits (see :class:`S4DKernel`).

    Attributes:
        config: the constructor's arguments, but for ``metadata``, ``device`` and ``dtype``.
        metadata: as given, a dict.

    Raises:
        ValueError: an argument is out of its range; the message names it.

    Example:
        >>> model = Lyra(d_input=20, d_model=64, d_output=1)
        >>> model(torch.randn(32, 100, 20)).shape
        torch.Size([32, 1])
        >>> model(torch.randint(20, (32, 100)), lengths=torch.randint(1, 101, (32,))).shape
        torch.Size([32, 1])
    """

    def __init__(
        self,
        d_input: int,
        d_model: int = 64,
        d_output: int = 1,
        num_pgc_layers: int = 2,
        num_s4_layers: int = 4,
        d_state: int = 64,
        pgc_expansion: float | Sequence[float] = 1.0,
        pgc_kernel_size: int = 3,
        dropout: float = 0.2,
        prenorm: bool = True,
        pool: str = "mean",
        s4_lr: float | None = 0.001,
        *,
        pgc_residual: bool = True,
        pgc_dropout: float | None = None,
        final_norm: bool = True,
        causal: bool = False,
        bidirectional: bool = False,
        algorithm: str = "auto",
        pgc_eps: float = 1e-8,
        norm_eps: float = 1e-8,
        final_norm_eps: float | None = None,
        metadata: Mapping[str, Any] | None = None,
        device: torch.device | str | int | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.d_input = checks.positive_int("d_input", d_input)
        self.d_model = checks.positive_int("d_model", d_model)
        self.d_output = checks.positive_int("d_output", d_output)
        num_pgc_layers = checks.positive_int("num_pgc_layers", num_pgc_layers, minimum=0)
        num_s4_layers = checks.positive_int("num_s4_layers", num_s4_layers, minimum=0)
        self.prenorm = checks.boolean("prenorm", prenorm)
        self.pgc_residual = checks.boolean("pgc_residual", pgc_residual)
        checks.probability("dropout", dropout)
        checks.learning_rate("s4_lr", s4_lr)
        checks.choice("pool", pool, POOLS)
        checks.choice("algorithm", algorithm, ALGORITHMS)
        checks.even_int("d_state", d_state)
        if checks.boolean("causal", causal) and checks.boolean("bidirectional", bidirectional):
            raise ValueError("causal and bidirectional must not both be True")
        checks.width("pgc_kernel_size", pgc_kernel_size, causal)
        for name, eps in {"pgc_eps": pgc_eps, "norm_eps": norm_eps, "final_norm_eps": final_norm_eps}.items():
            if eps is not None or name != "final_norm_eps":
                checks.positive_float(name, eps)
        if metadata is not None and not isinstance(metadata, Mapping):
            raise ValueError(f"metadata must be a dict or None, got {metadata!r}")
        expansions = _per_layer("pgc_expansion", pgc_expansion, num_pgc_layers)
        pgc_dropout_probability = dropout if pgc_dropout is None else checks.probability("pgc_dropout", pgc_dropout)
        self.pool = pool
        self.metadata = dict(metadata or {})
        self.config = {
            "d_input": self.d_input,
            "d_model": self.d_model,
            "d_output": self.d_output,
            "num_pgc_layers": num_pgc_layers,
            "num_s4_layers": num_s4_layers,
            "d_state": d_state,
            "pgc_expansion": pgc_expansion if isinstance(pgc_expansion, (int, float)) else list(pgc_expansion),
            "pgc_kernel_size": pgc_kernel_size,
            "dropout": dropout,
            "prenorm": prenorm,
            "pool": pool,
            "s4_lr": s4_lr,
            "pgc_residual": pgc_residual,
            "pgc_dropout": pgc_dropout,
            "final_norm": final_norm,
            "causal": causal,
            "bidirectional": bidirectional,
            "algorithm": algorithm,
            "pgc_eps": pgc_eps,
            "norm_eps": norm_eps,
            "final_norm_eps": final_norm_eps,
        }

        factory: dict[str, Any] = {"device": device, "dtype": checks.floating_dtype("dtype", dtype)}
        self.encoder = nn.Linear(self.d_input, self.d_model, **factory)
        self.pgc_layers = nn.ModuleList(
            PGC(self.d_model, expansion, pgc_kernel_size, pgc_dropout_probability, causal, pgc_eps, **factory)
            for expansion in expansions
        )
        self.s4_layers = nn.ModuleList(
            S4D(
                self.d_model,
                d_state,
                dropout,
                transposed=False,
                lr=s4_lr,
                bidirectional=bidirectional,
                algorithm=algorithm,
                **factory,
            )
            for _ in range(num_s4_layers)
        )
        self.norms = nn.ModuleList(RMSNorm(self.d_model, norm_eps, **factory) for _ in range(num_s4_layers))
        self.dropouts = nn.ModuleList(nn.Dropout(dropout) for _ in range(num_s4_layers))
        if checks.boolean("final_norm", final_norm):
            last_eps = norm_eps if final_norm_eps is None else final_norm_eps
            self.final_norm: nn.Module = RMSNorm(self.d_model, last_eps, **factory)
            self.final_dropout: nn.Module = nn.Dropout(dropout)
        else:
            self.final_norm = self.final_dropout = nn.Identity()
        self.decoder = nn.Linear(self.d_model, self.d_output, **factory)

    def reset_parameters(self) -> None:
        """Initial values for all parameters: those that the constructor gives with the same seed."""
        reset_descendants(self)

    @classmethod
    def paper(cls, d_input: int, d_output: int = 1, **options: Any) -> Lyra:
        """The model of the paper (arXiv 2503.16351): 47,169 parameters for ``d_input=20, d_output=1``.

        Two PGC layers of expansion 0.25 and 2 without residual connections or dropout, one S4D layer, no norm
        before the decoder.

        Args:
            d_input, d_output: as for the class.
            options: other arguments of the class, which replace the paper's.
        """
        settings: dict[str, Any] = {
            "num_pgc_layers": 2,
            "num_s4_layers": 1,
            "pgc_expansion": (0.25, 2.0),
            "pgc_residual": False,
            "pgc_dropout": 0.0,
            "final_norm": False,
        }
        return cls(d_input, d_output=d_output, **(settings | options))

    @classmethod
    def from_state_dict(cls, source: str | Path | Mapping[str, Tensor], **options: Any) -> Lyra:
        """The model, in evaluation mode, that a plain state_dict of the published classes belongs to.

        Args:
            source: the state_dict, or a file of it written by ``torch.save`` and read with
                ``weights_only=True``; under the names of this package or of the authors' repository (``pgc1``, ``s4d``,
                norms with a ``scale``), which has other eps in its norms.
            options: constructor arguments that shapes do not tell, such as ``pool`` and ``prenorm``; ``device``, and
                ``dtype`` where it is not to be the state_dict's.

        Raises:
            ValueError: it is no state_dict of a Lyra model.
            RuntimeError: weights are missing, or too many, or of other shapes than the options say.
        """
        state, named = read_state_dict(source)
        arguments = infer_arguments(state) | named | options
        model = cls(**arguments).to(arguments.get("dtype") or state["encoder.weight"].dtype)
        model.load_state_dict(state)
        return model.eval()

    def forward(
        self,
        x: Tensor,
        return_embeddings: bool = False,
        *,
        lengths: Tensor | Sequence[int] | None = None,
        cu_seqlens: Tensor | Sequence[int] | None = None,
        initial_state: LyraState | None = None,
        return_final_state: bool = False,
    ) -> Tensor | tuple[Tensor, ...]:
        """Predict.

        Args:
            x: token ids ``(B, L)`` of an integer dtype, or one-hot letters or other features
                ``(B, L, d_input)`` of the model's dtype. A negative id is an unknown letter: all features
                zero. With ``cu_seqlens`` B is 1.
            return_embeddings: whether to return the tokens' embeddings, too.
            lengths: ``(B,)`` integers, each sequence's length in a padded batch; what lies beyond is ignored. One is
                for all. A list is copied to the device of ``x`` at each call; inside a CUDA graph give a tensor.
            cu_seqlens: ``(S + 1,)`` integers, where each sequence begins in a packed batch, and where the last
                ends.
            initial_state: of a causal model, the state after the tokens before these, all sequences' alike: a long
                sequence goes through piece by piece, and each call predicts for all of it so far.
            return_final_state: whether to return the state after these tokens, too; the last.

        Returns:
            ``(S, d_output)``, or with ``return_embeddings`` that and ``(B, L, d_model)``, the tokens before
            pooling, zero at padded positions. A sequence of length 0 pools to zeros.

        Raises:
            ValueError: a shape, a token id or a length does not fit; a state is asked of a model that is not causal,
                or together with ``lengths`` or ``cu_seqlens``.
            TypeError: a dtype does not fit.
        """
        lengths, cu_seqlens = _layout(x, lengths, cu_seqlens)
        if initial_state is not None or return_final_state:
            return self._forward_piece(x, initial_state, lengths, cu_seqlens, return_embeddings, return_final_state)
        embeddings = self.embed(x, lengths, cu_seqlens)
        out = self.head(pool(embeddings, self.pool, lengths, cu_seqlens))
        return (out, _fill_padding(embeddings, lengths)) if return_embeddings else out

    def embed(self, x: Tensor, lengths: Tensor | None, cu_seqlens: Tensor | None) -> Tensor:
        """Everything before pooling: ``(B, L, d_model)``, whose padded positions mean nothing."""
        # What stands in a layer's place may not know of batches.
        batch = (
            {"lengths": lengths} if lengths is not None else {} if cu_seqlens is None else {"cu_seqlens": cu_seqlens}
        )
        x = self.encode(_fill_padding(x, lengths))
        for layer in self.pgc_layers:
            x = plus_input(layer, x, x, **batch) if self.pgc_residual else layer(x, **batch)
        for layer, norm, dropout in zip(self.s4_layers, self.norms, self.dropouts, strict=True):
            add_input = is_idle(dropout)
            if self.prenorm:
                z = prenorm_block(norm, layer, x, add_input=add_input, **batch)
            else:
                z = plus_input(layer, x, x, **batch) if add_input else layer(x, **batch)
            x = z if add_input else x + dropout(z)
            if not self.prenorm:
                x = norm(x)
        return x

    def encode(self, x: Tensor) -> Tensor:
        """The encoder on features ``(B, L, d_input)`` or, without forming them, on token ids ``(B, L)``."""
        plain = plain_tensors(self, _ENCODER)
        # A quantized encoder may have no parameters.
        weight = next(chain(self.encoder.parameters(), self.parameters())) if plain is None else plain[0]
        if x.dim() == 3 and x.shape[-1] == self.d_input:
            if not x.is_floating_point():
                x = x.to(weight.dtype)
            elif x.dtype != weight.dtype and not torch.is_autocast_enabled(x.device.type):
                raise TypeError(f"x must be {weight.dtype} like the model's weights, got {x.dtype}")
            return self.encoder(x)
        if x.dim() != 2 or x.is_floating_point() or x.is_complex() or x.dtype == torch.bool:
            raise ValueError(
                f"x must be integer token ids (B, L) or features (B, L, {self.d_input}), got {tuple(x.shape)} of "
                f"{x.dtype}"
            )
        x = x.long().clamp(min=-1) + 1
        # Row 0 is an unknown letter's; with the bias in the table one look-up does it all.
        if plain is None:
            table = F.pad(torch.eye(self.d_input, dtype=weight.dtype, device=x.device), (0, 0, 1, 0))
        else:
            table = F.pad(weight.t(), (0, 0, 1, 0))
            table = table if plain[1] is None else table + plain[1]
        try:
            rows = F.embedding(x, table)
        except IndexError:
            raise ValueError(f"x holds token id {int(x.max()) - 1}, the model has {self.d_input} letters") from None
        return rows if plain is not None else self.encoder(rows)

    def head(self, x: Tensor) -> Tensor:
        """The final norm and the decoder: ``(..., d_model)`` to ``(..., d_output)``."""
        return self.decoder(self.final_dropout(self.final_norm(x)))

    def count_parameters(self) -> int:
        """How many numbers training can change."""
        return sum(parameter.numel() for parameter in self.parameters() if parameter.requires_grad)


class LyraForTokenClassification(Lyra):
    """One prediction per token: :class:`Lyra` without the pooling, and with the same arguments.

    ``pool`` is accepted and ignored. ``forward`` returns ``(B, L, d_output)``, zero at padded positions.

    Example:
        >>> model = LyraForTokenClassification(d_input=20, d_output=3)
        >>> model(torch.randn(32, 100, 20)).shape
        torch.Size([32, 100, 3])
    """

    per_token = True

    def forward(
        self,
        x: Tensor,
        return_embeddings: bool = False,
        *,
        lengths: Tensor | Sequence[int] | None = None,
        cu_seqlens: Tensor | Sequence[int] | None = None,
        initial_state: LyraState | None = None,
        return_final_state: bool = False,
    ) -> Tensor | tuple[Tensor, ...]:
        """Predict for each token; arguments and errors are those of :meth:`Lyra.forward`."""
        lengths, cu_seqlens = _layout(x, lengths, cu_seqlens)
        if initial_state is not None or return_final_state:
            return self._forward_piece(x, initial_state, lengths, cu_seqlens, return_embeddings, return_final_state)
        embeddings = _fill_padding(self.embed(x, lengths, cu_seqlens), lengths)
        out = _fill_padding(self.head(embeddings), lengths)
        return (out, embeddings) if return_embeddings else out

    def _predict(self, h: Tensor, state: LyraState) -> Tensor:
        return self.head(h)


def _per_layer(name: str, value: float | Sequence[float], layers: int) -> list[float]:
    """One number for each of ``layers`` layers."""
    if not isinstance(value, Sequence) or isinstance(value, str):
        return [checks.positive_float(name, value)] * layers
    if len(value) != layers:
        raise ValueError(f"{name} must be one number or {layers}, one for each layer, got {value!r}")
    return [checks.positive_float(name, item) for item in value]


def _layout(
    x: Tensor, lengths: Tensor | Sequence[int] | None, cu_seqlens: Tensor | Sequence[int] | None
) -> tuple[Tensor | None, Tensor | None]:
    """`lengths` and `cu_seqlens` checked against x, as int64 tensors."""
    if not isinstance(x, Tensor):
        raise TypeError(f"x must be a tensor, not {type(x).__name__}")
    if x.dim() not in (2, 3):
        raise ValueError(f"x must be token ids (B, L) or features (B, L, d_input), got {tuple(x.shape)}")
    return checks.layout(x, lengths, cu_seqlens, "x")


def _fill_padding(x: Tensor, lengths: Tensor | None) -> Tensor:
    """``x (B, L, ...)`` with zeros at the padded positions, whatever was there before."""
    if lengths is None:
        return x
    real = torch.arange(x.shape[1], device=x.device) < lengths.unsqueeze(-1)
    real = real.reshape(real.shape + (1,) * (x.dim() - 2))
    return torch.where(real, x, torch.zeros((), dtype=x.dtype, device=x.device))
