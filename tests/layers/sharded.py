"""What test_sharded.py starts in each of two processes: layers and models that are sharded in every way."""

from __future__ import annotations

import copy
import functools
import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, MixedPrecisionPolicy, fully_shard
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


CHECKS = {f"{way.__name__} {name}": functools.partial(_check, name, way) for way in WAYS for name in MODELS}


def _check_mixed_precision(group: Group) -> None:
    """A kernel that is sharded on its own is out of its reach; else a warning says that it is not."""
    torch.manual_seed(0)
    layer, u, policy = lk.S4D(8, transposed=False), torch.randn(2, 500, 8), MixedPrecisionPolicy(torch.bfloat16)
    mesh, errors, warned = init_device_mesh("cpu", (RANKS,)), [], []
    for alone in (True, False):
        sharded = copy.deepcopy(layer)
        if alone:
            fully_shard(sharded.kernel, mesh=mesh)
        fully_shard(sharded, mesh=mesh, mp_policy=policy)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            errors.append(float((sharded(u).float() - layer(u)).norm() / layer(u).norm()))
        warned.append(any("log_A_real and A_imag of a state space in torch.bfloat16" in str(w.message) for w in caught))
    assert errors[0] < 0.01 < errors[1] and warned == [False, True], (errors, warned)


CHECKS["fsdp2_mixed_precision"] = _check_mixed_precision


if __name__ == "__main__":
    processes.run(CHECKS, RANKS)
