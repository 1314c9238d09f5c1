"""What test_sharded.py starts in each of two processes: layers and models that are sharded in every way."""

from __future__ import annotations

import copy
import functools
import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, MixedPrecision, MixedPrecisionPolicy, fully_shard
from torch.distributed.fsdp.wrap import ModuleWrapPolicy, size_based_auto_wrap_policy
from torch.nn.parallel import DistributedDataParallel

import lyra_kernels as lk
from lyra import Lyra

from .. import processes
from ..processes import Group

RANKS = 2
MODELS: dict[str, Callable[[], nn.Module]] = {
    "pgc": lambda: lk.PGC(8),
    "s4d": lambda: lk.S4D(8, d_state=4, transposed=False),
    "lyra": lambda: Lyra(d_input=8, d_model=8, d_output=2, d_state=4, num_s4_layers=2, dropout=0.0),
}
LAYERS = {lk.PGC, lk.S4D}


def _leaves(model: nn.Module) -> list[nn.Module]:
    """The modules that own parameters, without the root."""
    return [m for m in list(model.modules())[1:] if list(m.parameters(recurse=False))]


def fsdp2_leaf(model: nn.Module, mesh: DeviceMesh) -> nn.Module:
    for module in reversed(_leaves(model)):  # parts before what has them
        fully_shard(module, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def fsdp2_layer(model: nn.Module, mesh: DeviceMesh) -> nn.Module:
    for module in model.modules():
        if type(module) in LAYERS and module is not model:
            fully_shard(module, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def fsdp2_model(model: nn.Module, mesh: DeviceMesh) -> nn.Module:
    return fully_shard(model, mesh=mesh)


def fsdp1_leaf(model: nn.Module, mesh: DeviceMesh) -> nn.Module:
    policy = functools.partial(size_based_auto_wrap_policy, min_num_params=1)
    return FullyShardedDataParallel(model, auto_wrap_policy=policy, device_id=torch.device("cpu"))


def fsdp1_layer(model: nn.Module, mesh: DeviceMesh) -> nn.Module:
    return FullyShardedDataParallel(
        model, auto_wrap_policy=ModuleWrapPolicy(LAYERS), use_orig_params=True, device_id=torch.device("cpu")
    )


def fsdp1_model(model: nn.Module, mesh: DeviceMesh) -> nn.Module:
    return FullyShardedDataParallel(model, use_orig_params=True, device_id=torch.device("cpu"))


def ddp(model: nn.Module, mesh: DeviceMesh) -> nn.Module:
    return DistributedDataParallel(model)


WAYS = (fsdp2_leaf, fsdp2_layer, fsdp2_model, fsdp1_leaf, fsdp1_layer, fsdp1_model, ddp)


def _check(name: str, way: Callable[[nn.Module, DeviceMesh], nn.Module], group: Group) -> None:
    """Two steps of SGD on each rank's half of a batch, against the same in one process on all of it."""
    torch.manual_seed(0)
    model = MODELS[name]()
    x = torch.randn(4, 10, 8)
    sharded = way(copy.deepcopy(model), init_device_mesh("cpu", (RANKS,)))
    mine = x.chunk(RANKS)[group.rank()]
    outputs: list[Tensor] = []
    for net, batch in ((model, x), (sharded, mine)):
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        for _ in range(2):
            optimizer.zero_grad()
            net(batch).square().mean().backward()
            optimizer.step()
        outputs.append(net(batch))
    torch.testing.assert_close(outputs[1], outputs[0].chunk(RANKS)[group.rank()], rtol=1e-4, atol=1e-5)


# ---- 16 bits, beside state spaces in float32: each kernel a unit of its own ----------------------------------------
def _fsdp2_by_parts(model: nn.Module, mesh: DeviceMesh, **options: MixedPrecisionPolicy) -> nn.Module:
    for kernel in [m for m in model.modules() if isinstance(m, lk.S4DKernel)]:
        fully_shard(kernel, mesh=mesh)
    for layer in [m for m in model.modules() if type(m) in LAYERS]:
        fully_shard(layer, mesh=mesh, **options)
    return fully_shard(model, mesh=mesh, **options)


def fsdp2_bfloat16(model: nn.Module, mesh: DeviceMesh) -> nn.Module:
    return _fsdp2_by_parts(model.bfloat16(), mesh)


def fsdp2_mixed(model: nn.Module, mesh: DeviceMesh) -> nn.Module:
    return _fsdp2_by_parts(model, mesh, mp_policy=MixedPrecisionPolicy(param_dtype=torch.bfloat16))


def fsdp1_bfloat16(model: nn.Module, mesh: DeviceMesh) -> nn.Module:
    policy = ModuleWrapPolicy({lk.S4DKernel})
    return FullyShardedDataParallel(
        model.bfloat16(), auto_wrap_policy=policy, use_orig_params=True, device_id=torch.device("cpu")
    )


def fsdp1_mixed(model: nn.Module, mesh: DeviceMesh) -> nn.Module:
    return FullyShardedDataParallel(
        model,
        auto_wrap_policy=ModuleWrapPolicy({lk.S4DKernel}),
        mixed_precision=MixedPrecision(param_dtype=torch.bfloat16, _module_classes_to_ignore=(lk.S4DKernel,)),
        use_orig_params=True,
        device_id=torch.device("cpu"),
    )


def _check_16_bits(way: Callable[[nn.Module, DeviceMesh], nn.Module], group: Group) -> None:
    """The output of 16-bit layers, a state space without a warning, and gradients of it in float32."""
    torch.manual_seed(0)
    model, x = MODELS["lyra"](), torch.randn(2, 300, 8)
    sharded = way(copy.deepcopy(model), init_device_mesh("cpu", (RANKS,)))
    with torch.no_grad():  # the weights, as 16 bits hold them
        wanted = copy.deepcopy(model).bfloat16().float()(x)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*state space")
        y = sharded(x.bfloat16())
    assert (y.float() - wanted).norm() < 0.02 * wanted.norm()
    y.float().square().mean().backward()
    gradients = [p.grad for name, p in sharded.named_parameters() if name.endswith("log_dt")]
    assert all(g is None or g.dtype == torch.float32 for g in gradients)


def _check_warning(group: Group) -> None:
    """Mixed precision of the whole casts the state spaces as well."""
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16)
    model = fully_shard(MODELS["lyra"](), mesh=init_device_mesh("cpu", (RANKS,)), mp_policy=policy)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model(torch.randn(2, 10, 8))
    assert any("fully_shard(layer.kernel)" in str(warning.message) for warning in caught), caught


CHECKS = {f"{way.__name__} {name}": functools.partial(_check, name, way) for way in WAYS for name in MODELS}
CHECKS |= {
    way.__name__: functools.partial(_check_16_bits, way)
    for way in (fsdp2_bfloat16, fsdp2_mixed, fsdp1_bfloat16, fsdp1_mixed)
}
CHECKS["fsdp2_mixed of the whole"] = _check_warning


if __name__ == "__main__":
    processes.run(CHECKS, RANKS)
