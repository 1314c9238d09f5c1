"""device=, dtype=, reset_parameters(): as for torch.nn's layers, and the same seed gives the same weights."""

from __future__ import annotations

import inspect

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.utils import parametrize, skip_init

import lyra
import lyra_kernels as lk

TINY = {"num_pgc_layers": 1, "num_s4_layers": 2, "d_state": 6}
MAKERS = {
    "rms_norm": (lk.RMSNorm, (8,), {}),
    "pgc": (lk.PGC, (8,), {"expansion_factor": 1.5}),
    "kernel": (lk.S4DKernel, (8,), {"dt_min": 0.01}),
    "kernel_frozen": (lk.S4DKernel, (8,), {"lr": 0.0}),
    "kernel_options": (
        lk.S4DKernel,
        (8,),
        {"init": ("legs", "rand"), "n_ssm": 4, "dt_tie": False, "dt_fast": True, "dt_transform": "softplus"},
    ),
    "s4d": (lk.S4D, (8,), {}),
    "s4d_both_ways": (lk.S4D, (8,), {"lr": 0.0, "bidirectional": True}),
    "lyra": (lyra.Lyra, (5, 8), TINY),
    "lyra_post_norm": (lyra.Lyra, (5, 8), {**TINY, "prenorm": False, "final_norm": False, "s4_lr": 0.0}),
    "tokens": (lyra.LyraForTokenClassification, (5, 8), TINY),
    "both_strands": (lyra.LyraBothStrands, (5, 8), TINY),
    "both_strands_tokens": (lyra.LyraBothStrandsForTokenClassification, (5, 8), {**TINY, "s4_lr": 0.0}),
}


def empty(module: nn.Module) -> nn.Module:
    """From the meta device, every number a NaN."""
    module.to_empty(device="cpu")
    with torch.no_grad():
        for tensor in (*module.parameters(), *module.buffers()):
            tensor.fill_(torch.nan)
    return module


def walk(module: nn.Module) -> None:
    """PyTorch's own convention: each module that owns parameters or buffers is asked."""
    for part in module.modules():
        if [*part.parameters(recurse=False), *part.buffers(recurse=False)]:
            part.reset_parameters()


def _inside(kind, args, options):
    with torch.device("meta"):
        return kind(*args, **options)


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("road", ["again", "skip_init", "device", "context", "walk"])
def test_the_same_seed_gives_the_same_weights(name, road):
    kind, args, options = MAKERS[name]
    torch.manual_seed(3)
    wanted = kind(*args, **options).state_dict()
    later = torch.rand(3)
    if road == "again":
        module = kind(*args, **options)
    elif road == "skip_init":
        module = empty(skip_init(kind, *args, **options))
    elif road == "device":
        module = empty(kind(*args, device="meta", **options))
    else:
        module = empty(_inside(kind, args, options))
    torch.manual_seed(3)
    (walk if road == "walk" else kind.reset_parameters)(module)
    found = module.state_dict()
    assert list(found) == list(wanted)
    assert all(torch.equal(found[key], wanted[key]) for key in wanted)
    assert torch.equal(torch.rand(3), later)


@pytest.mark.parametrize("name", MAKERS)
def test_device_and_dtype(name):
    kind, args, options = MAKERS[name]
    for keyword in ("device", "dtype"):
        assert inspect.signature(kind).parameters[keyword].kind is inspect.Parameter.KEYWORD_ONLY
    module = kind(*args, **options, device="meta", dtype=torch.float64)
    assert all(t.is_meta and t.dtype == torch.float64 for t in (*module.parameters(), *module.buffers()))
    module = kind(*args, **options, dtype=torch.bfloat16)
    for key, tensor in (*module.named_parameters(), *module.named_buffers()):
        wide = "kernel" in name or ".kernel." in f".{key}"
        assert tensor.dtype == (torch.float32 if wide else torch.bfloat16) and tensor.isfinite().all(), key
    for wrong in (torch.int32, torch.complex64, "bfloat16"):
        with pytest.raises(ValueError, match=r"^dtype must be a floating-point torch.dtype or None, got "):
            kind(*args, **options, dtype=wrong)


def test_models_pass_device_and_dtype_on():
    paper = lyra.Lyra.paper(5, d_model=8, device="meta", dtype=torch.float16)
    assert all(p.is_meta for p in paper.parameters()) and paper.decoder.weight.dtype == torch.float16
    state = lyra.Lyra.paper(5, d_model=8).state_dict()
    model = lyra.Lyra.from_state_dict(state, device="cpu", dtype=torch.bfloat16)
    assert model.encoder.weight.dtype == torch.bfloat16
    assert torch.equal(model.s4_layers[0].kernel.C, state["s4_layers.0.kernel.C"])
    for each in (paper, model):
        assert not {"device", "dtype"} & set(each.config)


def test_layers_reset_one_after_the_other_share_no_numbers():
    """The random numbers of a layer's children are not handed out again to the layer after it."""
    layers = [lk.S4D(32), lk.S4D(32)]
    for layer in layers:
        layer.reset_parameters()
    first, second = ({x for p in layer.parameters() for x in p.detach().flatten().tolist()} for layer in layers)
    spectrum = {x for n in ("log_A_real", "A_imag") for x in getattr(layers[0].kernel, n).flatten().tolist()}
    assert len((first & second) - spectrum) < 3


def test_a_kernel_that_is_not_next_draws_numbers_of_its_own():
    layer = lk.S4D(8)
    torch.manual_seed(0)
    layer.reset_parameters()
    before = layer.kernel.C.detach().clone()
    torch.manual_seed(1)
    wanted = lk.S4DKernel(8)
    torch.manual_seed(1)
    layer.kernel.reset_parameters()
    assert torch.equal(layer.kernel.C, wanted.C) and not torch.equal(layer.kernel.C, before)
    layer.reset_parameters()
    torch.rand(1)
    before = layer.kernel.C.detach().clone()
    layer.kernel.reset_parameters()
    assert not torch.equal(layer.kernel.C, before)


def test_kernels_are_reset_in_fake_tensor_mode():
    with FakeTensorMode():
        lyra.Lyra(5, 8, **TINY).reset_parameters()


def test_what_cannot_be_reset_says_so():
    layer = lk.S4D(8)
    before = layer.D.detach().clone()
    layer.output_linear.add_module("scale", nn.ParameterList([nn.Parameter(torch.ones(3))]))
    model = lyra.Lyra(5, 8, **TINY)
    model.s4_layers[1] = layer
    weight = model.encoder.weight.detach().clone()
    with pytest.raises(TypeError, match=r"^s4_layers.1.output_linear.scale, a ParameterList, has no reset_parameters"):
        model.reset_parameters()
    with pytest.raises(TypeError, match=r"^output_linear.scale, a ParameterList, has no reset_parameters"):
        layer.reset_parameters()
    assert torch.equal(layer.D, before) and torch.equal(model.encoder.weight, weight)
    kernel = lk.S4DKernel(8)
    parametrize.register_parametrization(kernel, "log_dt", nn.Identity())
    with pytest.raises(RuntimeError, match="cannot reset log_dt: it is parametrized"):
        kernel.reset_parameters()


# ---- sharded, in a group of one process ---------------------------------------------------------------------------
@pytest.fixture(scope="module")
def mesh():
    dist = pytest.importorskip("torch.distributed")
    if not dist.is_available() or dist.is_initialized():
        pytest.skip("needs a process group of its own")
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield dist.device_mesh.init_device_mesh("cpu", (1,))
    dist.destroy_process_group()


@pytest.mark.parametrize("reset", [lyra.Lyra.reset_parameters, walk], ids=["root", "walk"])
def test_fully_shard_from_the_meta_device(mesh, reset):
    from torch.distributed.fsdp import fully_shard

    kind, args, options = MAKERS["lyra"]
    torch.manual_seed(3)
    wanted = kind(*args, **options).state_dict()
    model = kind(*args, **options, device="meta")
    for layer in (*model.pgc_layers, *model.s4_layers):
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    model.to_empty(device="cpu")
    torch.manual_seed(3)
    reset(model)
    found = {key: value.full_tensor() for key, value in model.state_dict().items()}
    assert list(found) == list(wanted) and all(torch.equal(found[key], wanted[key]) for key in wanted)
    assert model(torch.randint(5, (2, 9))).isfinite().all()
    groups = lyra.parameter_groups(model, lr=0.1, weight_decay=0.5)
    assert [(len(g["params"]), g["lr"], g["weight_decay"]) for g in groups] == [(23, 0.1, 0.5), (6, 0.001, 0.0)]


def test_fsdp1_from_the_meta_device(mesh):
    from torch.distributed.fsdp import FullyShardedDataParallel

    torch.manual_seed(3)
    wanted = lk.S4D(8).state_dict()
    torch.manual_seed(3)
    layer = FullyShardedDataParallel(lk.S4D(8, device="meta"), device_id=torch.device("cpu"), use_orig_params=True)
    with FullyShardedDataParallel.summon_full_params(layer):
        found = {key: value.clone() for key, value in layer.module.state_dict().items()}
    assert list(found) == list(wanted) and all(torch.equal(found[key], wanted[key]) for key in wanted)
    assert [len(g["params"]) for g in lyra.parameter_groups(layer, lr=0.1)] == [4, 3]


def test_flattened_parameters_are_refused(mesh):
    from torch.distributed.fsdp import FullyShardedDataParallel

    layer = nn.ModuleDict({"mix": lk.S4D(8, lr=0.001)})
    layer = FullyShardedDataParallel(layer, device_id=torch.device("cpu"), use_orig_params=False)
    with pytest.raises(
        ValueError, match=r"mix\.kernel\.log_dt is no parameter or buffer any more.*use_orig_params=True"
    ):
        lyra.parameter_groups(layer, lr=0.1)
