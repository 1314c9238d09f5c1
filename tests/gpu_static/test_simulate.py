"""The simulation on code whose time is known."""

from __future__ import annotations

from dataclasses import replace

import pytest

pytest.importorskip("triton")
from benchmarks.gpu_static.sass import Instruction
from benchmarks.gpu_static.simulate import Costs, Request, simulate

COSTS = Costs(line=1.0, sector_loaded=0.5, sector_stored=2.0)
FREE = 7


def _i(op: str, stall: int = 1, write: int = FREE, wait: int = 0, read: int = FREE, pending: int = -1) -> Instruction:
    return Instruction(op, False, stall, write, read, wait, pending=pending)


def _run(code: list[Instruction], warps: int = 1, programs: int = 1, touched: Request | None = None):
    requests = dict.fromkeys(range(len(code)), touched) if touched else {}
    return simulate(code, range(len(code)), warps, programs, COSTS, requests)


def test_a_chain_of_stalls():
    """One warp, each instruction waits for the one before: the sum of the stalls."""
    cycles, used = _run([_i("FADD", stall=4)] * 100)
    assert cycles == 400 and used["issue"] == 100 and used["fma"] == 100


def test_a_chain_of_loads():
    """Each load waits for the one before by its scoreboard: the latency, and the cycles of the unit."""
    loads = [_i("LDG.E", write=0, wait=1 if n else 0) for n in range(10)]
    cycles, _ = _run([*loads, _i("FADD", wait=1)], touched=Request(lines=1, sectors=4, latency=500))
    assert cycles == pytest.approx(10 * (500 + 1 + 4 * 0.5) + 1, abs=1)


def test_warps_hide_a_chain():
    """Of one scheduler's four warps each waits four cycles: together they issue every cycle."""
    code = [_i("FADD", stall=4)] * 100
    assert _run(code, warps=16)[0] == pytest.approx(400, abs=4)
    assert _run(code, warps=4)[0] == 400  # one warp on each scheduler
    assert _run(code, warps=32)[0] == pytest.approx(800, abs=8)  # now the schedulers are full


def test_a_loop_bound_by_its_unit():
    """Four cycles a shared load of 16 bytes, on the one unit of four schedulers."""
    cycles, used = _run([_i("LDS.128")] * 200, warps=8)
    assert used["shared"] == pytest.approx(2 * 200 * 4 * 4 * COSTS.shared_pass)
    assert cycles == pytest.approx(used["shared"], rel=0.02)


def test_scattered_requests_cost_lines_and_sectors():
    together, scattered = (
        _run([_i("LDG.E")] * 200, warps=4, touched=Request(lines, sectors, 300.0))[0]
        for lines, sectors in ((1, 4), (32, 32))
    )
    assert scattered / together == pytest.approx((32 + 32 * 0.5) / (1 + 4 * 0.5), rel=0.05)
    stored = _run([_i("STG.E")] * 200, warps=4, touched=Request(32, 32))[0]
    assert stored / scattered == pytest.approx((32 + 32 * 2) / (32 + 32 * 0.5), rel=0.05)


def test_a_barrier_waits_for_the_last_warp_of_a_program():
    """Two warps on one scheduler, who both wait long before it: the second's wait overlaps the first's."""
    code = [_i("LDG.E", write=0), _i("BAR.SYNC", wait=1, stall=1), _i("FADD", stall=1)]
    request = Request(1, 4, 1000.0)
    one, two = (_run(code, warps=w, touched=request)[0] for w in (4, 8))
    assert one == pytest.approx(1000 + 12 + COSTS.barrier, abs=4)
    assert two == pytest.approx(one + 12, abs=4)
    without = [code[0], _i("FADD", wait=1), code[2]]
    assert _run(without, warps=4, touched=request)[0] == pytest.approx(one - COSTS.barrier, abs=2)


def test_programs_do_not_wait_for_each_other_at_barriers():
    code = [_i("FADD", stall=15)] * 10 + [_i("BAR.SYNC")] + [_i("FADD", stall=15)] * 10
    one, two = _run(code, warps=4, programs=1)[0], _run(code, warps=4, programs=2)[0]
    assert two == pytest.approx(one, abs=2)


def test_copies_are_waited_for_by_groups():
    """A wait for all groups takes a copy's latency; one that leaves the last under way takes none."""
    request = Request(1, 4, 700.0)
    copy, close = _i("LDGSTS.E"), _i("LDGDEPBAR")
    waits = _run([copy, close, _i("DEPBAR.LE", pending=0), _i("FADD")], touched=request)[0]
    goes = _run([copy, close, _i("DEPBAR.LE", pending=1), _i("FADD")], touched=request)[0]
    assert waits == pytest.approx(700, abs=10) and goes < 20


def test_costs_matter():
    code = [_i("MUFU.EX2", write=0), _i("FADD", wait=1)] * 50
    slow = simulate(code, range(100), 1, 1, replace(COSTS, latency_mufu=60), {})[0]
    assert slow - _run(code)[0] == pytest.approx(50 * 30)
