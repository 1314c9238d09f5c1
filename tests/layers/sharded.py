"""What test_sharded.py starts in each of two processes: layers and models that are sharded in every way."""

from __future__ import annotations

import copy
import datetime
import functools
import json
import multiprocessing
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.fsdp.wrap import ModuleWrapPolicy, size_based_auto_wrap_policy
from torch.nn.parallel import DistributedDataParallel

import lyra_kernels as lk
from lyra import Lyra

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


def _check(name: str, way: Callable[[nn.Module, DeviceMesh], nn.Module], mesh: DeviceMesh) -> None:
    """Two steps of SGD on each rank's half of a batch, against the same in one process on all of it."""
    torch.manual_seed(0)
    model = MODELS[name]()
    x = torch.randn(4, 10, 8)
    sharded = way(copy.deepcopy(model), mesh)
    mine = x.chunk(RANKS)[dist.get_rank()]
    outputs: list[Tensor] = []
    for net, batch in ((model, x), (sharded, mine)):
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        for _ in range(2):
            optimizer.zero_grad()
            net(batch).square().mean().backward()
            optimizer.step()
        outputs.append(net(batch))
    torch.testing.assert_close(outputs[1], outputs[0].chunk(RANKS)[dist.get_rank()], rtol=1e-4, atol=1e-5)


CHECKS = {f"{way.__name__} {name}": functools.partial(_check, name, way) for way in WAYS for name in MODELS}


def _main(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    store = dist.FileStore(str(folder / "store"), RANKS)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=RANKS, timeout=datetime.timedelta(seconds=60))
    mesh, failed = init_device_mesh("cpu", (RANKS,)), {}
    for name, function in CHECKS.items():
        mine = None
        try:
            function(mesh)
        except BaseException:
            mine = traceback.format_exc()
            print(f"{name}, rank {rank}: {mine}", file=sys.stderr)
        every: list = [None] * RANKS
        dist.all_gather_object(every, mine)
        errors = [f"rank {r}: {error}" for r, error in enumerate(every) if error]
        if errors:
            failed[name] = "\n".join(errors)
    if rank == 0:
        (folder / "failed.json").write_text(json.dumps(failed))
    dist.destroy_process_group()


if __name__ == "__main__":
    fork = multiprocessing.get_context("fork")
    processes = [fork.Process(target=_main, args=(rank, Path(sys.argv[1]))) for rank in range(RANKS)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    sys.exit(max(abs(process.exitcode or 0) for process in processes))
