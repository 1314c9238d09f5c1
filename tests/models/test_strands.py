"""Models of both strands: a sequence and its reverse complement, by each letter written out, are one."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.export import Dim

import lyra_kernels as lk
from lyra import (
    Lyra,
    LyraBothStrands,
    LyraBothStrandsForTokenClassification,
    LyraForTokenClassification,
    parameter_groups,
)
from lyra.alphabets import ALPHABETS, DNA, PROTEIN, RNA
from lyra.models.strands import BothStrands

KINDS = (LyraBothStrands, LyraBothStrandsForTokenClassification)
SMALL = {"d_input": 5, "d_model": 8, "num_s4_layers": 2, "d_state": 4, "d_output": 2}
PAPER = {"pgc_expansion": (0.25, 2.0), "pgc_residual": False, "pgc_dropout": 0.0, "final_norm": False}


def small(kind=LyraBothStrands, **options) -> BothStrands:
    """A model in which no parameter is a one or a zero, in evaluation mode and float64."""
    model = kind(**{**SMALL, **options}).double()
    for parameter in model.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    return model.eval()


def other_strand(ids: torch.Tensor, lengths: list[int] | None = None) -> torch.Tensor:
    """Letter by letter, each sequence within its length; what lies beyond stays."""
    pairs = {"A": "T", "C": "G", "G": "C", "T": "A", "-": "-", "N": "N"}
    found = ids.clone()
    for i, row in enumerate(ids.tolist()):
        length = len(row) if lengths is None else lengths[i]
        for position in range(length):
            letter = "ACGT-N"[row[length - 1 - position]]
            found[i, position] = "ACGT-".find(pairs[letter])
    return found


def turned(y: torch.Tensor, lengths: list[int] | None = None) -> torch.Tensor:
    """The answer for the other strand, given for this one: per base (B, L, C) reversed, else as it is."""
    if y.dim() == 2:
        return y
    found = y.clone()
    for i in range(len(y)):
        length = y.shape[1] if lengths is None else lengths[i]
        found[i, :length] = y[i, :length].flip(0)
    return found


def error(a: torch.Tensor, b: torch.Tensor) -> float:
    """The largest one, relative to the largest number."""
    a, b = a.detach().double(), b.detach().double()
    return float((a - b).abs().max() / b.abs().max())


# ---- invariant, or equivariant -----------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"pool": "max", "prenorm": False, "pgc_kernel_size": 7},
        PAPER,
        {"num_pgc_layers": 0, "algorithm": "scan"},
        {"num_pgc_layers": 3, "num_s4_layers": 0, "pgc_expansion": 1.5},
        {"num_pgc_layers": 1, "num_s4_layers": 1, "algorithm": "direct", "pgc_kernel_size": 1, "s4_lr": 0.0},
        {"algorithm": "fft", "d_model": 2},
    ],
    ids=["plain", "post-norm-max", "paper", "scan", "pgc", "direct", "fft"],
)
def test_the_other_strand_has_the_same_predictions(kind, options, backend_once, device):
    model = small(kind, **options).to(device)
    for length in (1, 2, 24, 37):
        ids = torch.randint(-1, 5, (3, length))
        y, z = (model(x.to(device)).cpu() for x in (ids, other_strand(ids)))
        assert error(turned(z), y) < 1e-12
        assert error(turned(model.float()(other_strand(ids).to(device)).cpu()), y) < 1e-4
        model.double()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("pool", ["mean", "max"])
def test_padded_and_packed(kind, pool, backend_once, device):
    model, lengths = small(kind, pool=pool).to(device), [0, 1, 6, 13, 15]
    ids = torch.randint(-1, 5, (5, 15))
    other = other_strand(ids, lengths)
    wanted = model(ids.to(device), lengths=lengths).cpu()
    assert error(turned(model(other.to(device), lengths=lengths).cpu(), lengths), wanted) < 1e-12
    flat = torch.cat([row[:n] for row, n in zip(other, lengths, strict=True)]).unsqueeze(0)
    cu_seqlens = torch.tensor([0, *lengths]).cumsum(0)
    packed = model(flat.to(device), cu_seqlens=cu_seqlens.to(device)).cpu()
    if packed.dim() == 3:
        rows = packed[0].split(lengths)
        for row, y in zip(rows[1:], wanted[1:], strict=True):
            assert error(row.flip(0), y[: len(row)]) < 1e-12
    else:
        assert error(packed, wanted) < 1e-12
    assert model(ids[:, :0].to(device)).shape == ((5, 0, 2) if packed.dim() == 3 else (5, 2))


def test_features_are_complemented_as_letters_are_and_a_track_of_both_strands_stays():
    model = small(d_input=6, complement=(3, 2, 1, 0, 4, 5))
    x = torch.randn(2, 11, 6, dtype=torch.float64)
    assert error(model(x.flip(1)[..., [3, 2, 1, 0, 4, 5]]), model(x)) < 1e-12
    assert error(model(x.flip(1)), model(x)) > 1e-3
    ids = torch.randint(5, (2, 11))
    assert error(model(F.one_hot(ids, 6).double()), model(ids)) < 1e-12


def test_embeddings_are_reversed_with_their_halves_swapped():
    model, ids, lengths = small(), torch.randint(5, (2, 9)), [9, 4]
    _, h = model(ids, return_embeddings=True, lengths=lengths)
    _, other = model(other_strand(ids, lengths), return_embeddings=True, lengths=lengths)
    assert error(turned(other, lengths), torch.cat((h[..., 4:], h[..., :4]), dim=-1)) < 1e-12


def test_nothing_else_is_taken_for_the_same():
    """The reverse, the complement and other sequences have predictions of their own."""
    model, ids = small(), torch.randint(4, (1, 21))
    y = model(ids)
    for x in (ids.flip(1), 3 - ids, torch.randint(4, (1, 21))):
        assert error(model(x), y) > 1e-5


@pytest.mark.parametrize("kind", KINDS)
def test_both_strands_have_the_same_gradients(kind):
    model, lengths = small(kind), [14, 9]
    ids = torch.randint(-1, 5, (2, 14))
    weight = torch.randn(model(ids, lengths=lengths).shape, dtype=torch.float64)
    parameters = list(model.parameters())
    mine = torch.autograd.grad((model(ids, lengths=lengths) * weight).sum(), parameters)
    y = model(other_strand(ids, lengths), lengths=lengths)
    theirs = torch.autograd.grad((y * turned(weight, lengths)).sum(), parameters)
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)
    assert all(gradient.any() for gradient in mine)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_16_bits(dtype):
    model, ids = small().float(), torch.randint(5, (3, 50))
    wanted = model(ids)
    with torch.autocast("cpu", dtype):
        found, other = model(ids), model(other_strand(ids))
    lower = copy.deepcopy(model).to(dtype)
    assert lower.s4_layers[0].kernel.C.dtype == torch.float32 and lower(ids).dtype == found.dtype == dtype
    for y in (found, other, lower(ids), lower(other_strand(ids))):
        assert error(y, wanted) < (0.05 if dtype == torch.bfloat16 else 0.01)


# ---- what is tied ------------------------------------------------------------------------------------------------
TENSORS = Lyra(5, 8, num_pgc_layers=1, num_s4_layers=1, device="meta").state_dict()


@pytest.mark.parametrize("name", [name for name in TENSORS if name != "decoder.bias"])
def test_each_tie_is_needed(name):
    """The ordinary model with the same tensors, of which one is changed for some channels of one half."""
    model, ids = small(num_pgc_layers=1, num_s4_layers=1).folded(), torch.randint(5, (2, 20))
    assert error(model(other_strand(ids)), model(ids)) < 1e-12
    tensor = model.state_dict()[name]
    channels = tensor[0] if name.endswith("kernel.C") or name == "decoder.weight" else tensor
    channels[: max(len(channels) // 4, 1)] *= 1.3  # where there are two blocks, half of one
    assert error(model(other_strand(ids)), model(ids)) > 1e-9


def test_a_state_space_layer_written_out():
    """Kernels of either direction that both begin at the token itself, exchanged in the second half."""
    layer = small(num_s4_layers=1).s4_layers[0]
    kernel, length = layer.kernel, 12
    K0, K1 = (lk.s4d_kernel(kernel.log_dt, kernel.log_A_real, kernel.A_imag, C, length) for C in kernel.C)
    u = torch.randn(1, length, 8, dtype=torch.float64)
    y = torch.zeros_like(u)
    for t in range(length):
        for s in range(length):
            for half, (before, after) in enumerate(((K0, K1), (K1, K0))):
                part = slice(4 * half, 4 * half + 4)
                taps = (before[:, t - s] if s <= t else 0) + (after[:, s - t] if s >= t else 0)
                y[0, t, part] += (taps + (layer.half_D if s == t else 0)) * u[0, s, part]
    z = F.linear(F.gelu(y), layer.output_linear[0].weight.squeeze(-1), layer.output_linear[0].bias)
    torch.testing.assert_close(layer(u), F.glu(z))
    layer.kernel.register_forward_hook(lambda *_: None)  # so that it is called
    torch.testing.assert_close(layer(u), F.glu(z))
    with pytest.raises(ValueError, match="rate of 1 only, got 2"):
        layer(u, rate=2.0)


@pytest.mark.parametrize("kind", KINDS)
def test_an_ordinary_model_of_the_same_predictions(kind):
    model = small(kind, metadata={"alphabet": "dna"}, s4_lr=0.0)
    folded, ids = model.folded(), torch.randint(-1, 5, (3, 17))
    assert type(folded) is (Lyra if kind is LyraBothStrands else LyraForTokenClassification)
    torch.testing.assert_close(folded(ids), model(ids), rtol=1e-14, atol=1e-14)
    assert folded.metadata == model.metadata and not folded.training
    assert next(folded.parameters()).dtype == torch.float64
    assert model.train().folded().training


def test_half_the_parameters():
    plain, both = Lyra(5, 64, bidirectional=True), LyraBothStrands(5, 64)
    assert both.count_parameters() == (plain.count_parameters() + 1) // 2  # the decoder's bias is whole
    groups = parameter_groups(both, lr=0.1)
    assert [g["lr"] for g in groups] == [0.1, 0.001] and len(groups[1]["params"]) == 3 * 4
    assert len(parameter_groups(LyraBothStrands(5, 64, s4_lr=0.0), 0.1)) == 1


def test_layers_are_fused_and_add_their_residuals(monkeypatch):
    model, ids, seen = small(), torch.randint(5, (2, 9)), []
    for name in ("pgc", "gelu_glu"):
        op = getattr(lk.ops, name)
        monkeypatch.setattr(
            lk.ops,
            name,
            lambda *x, _op=op, **options: seen.append(options["residual"] is not None) or _op(*x, **options),
        )
    y = model(ids)
    assert seen == [True] * 4
    for layer in model.modules():  # with hooks, children are called
        layer.register_forward_hook(lambda *_: None)
    torch.testing.assert_close(model(ids), y, rtol=1e-12, atol=1e-12)
    assert len(seen) == 4


def test_it_learns_a_motif_on_either_strand():
    """How many there are, in sequences that training has not seen."""
    motif = torch.tensor([DNA.letters.index(letter) for letter in "GATA"])
    x = torch.randint(4, (756, 30))
    for i, planted in enumerate(torch.randint(4, (len(x),)).tolist()):
        for _ in range(planted):
            start = int(torch.randint(27, ()))
            x[i, start : start + 4] = motif if torch.rand(()) < 0.5 else other_strand(motif.unsqueeze(0))[0]
    counts = [(strand.unfold(1, 4, 1) == motif).all(-1).sum(1) for strand in (x, other_strand(x))]
    y = (counts[0] + counts[1]).float().unsqueeze(1)
    model = LyraBothStrands(5, 16, num_pgc_layers=2, num_s4_layers=1, d_state=8, dropout=0.0)
    optimizer = torch.optim.AdamW(parameter_groups(model, lr=1e-2))
    for _ in range(200):
        optimizer.zero_grad()
        F.mse_loss(model(x[:256]), y[:256]).backward()
        optimizer.step()
    with torch.no_grad():
        assert F.mse_loss(model(x[256:]), y[256:]) < 0.4 * y.var()


# ---- life as a module --------------------------------------------------------------------------------------------
@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["copy", "pickle"])
def test_copies(duplicate):
    model, ids = small(metadata={"alphabet": "ACGTN"}), torch.randint(5, (2, 9))
    twin = duplicate(model)
    assert torch.equal(twin(ids), model(ids)) and twin.metadata == model.metadata and twin.config == model.config
    fresh = LyraBothStrands(**twin.config).double().eval()
    fresh.load_state_dict(model.state_dict())
    assert torch.equal(fresh(ids), model(ids))


@pytest.mark.parametrize("kind", KINDS)
def test_folders(kind, tmp_path):
    pytest.importorskip("huggingface_hub")
    pytest.importorskip("safetensors")
    model = small(kind, d_input=6, complement=(3, 2, 1, 0, 5, 4), **PAPER, metadata={"alphabet": "dna"}).float()
    model.save_pretrained(tmp_path / "model")
    ids = torch.randint(6, (2, 9))
    for loader in (Lyra, kind):
        twin = loader.from_pretrained(tmp_path / "model")
        assert type(twin) is kind and torch.equal(twin(ids), model(ids)) and twin.metadata == model.metadata
    with pytest.raises(ValueError, match=f"holds a {kind.__name__}, which .* cannot load"):
        next(other for other in KINDS if other is not kind).from_pretrained(tmp_path / "model")


def test_compiled_and_exported():
    torch._dynamo.reset()
    model = small(num_pgc_layers=1, num_s4_layers=1).float()
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend="aot_eager")
    for length in (20, 33):
        ids, lengths = torch.randint(5, (3, length)), torch.tensor([length, 2, 9])
        found, wanted = compiled(ids, lengths=lengths), model(ids, lengths=lengths)
        torch.testing.assert_close(found, wanted)
        parameters = list(model.parameters())
        pairs = (torch.autograd.grad(y.sum(), parameters) for y in (found, wanted))
        for a, b in zip(*pairs, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
    shapes = ({0: Dim("batch", min=1, max=4096), 1: Dim("length", min=2, max=100_000)},)
    program = torch.export.export(model, (torch.randint(5, (3, 20)),), dynamic_shapes=shapes)
    ids = torch.randint(5, (4, 51))
    torch.testing.assert_close(program.module()(ids), model(ids))


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"d_model": 7}, "d_model must be even, half of it for each strand, got 7"),
        ({"pgc_expansion": 0.4}, r"pgc_expansion \* d_model must be even, half of it for each strand, got 3"),
        ({"causal": True, "bidirectional": False}, "causal must be False: on the other strand"),
        ({"bidirectional": False}, "bidirectional must be True: on the other strand"),
        ({"pool": "first"}, "pool must be mean or max: on the other strand the first token is the last"),
        ({"d_input": 20}, "complement must be given for 20 letters"),
        ({"complement": [1, 2, 0, 3, 4]}, "complement must have each of the 5 letters once, and that of the"),
        ({"complement": [0, 1, 2]}, "complement must have each of the 5 letters once"),
        ({"pool": "median"}, "pool must be one of mean, max, first, got 'median'"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        LyraBothStrands(**{**SMALL, **arguments})


def test_the_alphabets_complements():
    for alphabet, letters, wanted in ((DNA, "ACGTN-TT", "AA-NACGT"), (RNA, "ACGUN-UU", "AA-NACGU")):
        assert alphabet.decode(alphabet.reverse_complement(alphabet.encode(letters))) == wanted
        assert alphabet.complement.dtype == np.int8 and list(alphabet.complement) == [3, 2, 1, 0, 4]
    assert PROTEIN.complement is None and len(ALPHABETS) == 3
    with pytest.raises(ValueError, match="a protein sequence has no reverse complement"):
        PROTEIN.reverse_complement(PROTEIN.encode("ACD"))
