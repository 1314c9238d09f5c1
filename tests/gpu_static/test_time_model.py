"""Waves, memory and PyTorch's own operations; and the model against what was measured."""

from __future__ import annotations

import functools
from dataclasses import replace

import pytest

pytest.importorskip("triton")
from benchmarks.gpu_static import calibration, fit, time_model
from benchmarks.gpu_static.launches import Aten
from benchmarks.gpu_static.program import Program
from benchmarks.gpu_static.rows import Row
from benchmarks.gpu_static.sass import Instruction
from benchmarks.gpu_static.time_model import H200, estimate, resident, waves

ROWS = 130
"""Measured rows whose launches are frozen."""


def _program(count: int = 1000, stall: int = 4, **changes) -> Program:
    """A warp of a chain of ``count`` instructions."""
    code = (*[Instruction("FADD", False, stall, 7, 7, 0)] * count, Instruction("EXIT", False, 5, 7, 7, 0))
    good = {"kernel": "k", "grid": (1,), "warps": 1, "registers": 32, "shared": 0, "moved": 0, "element": 4,
            "code": code, "turns": (), "touched": {}}  # fmt: skip
    return Program(**{**good, **changes})


@pytest.mark.parametrize(
    ("changes", "places"),
    [
        ({"warps": 4, "registers": 128}, 4),  # 65,536 registers
        ({"warps": 4, "registers": 129}, 3),  # which are handed out in eights
        ({"warps": 8, "registers": 32}, 8),  # 64 warps
        ({"warps": 1, "registers": 16}, 32),  # 32 programs
        ({"warps": 1, "registers": 16, "shared": 74_000}, 3),
        ({"warps": 32, "registers": 255}, 1),
    ],
)
def test_programs_that_a_processor_holds(changes, places):
    assert resident(_program(**changes), H200) == places


def test_waves():
    assert waves(100, 4, 132) == [(1.0, 1)]
    assert waves(300, 4, 132) == [(1.0, 3)]
    assert waves(528, 4, 132) == [(1.0, 4)]
    assert waves(529, 4, 132) == [(1.0, 4), (1.0, 1)]  # a second wave, nearly empty
    assert waves(5280, 4, 132) == [(10.0, 4)]


def test_a_chain_takes_its_stalls_at_the_clock():
    (found,) = estimate([_program()])
    cold = 1001 * H200.cold
    assert found.us == pytest.approx(H200.gap + (4000 + 5 + cold) / H200.gigahertz / 1e3, rel=1e-3)
    assert found.bound.startswith("chain (issue 16%") and found.waves == pytest.approx(1 / 32 / 132)


def test_two_waves_take_twice_as_long():
    fixed = 1001 * H200.cold / H200.gigahertz / 1e3 + H200.gap
    one, two = (estimate([_program(grid=(n,), warps=32, registers=64)])[0].us - fixed for n in (132, 264))
    assert two / one == pytest.approx(2, rel=1e-3)


def test_memory_bounds_what_moves_much():
    (found,) = estimate([_program(count=10, moved=10**9)])
    assert found.bound == "DRAM" and found.us == pytest.approx(H200.gap + 1e9 / (H200.dram * 1e6), rel=0.01)
    (near,) = estimate([_program(count=10, moved=30 * 10**6)])
    assert near.bound == "L2" and near.us == pytest.approx(H200.gap + 30 / H200.l2, rel=0.02)


def test_turns_of_a_loop_are_continued_on_a_line():
    body = [Instruction("FADD", False, 4, 7, 7, 0)] * 9 + [Instruction("BRA", True, 5, 7, 7, 0, target=0)]
    code = (*body, Instruction("EXIT", False, 5, 7, 7, 0))
    short, long = (estimate([_program(code=code, turns=(t,))])[0].computing for t in (3.0, 1003.0))
    assert (long - short) * 1e3 * H200.gigahertz == pytest.approx(1000 * 41, rel=1e-3)


def test_a_loop_beyond_the_instruction_cache_costs_more():
    size = H200.cache + 100
    code = (*[Instruction("FADD", False, 1, 7, 7, 0)] * size, Instruction("BRA", True, 5, 7, 7, 0, target=0),
            Instruction("EXIT", False, 5, 7, 7, 0))  # fmt: skip
    card = replace(H200, stream=0.0)
    with_, without = (estimate([_program(code=code, turns=(10.0,))], c)[0].computing for c in (H200, card))
    assert (with_ - without) * 1e3 * H200.gigahertz == pytest.approx(10 * size * H200.stream, rel=1e-3)


def test_operations_of_pytorch():
    product = Aten("mm", [[1000, 64], [64, 128], [1000, 128]], [], 10**6, "float32")
    view = Aten("t", [[2, 2]], [], 32, "float32")
    found = estimate([product, view])
    flops = 2 * 1000 * 64 * 128
    assert len(found) == 1 and found[0].bound == "product"
    assert found[0].us == pytest.approx(H200.gap + H200.product + flops / (H200.fp32_products * 1e6))
    (copied,) = estimate([Aten("clone", [[1]], [], 376 * 10**6, "float32")])
    assert copied.us == pytest.approx(H200.gap + H200.elementwise + 376 / H200.dram)


def test_what_was_assumed_is_said():
    (found,) = estimate([_program(assumed={"a.py:3": "LDG touches consecutive memory"})])
    assert "assumed: a.py:3 LDG touches consecutive memory" in str(found)


def test_frozen_code_is_what_was_frozen(tmp_path):
    code = (
        Instruction("LDG.E.128", True, 3, 2, 1, 5),
        Instruction("DEPBAR.LE", False, 1, 7, 7, 0, pending=2),
        Instruction("BRA", True, 5, 7, 7, 0, target=0),
    )
    row = Row("rms_norm", (8, 2048, 64), "float32", "forward")
    given = _program(code=code, turns=(2.5,), touched={0: (1.5, 6.0)}, assumed={"a.py:3": "x"})
    aten = Aten("mm", [[1, 2]], [[2, 1]], 8, "float32")
    calibration.write({row: [given, aten, given]}, tmp_path / "x.gz")
    assert calibration.read(tmp_path / "x.gz") == {row: [given, aten, given]}


def test_a_table_that_is_not_explained_is_found():
    def rows(*ratios: float) -> list[fit.Prediction]:
        row = Row("rms_norm", (8, 2048, 64), "float32", "forward")
        return [fit.Prediction(row, r, "", 1.0) for r in ratios]

    assert not fit.failures(rows(*[1.0] * 9, 1.9))
    assert len(fit.failures(rows(*[1.0] * 9, 2.1))) == 1  # beyond the second factor
    assert len(fit.failures(rows(*[1.0] * 8, 0.6, 1.6))) == 2  # more than a tenth beyond the first


@functools.cache
def _frozen() -> calibration.Launched:
    return calibration.read()


def _explained(wanted: list[Row]) -> list[fit.Prediction]:
    launched = _frozen()
    return fit.predict({row: launched[row] for row in wanted}, calibration.measured())


@pytest.mark.parametrize("op", ["rms_norm", "gated_conv", "pgc", "gelu_glu", "s4d_scan"])
@pytest.mark.parametrize("direction", ["forward", "train"])
def test_the_model_explains_measured_rows(op, direction):
    """The quick ones; the others in the whole matrix."""
    (found,) = _explained([Row(op, (8, 2048, 64), "float32", direction)])
    assert not fit.failures([found]) and 1 / fit.CLOSE < found.ratio < fit.CLOSE, found


@pytest.mark.full
def test_the_model_explains_every_measured_row():
    found = _explained([r for r in calibration.measured() if r in _frozen()])
    assert len(found) >= ROWS
    assert not fit.failures(found), "\n".join(map(str, fit.failures(found)))
    spread = fit.spread([p for p in found if fit.independent(p.row)])
    assert spread < 0.13, f"{spread:.3f}: the model explains less than it did"


def test_the_model_would_not_explain_a_card_whose_sectors_cost_nothing():
    """The check can fail: without its main parameter rows bound by sectors are far off."""
    row = Row("s4d_scan", (64, 4096, 64), "float32", "forward")
    launched, measured = _frozen(), calibration.measured()
    costs = replace(H200.costs, line=0.1, sector_loaded=0.1, sector_stored=0.1)
    blind = fit.predict({row: launched[row]}, measured, replace(H200, costs=costs))
    assert fit.failures(blind) and not fit.failures(fit.predict({row: launched[row]}, measured))


def test_every_told_kernel_is_known():
    """What the model is told of a kernel must not outlive the kernel unseen."""
    import lyra_kernels.backends.triton as kernels

    source = "".join(p.read_text() for p in (calibration.Path(kernels.__file__).parent).glob("*.py"))
    assert all(f"def {name}(" in source for name in time_model.TOLD)
