"""Lyra and LyraForTokenClassification: the published models, and what they do beyond."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch.export import Dim

import lyra_kernels as lk
from lyra import Lyra, LyraForTokenClassification, parameter_groups

from .. import fixtures
from ..card import pretended_card

POOLS = ("mean", "max", "first")
SMALL = {"d_input": 5, "d_model": 8, "num_s4_layers": 2, "d_state": 4}


def small(kind=Lyra, **options):
    """A model in which no parameter is a one or a zero, in evaluation mode."""
    model = kind(**{**SMALL, **options})
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model.eval()


# ---- as published ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["lyra_regression", "lyra_token_classification"])
def test_recorded(name, backend_once, device):
    recorded = fixtures.load(name)
    meta = {k: v for k, v in recorded.meta.items() if k not in ("cls", "loss")}
    kind = {"Lyra": Lyra, "LyraForTokenClassification": LyraForTokenClassification}[recorded.meta["cls"]]
    fixtures.check(kind(**meta).double().eval().to(device), recorded.to(device))


def test_defaults_are_the_published_ones():
    """94,145 parameters, positional arguments in the published order, the published names."""
    model = Lyra(20)
    assert model.count_parameters() == 94_145
    assert model.config | {"d_input": 20} == {
        "d_input": 20,
        "d_model": 64,
        "d_output": 1,
        "num_pgc_layers": 2,
        "num_s4_layers": 4,
        "d_state": 64,
        "pgc_expansion": 1.0,
        "pgc_kernel_size": 3,
        "dropout": 0.2,
        "prenorm": True,
        "pool": "mean",
        "s4_lr": 0.001,
        "pgc_residual": True,
        "pgc_dropout": None,
        "final_norm": True,
        "causal": False,
        "bidirectional": False,
        "algorithm": "auto",
        "pgc_eps": 1e-8,
        "norm_eps": 1e-8,
        "final_norm_eps": None,
    }
    positional = Lyra(5, 8, 3, 1, 2, 4, 2.0, 5, 0.1, False, "max", 0.01)
    keywords = (
        "d_input d_model d_output num_pgc_layers num_s4_layers d_state pgc_expansion pgc_kernel_size dropout prenorm"
    )
    values = [positional.config[k] for k in [*keywords.split(), "pool", "s4_lr"]]
    assert values == [5, 8, 3, 1, 2, 4, 2.0, 5, 0.1, False, "max", 0.01]
    assert LyraForTokenClassification(5, 8, 3).d_output == 3


def test_state_dict():
    shapes = {k: tuple(v.shape) for k, v in Lyra(5, 8, 3, 1, 1, 4).state_dict().items()}
    assert shapes == {
        "encoder.weight": (8, 5),
        "encoder.bias": (8,),
        "pgc_layers.0.conv.weight": (8, 1, 3),
        "pgc_layers.0.conv.bias": (8,),
        "pgc_layers.0.in_proj.weight": (16, 8),
        "pgc_layers.0.in_proj.bias": (16,),
        "pgc_layers.0.in_norm.weight": (16,),
        "pgc_layers.0.out_norm.weight": (8,),
        "pgc_layers.0.out_proj.weight": (8, 8),
        "pgc_layers.0.out_proj.bias": (8,),
        "s4_layers.0.D": (8,),
        "s4_layers.0.kernel.C": (8, 2, 2),
        "s4_layers.0.kernel.log_dt": (8,),
        "s4_layers.0.kernel.log_A_real": (8, 2),
        "s4_layers.0.kernel.A_imag": (8, 2),
        "s4_layers.0.output_linear.0.weight": (16, 8, 1),
        "s4_layers.0.output_linear.0.bias": (16,),
        "norms.0.weight": (8,),
        "final_norm.weight": (8,),
        "decoder.weight": (3, 8),
        "decoder.bias": (3,),
    }


def test_the_model_of_the_paper():
    model = Lyra.paper(20)
    assert model.count_parameters() == 47_169
    assert [layer.d_inner for layer in model.pgc_layers] == [16, 128]
    assert len(model.s4_layers) == 1
    model = Lyra.paper(5, 2, d_model=8, d_state=4).double().eval()
    x = torch.randn(2, 7, 5, dtype=torch.float64)
    z = model.pgc_layers[1](model.pgc_layers[0](model.encoder(x)))
    z = z + model.s4_layers[0](model.norms[0](z))
    torch.testing.assert_close(model(x), model.decoder(z.mean(1)))


@pytest.mark.parametrize("prenorm", [True, False])
@pytest.mark.parametrize("pool", POOLS)
def test_written_out(pool, prenorm):
    model = small(prenorm=prenorm, pool=pool).double()
    x = torch.randn(3, 9, 5, dtype=torch.float64)
    z = model.encoder(x)
    for layer in model.pgc_layers:
        z = z + layer(z)
    for layer, norm in zip(model.s4_layers, model.norms, strict=True):
        z = z + layer(norm(z)) if prenorm else norm(z + layer(z))
    pooled = {"mean": z.mean(1), "max": z.amax(1), "first": z[:, 0]}[pool]
    y, embeddings = model(x, return_embeddings=True)
    torch.testing.assert_close(embeddings, z)
    torch.testing.assert_close(y, model.decoder(model.final_norm(pooled)))
    assert torch.equal(model(x), y)


def test_token_classification_written_out():
    model = small(LyraForTokenClassification, d_output=3)
    x = torch.randn(2, 9, 5)
    y, embeddings = model(x, return_embeddings=True)
    assert y.shape == (2, 9, 3) and embeddings.shape == (2, 9, 8)
    torch.testing.assert_close(y, model.decoder(model.final_norm(embeddings)))


def test_training_uses_dropout_and_both_ways_agree_without():
    """In training the residual is added outside the fused op: the numbers are those of evaluation."""
    model = small(dropout=0.0)
    x = torch.randn(2, 9, 5)
    torch.testing.assert_close(model.train()(x), model.eval()(x))
    model = small(dropout=0.5).train()
    assert not torch.equal(model(x), model(x))


def test_residuals_of_pgc_layers_are_added_by_the_op_unless_somebody_looks_at_a_layers_output(monkeypatch):
    model, x = small(), torch.randn(2, 9, 5)
    op, added = lk.ops.pgc, []

    def watched(*args, residual, **options):
        added.append(residual is not None)
        return op(*args, residual=residual, **options)

    monkeypatch.setattr(lk.ops, "pgc", watched)
    y, seen = model(x), []
    assert added == [True, True]
    model.pgc_layers[1].register_forward_hook(lambda layer, args, out: seen.append((*args, out)))
    torch.testing.assert_close(model(x), y)
    assert added[2:] == [True, False]
    u, out = seen[0]
    torch.testing.assert_close(out, model.pgc_layers[1](u))
    with torch.autocast("cpu", torch.bfloat16):  # which must not round an fp32 input that it adds
        assert model.pgc_layers[0](u, residual=u).dtype == torch.float32


# ---- token ids ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8], ids=str)
def test_token_ids_are_one_hot_letters(dtype):
    model = small().double()
    ids = torch.randint(5, (3, 11))
    one_hot = F.one_hot(ids, 5).double()
    wanted, found = model(one_hot), model(ids.to(dtype))
    torch.testing.assert_close(found, wanted)
    parameters = list(model.parameters())
    for a, b in zip(
        torch.autograd.grad(found.sum(), parameters), torch.autograd.grad(wanted.sum(), parameters), strict=True
    ):
        torch.testing.assert_close(a, b)
    torch.testing.assert_close(model(F.one_hot(ids, 5)), wanted)


def test_negative_ids_are_unknown_letters():
    model = small()
    ids = torch.tensor([[0, -1, 3, -7]])
    one_hot = F.one_hot(ids.clamp(min=0), 5).float() * (ids >= 0).unsqueeze(-1)
    torch.testing.assert_close(model(ids), model(one_hot))


# ---- padding -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("pool", POOLS)
def test_padding_does_not_matter(pool, bidirectional, backend_once, device):
    """A sequence gives the same alone, padded with anything and packed, and so do the parameters' gradients."""
    model = small(pool=pool, bidirectional=bidirectional).double().to(device)
    lengths = [4, 11, 1]
    sequences = [torch.randint(5, (1, n), device=device) for n in lengths]
    alone = torch.cat([model(s) for s in sequences])
    padded = torch.full((3, 14), 4, device=device)
    for i, s in enumerate(sequences):
        padded[i, : lengths[i]] = s
    cu_seqlens = torch.tensor([0, *lengths], device=device).cumsum(0)
    results = {
        "list": model(padded, lengths=lengths),
        "tensor": model(padded, lengths=torch.tensor(lengths, dtype=torch.int32, device=device)),
        "packed": model(torch.cat(sequences, 1), cu_seqlens=cu_seqlens),
        "packed-int32": model(torch.cat(sequences, 1), cu_seqlens=cu_seqlens.int()),
    }
    features = F.one_hot(padded, 5).double()
    features[torch.arange(14, device=device) >= torch.tensor(lengths, device=device)[:, None]] = torch.nan
    results["features"] = model(features, lengths=lengths)
    parameters = list(model.parameters())
    wanted = torch.autograd.grad(alone.sin().sum(), parameters)
    for found in results.values():
        torch.testing.assert_close(found, alone)
        for a, b in zip(torch.autograd.grad(found.sin().sum(), parameters), wanted, strict=True):
            torch.testing.assert_close(a, b)


@pytest.mark.parametrize("kind", [Lyra, LyraForTokenClassification])
def test_embeddings_and_tokens_of_the_padding_are_zero(kind):
    model = small(kind)
    y, embeddings = model(torch.randint(5, (2, 8)), return_embeddings=True, lengths=[3, 8])
    assert not embeddings[0, 3:].any() and embeddings[0, :3].any()
    if kind is LyraForTokenClassification:
        assert not y[0, 3:].any() and y[0, :3].any()
        torch.testing.assert_close(model.decoder(model.final_norm(embeddings[0, :3])), y[0, :3])


@pytest.mark.parametrize("pool", POOLS)
def test_nothing(pool):
    """An empty sequence pools to zeros; an empty batch gives an empty batch; gradients stay finite."""
    model = small(pool=pool)
    y = model(torch.randint(5, (2, 6)), lengths=[0, 6])
    torch.testing.assert_close(y[0], model.head(torch.zeros(8)))
    y.sum().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
    packed = model(torch.randint(5, (1, 6)), cu_seqlens=torch.tensor([0, 0, 6]))
    torch.testing.assert_close(packed[0], model.head(torch.zeros(8)))
    assert model(torch.randint(5, (0, 6))).shape == model(torch.randint(5, (0, 6)), lengths=[]).shape == (0, 1)
    assert model(torch.randint(5, (2, 0))).shape == (2, 1)
    assert model(torch.randint(5, (1, 0)), cu_seqlens=torch.tensor([0])).shape == (0, 1)


def test_a_list_of_lengths_inside_a_cuda_graph(monkeypatch):
    with pretended_card():
        model, ids = small().to("cuda"), torch.randint(5, (2, 8), device="cuda")
        wanted = model(ids, lengths=[3, 8])
        monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
        torch.testing.assert_close(model(ids, lengths=torch.tensor([3, 8], device="cuda")), wanted)
        with pytest.raises(
            ValueError, match="lengths must be a tensor on cuda:0 while a CUDA graph is captured: a list "
        ):
            model(ids, lengths=[3, 8])


def test_causal_up_to_the_pooling():
    model = small(LyraForTokenClassification, causal=True, pgc_kernel_size=4)
    x = torch.randn(1, 20, 5)
    before = model(x)[:, :12]
    x[:, 12:] = torch.nan
    assert torch.equal(model(x)[:, :12], before)


# ---- training and life as a module -------------------------------------------------------------------------------
def test_parameter_groups():
    model = Lyra(5, 8, s4_lr=0.002)
    groups = parameter_groups(model, lr=0.1, weight_decay=0.05)
    assert [(g["lr"], g["weight_decay"]) for g in groups] == [(0.1, 0.05), (0.002, 0.0)]
    names = {id(p): n for n, p in model.named_parameters()}
    slow = {names[id(p)] for p in groups[1]["params"]}
    assert slow == {f"s4_layers.{i}.kernel.{n}" for i in range(4) for n in ("log_dt", "log_A_real", "A_imag")}
    assert sum(len(g["params"]) for g in groups) == len(names)
    assert [len(g["params"]) for g in parameter_groups(copy.deepcopy(model), 0.1)] == [len(g["params"]) for g in groups]
    assert [g["lr"] for g in parameter_groups(Lyra(5, 8, s4_lr=None), 0.1, 0.05)] == [0.1, 0.1]
    assert len(parameter_groups(Lyra(5, 8, s4_lr=0.0), 0.1)) == 1
    model.encoder.weight.requires_grad_(False)
    assert all(p is not model.encoder.weight for g in parameter_groups(model, 0.1) for p in g["params"])
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    optimizer = torch.optim.AdamW(parameter_groups(model, lr=0.1))
    model(torch.randint(5, (4, 9))).square().sum().backward()
    optimizer.step()
    moved = {n: float((p.detach() - before[n]).abs().max()) for n, p in model.named_parameters()}
    assert 0 < moved["s4_layers.0.kernel.log_dt"] < 0.003 < 0.05 < moved["decoder.weight"]


def test_it_learns():
    model = Lyra(4, 16, num_pgc_layers=1, num_s4_layers=1, d_state=8, dropout=0.0)
    x = torch.randint(4, (256, 20))
    y = ((x[:, :-1] == 1) & (x[:, 1:] == 2)).float().sum(1, keepdim=True)
    optimizer = torch.optim.AdamW(parameter_groups(model, lr=1e-2))
    for _ in range(80):
        optimizer.zero_grad()
        loss = F.mse_loss(model(x), y)
        loss.backward()
        optimizer.step()
    assert loss < 0.15 * y.var()


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["copy", "pickle"])
def test_copies(duplicate):
    model, ids = small(metadata={"alphabet": "ACGTN"}), torch.randint(5, (2, 9))
    twin = duplicate(model)
    assert torch.equal(twin(ids), model(ids)) and twin.metadata == model.metadata and twin.config == model.config


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision(dtype):
    model, x = small(), torch.randn(2, 9, 5)
    wanted = model(x)
    with torch.autocast("cpu", dtype):
        found = model(x)
    assert found.dtype == dtype
    lower = copy.deepcopy(model).to(dtype)(x.to(dtype))
    for y in (found, lower):
        torch.testing.assert_close(y.float(), wanted, rtol=0.1, atol=0.1)


def test_compile_with_dynamic_length():
    torch._dynamo.reset()
    model = small(num_pgc_layers=1, num_s4_layers=1)
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend="aot_eager")
    for length in (20, 33):
        ids, lengths = torch.randint(5, (3, length)), torch.tensor([length, 2, 9])
        found, wanted = compiled(ids, lengths=lengths), model(ids, lengths=lengths)
        torch.testing.assert_close(found, wanted)
        parameters = list(model.parameters())
        for a, b in zip(
            torch.autograd.grad(found.sum(), parameters), torch.autograd.grad(wanted.sum(), parameters), strict=True
        ):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", [Lyra, LyraForTokenClassification])
def test_export_with_dynamic_batch_and_length(kind):
    model = small(kind)
    shapes = ({0: Dim("batch", min=1, max=4096), 1: Dim("length", min=2, max=100_000)},)
    program = torch.export.export(model, (torch.randint(5, (3, 20)),), dynamic_shapes=shapes)
    ids = torch.randint(5, (4, 51))
    torch.testing.assert_close(program.module()(ids), model(ids))


def test_attributions_in_evaluation_mode():
    captum = pytest.importorskip("captum.attr")
    model = small().double()
    x, baseline = torch.randn(1, 10, 5, dtype=torch.float64), torch.zeros(1, 10, 5, dtype=torch.float64) + 0.1
    found = captum.IntegratedGradients(model).attribute(x, baseline, target=0, n_steps=100)
    torch.testing.assert_close(found.sum(), (model(x) - model(baseline)).sum(), rtol=5e-3, atol=5e-3)


# ---- bad arguments -----------------------------------------------------------------------------------------------
CONSTRUCTOR = [
    ({"d_input": 0}, "d_input must be an integer of at least 1, got 0"),
    ({"d_model": 8.5}, "d_model must be an integer of at least 1, got 8.5"),
    ({"d_output": -1}, "d_output must be an integer of at least 1, got -1"),
    ({"num_pgc_layers": -1}, "num_pgc_layers must be an integer of at least 0, got -1"),
    ({"num_s4_layers": "2"}, "num_s4_layers must be an integer of at least 0, got '2'"),
    ({"d_state": 7}, r"d_state must be even \(conjugate pairs\), got 7"),
    ({"d_state": 7, "num_s4_layers": 0}, r"d_state must be even \(conjugate pairs\), got 7"),
    ({"pgc_expansion": 0}, "pgc_expansion must be a finite number above 0, got 0"),
    ({"pgc_expansion": [1.0]}, r"pgc_expansion must be one number or 2, one for each layer, got \[1.0\]"),
    ({"pgc_expansion": [1.0, -1.0]}, "pgc_expansion must be a finite number above 0, got -1.0"),
    ({"pgc_expansion": "1"}, "pgc_expansion must be a finite number above 0, got '1'"),
    ({"pgc_kernel_size": 4}, "pgc_kernel_size must be odd unless causal=True, got 4"),
    ({"final_norm_eps": 0}, "final_norm_eps must be a finite number above 0, got 0"),
    ({"pgc_kernel_size": 4, "num_pgc_layers": 0}, "pgc_kernel_size must be odd unless causal=True, got 4"),
    ({"dropout": 1.5}, r"dropout must be a probability in \[0, 1\), got 1.5"),
    ({"pgc_dropout": -1}, r"pgc_dropout must be a probability in \[0, 1\), got -1"),
    ({"prenorm": "yes"}, "prenorm must be True or False, got 'yes'"),
    ({"pool": "median"}, "pool must be one of mean, max, first, got 'median'"),
    ({"s4_lr": -0.001}, "s4_lr must be None or a finite number of at least 0, got -0.001"),
    ({"pgc_residual": 1}, "pgc_residual must be True or False, got 1"),
    ({"final_norm": None}, "final_norm must be True or False, got None"),
    ({"causal": 0}, "causal must be True or False, got 0"),
    ({"bidirectional": "both"}, "bidirectional must be True or False, got 'both'"),
    ({"causal": True, "bidirectional": True}, "causal and bidirectional must not both be True"),
    ({"algorithm": "slow"}, "algorithm must be one of auto, fft, direct, scan, got 'slow'"),
    ({"algorithm": "slow", "num_s4_layers": 0}, "algorithm must be one of auto, fft, direct, scan, got 'slow'"),
    ({"metadata": ["a"]}, r"metadata must be a dict or None, got \['a'\]"),
]


@pytest.mark.parametrize("arguments, message", CONSTRUCTOR)
def test_constructor(arguments, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        Lyra(**{"d_input": 5, "d_model": 8, **arguments})


IDS = torch.randint(5, (2, 9))
FORWARD = [
    (torch.randn(2, 9, 4), {}, ValueError, r"x must be .* token ids \(B, L\) or features \(B, L, 5\), got \(2, 9, 4\)"),
    (torch.randn(2, 9), {}, ValueError, r"x must be integer token ids .*, got \(2, 9\) of torch.float32"),
    (IDS[0], {}, ValueError, r"x must be token ids \(B, L\) or features .*, got \(9,\)"),
    (IDS > 1, {}, ValueError, "x must be integer token ids .* of torch.bool"),
    (torch.tensor([[0, 5]]), {}, ValueError, "x holds token id 5, the model has 5 letters"),
    (
        torch.randn(2, 9, 5).double(),
        {},
        TypeError,
        "x must be torch.float32 like the model's weights, got torch.float64",
    ),
    ([[1, 2]], {}, TypeError, "x must be a tensor, not list"),
    (IDS, {"lengths": [9] * 3}, ValueError, r"lengths must have shape \(batch,\) = \(2,\) to match x, not \(3\)"),
    (IDS, {"lengths": [9, 10]}, ValueError, "lengths must lie between 0 and the length of x, 9; got 10"),
    (IDS, {"lengths": [9, -1]}, ValueError, "lengths must lie between 0 and the length of x, 9; got -1"),
    (IDS, {"lengths": [1.5, 2.0]}, TypeError, r"lengths must be .* a list of integers, not \[1.5, 2.0\]"),
    (IDS, {"cu_seqlens": torch.tensor([0, 9])}, ValueError, r"with cu_seqlens x must have shape \(1, tokens"),
    (IDS[:1], {"cu_seqlens": torch.tensor([0, 8])}, ValueError, "cu_seqlens must run from 0 to .* in x, 9"),
    (IDS[:1], {"cu_seqlens": "09"}, TypeError, "cu_seqlens must be an integer tensor or a list of integers, not '09'"),
    (IDS[:1], {"lengths": [9], "cu_seqlens": torch.tensor([0, 9])}, ValueError, "give lengths .* or cu_seqlens"),
]


@pytest.mark.parametrize("layers", [2, 0])
@pytest.mark.parametrize("x, options, error, message", FORWARD)
def test_forward(x, options, error, message, layers):
    """The same errors whichever layers the model has."""
    for kind in (Lyra, LyraForTokenClassification):
        model = small(kind, num_pgc_layers=layers, num_s4_layers=layers)
        with pytest.raises(error, match=message):
            model(x, **options)
