"""DTensors through every op: what sharded_tensors.py checks in two processes, and how calls are split, without any."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from torch.distributed.tensor import DTensor, Partial, Placement, Replicate, Shard

from lyra_kernels.ops.sharding import placements
from lyra_kernels.schemas import CONTRACTS, OPS

from ..processes import failures
from .sharded_tensors import CHECKS


@pytest.fixture(scope="module")
def failed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return failures(f"{__package__}.sharded_tensors", tmp_path_factory.mktemp("sharding"))


@pytest.mark.parametrize("check", CHECKS)
def test_sharded_tensors(failed, check):
    assert check not in failed, failed[check]


def test_every_op_has_strategies():
    assert set(OPS.values()) <= set(DTensor._op_dispatcher.sharding_propagator.op_strategy_funcs)


R, P = Replicate(), Partial()


def spec(rank: int, *split: Placement) -> SimpleNamespace:
    """Of a tensor on a mesh of two dimensions."""
    mesh = SimpleNamespace(ndim=2, mesh_dim_names=("data", "model"))
    return SimpleNamespace(shape=(4,) * rank, placements=split or (R, R), mesh=mesh)


def scan(u: tuple[Placement, ...], parameters: tuple[Placement, ...], C: tuple[Placement, ...]) -> list:
    """Arguments of s4d_scan."""
    spectrum = [spec(rank, *parameters) for rank in (1, 2, 2)]
    return [spec(3, *u), *spectrum, spec(4, *C), spec(1, *parameters), None, None, None, True]


def test_dimensions_of_a_mesh_are_split_each_by_itself():
    contract = CONTRACTS["s4d_scan"]
    split = (Shard(0), Shard(2))
    args = scan(split, (R, Shard(0)), (R, Shard(1)))
    wanted, (y, state, checkpoints) = placements(contract, False, args)
    assert wanted[0] == y == list(split)
    assert state == checkpoints == [Shard(0), Shard(1)]
    backward = contract.backward_arguments((spec(3), None), args, (spec(2, Shard(0), Shard(1)),))
    wanted, gradients = placements(contract, True, backward)
    assert wanted[0] == gradients[0] == list(split)
    by_parameter = dict(zip(contract.returned, gradients, strict=True))
    assert by_parameter[contract.position("log_dt")] == [P, Shard(0)]
    assert by_parameter[contract.position("C")] == [P, Shard(1)]
    assert by_parameter[contract.position("initial_state")] == [R, R]  # which there is not


def test_the_backward_is_split_as_the_forward_was():
    """Though the gradient is split otherwise: what the forward left cannot be moved."""
    contract = CONTRACTS["s4d_scan"]
    whole = scan((R, R), (R, R), (R, R))
    backward = contract.backward_arguments((spec(3, Shard(0), P), None), whole, (spec(2),))
    wanted, gradients = placements(contract, True, backward)
    assert all(found == [R, R] for found in (*wanted, *gradients))


def test_an_error_names_the_dimension_of_the_mesh():
    args = [spec(3, Shard(0), Shard(1)), spec(2), None, None, None, None, None]
    args[5] = spec(1)  # lengths
    message = r"^lyra::gelu_glu: y is Shard\(dim=1\) over mesh dimension 'model', but the op looks along the sequence"
    with pytest.raises(ValueError, match=message):
        placements(CONTRACTS["gelu_glu"], False, args)
    args[5] = None
    assert placements(CONTRACTS["gelu_glu"], False, args)[1] == [[Shard(0), Shard(1)]]
