"""Lines, sectors and turns of loops, from Triton's GPU IR of kernels small enough to be counted by hand."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("triton")
from benchmarks.gpu_static import layouts, traffic, ttgir
from benchmarks.gpu_static.record import Launch

BLOCKED = "#ttg.blocked<{sizePerThread = [1, 4], threadsPerWarp = [2, 16], warpsPerCTA = [4, 1], order = [1, 0]}>"
PRODUCT = "#ttg.nvidia_mma<{versionMajor = 2, versionMinor = 0, warpsPerCTA = [1, 4], instrShape = [16, 8]}>"

IR = """
#blocked = #ttg.blocked<{sizePerThread = [1, 1], threadsPerWarp = [1, 32], warpsPerCTA = [4, 1], order = [1, 0]}>
#loc = loc("/a/kernel.py":1:0)
module attributes {"ttg.num-warps" = 4 : i32} {
  tt.func public @kernel(%u: !tt.ptr<f32> loc("u"(#loc)), %y: !tt.ptr<f32> loc("y"(#loc)), %table_ptr: !tt.ptr<i64> loc("t"(#loc)), %H: i32 loc("H"(#loc)), %L: i32 loc("L"(#loc))) attributes {noinline = false} {
    %c0 = arith.constant 0 : i32 loc(#loc1)
    %c32 = arith.constant 32 : i32 loc(#loc1)
    %h = tt.get_program_id x : i32 loc(#loc2)
    %r = tt.make_range {end = 16 : i32, start = 0 : i32} : tensor<16xi32, #ttg.slice<{dim = 1, parent = #blocked}>> loc(#loc2)
    %r2 = tt.expand_dims %r {axis = 1 : i32} : tensor<16xi32, #ttg.slice<{dim = 1, parent = #blocked}>> -> tensor<16x1xi32, #blocked> loc(#loc2)
    %t = tt.make_range {end = 32 : i32, start = 0 : i32} : tensor<32xi32, #ttg.slice<{dim = 0, parent = #blocked}>> loc(#loc2)
    %t2 = tt.expand_dims %t {axis = 0 : i32} : tensor<32xi32, #ttg.slice<{dim = 0, parent = #blocked}>> -> tensor<1x32xi32, #blocked> loc(#loc2)
    %Lr = tt.splat %L : i32 -> tensor<16x1xi32, #blocked> loc(#loc2)
    %first = arith.muli %r2, %Lr : tensor<16x1xi32, #blocked> loc(#loc2)
    %first2 = tt.broadcast %first : tensor<16x1xi32, #blocked> -> tensor<16x32xi32, #blocked> loc(#loc2)
    %us = tt.splat %u : !tt.ptr<f32> -> tensor<16x32x!tt.ptr<f32>, #blocked> loc(#loc2)
    %ys = tt.splat %y : !tt.ptr<f32> -> tensor<16x32x!tt.ptr<f32>, #blocked> loc(#loc2)
    %n = tt.addptr %table_ptr, %h : !tt.ptr<i64>, i32 loc(#loc2)
    %rows = tt.load %n : !tt.ptr<i64> loc(#loc2)
    %one:2 = scf.for %i = %c0 to %L step %c32 iter_args(%a = %c0, %b = %c0) -> (i32, i32)  : i32 {
      %is = tt.splat %i : i32 -> tensor<1x32xi32, #blocked> loc(#loc3)
      %ti = arith.addi %is, %t2 : tensor<1x32xi32, #blocked> loc(#loc3)
      %ti2 = tt.broadcast %ti : tensor<1x32xi32, #blocked> -> tensor<16x32xi32, #blocked> loc(#loc3)
      %token = arith.addi %first2, %ti2 : tensor<16x32xi32, #blocked> loc(#loc3)
      %Hs = tt.splat %H : i32 -> tensor<16x32xi32, #blocked> loc(#loc3)
      %at = arith.muli %token, %Hs : tensor<16x32xi32, #blocked> loc(#loc3)
      %p = tt.addptr %us, %at : tensor<16x32x!tt.ptr<f32>, #blocked>, tensor<16x32xi32, #blocked> loc(#loc3)
      %x = tt.load %p : tensor<16x32x!tt.ptr<f32>, #blocked> loc(#loc3)
      %q = tt.addptr %ys, %token : tensor<16x32x!tt.ptr<f32>, #blocked>, tensor<16x32xi32, #blocked> loc(#loc4)
      %half = arith.constant dense<16> : tensor<1x32xi32, #blocked> loc(#loc4)
      %m = arith.cmpi slt, %t2, %half : tensor<1x32xi32, #blocked> loc(#loc4)
      %m2 = tt.broadcast %m : tensor<1x32xi1, #blocked> -> tensor<16x32xi1, #blocked> loc(#loc4)
      tt.store %q, %x, %m2 : tensor<16x32x!tt.ptr<f32>, #blocked> loc(#loc4)
      %c64 = arith.constant 64 : i32 loc(#loc6)
      %odd = arith.remsi %i, %c64 : i32 loc(#loc6)
      %even = arith.cmpi eq, %odd, %c0 : i32 loc(#loc6)
      scf.if %even {
        tt.store %q, %x : tensor<16x32x!tt.ptr<f32>, #blocked> loc(#loc6)
      } loc(#loc6)
      scf.yield %a, %b : i32, i32 loc(#loc5)
    } loc(#loc5)
    tt.return loc(#loc1)
  } loc(#loc)
} loc(#loc)
#loc1 = loc("/a/kernel.py":2:4)
#loc2 = loc("/a/kernel.py":3:4)
#loc3 = loc("/a/kernel.py":4:4)
#loc7 = loc("/a/helper.py":9:4)
#loc8 = loc("/a/kernel.py":5:4)
#loc4 = loc(callsite(#loc7 at #loc8))
#loc5 = loc("/a/kernel.py":6:4)
#loc6 = loc("/a/kernel.py":7:4)
"""  # noqa: E501


def _launch(**integers: int) -> Launch:
    return Launch("m", "kernel", {}, {}, [], 4, 1, (4,), integers)


def test_layouts():
    where = layouts.coordinates(BLOCKED, (16, 64))
    assert where.shape == (8, 4, 32, 2)
    assert where[:4, 0, 0].tolist() == [[0, 0], [0, 1], [0, 2], [0, 3]]
    assert (
        where[0, 0, 17].tolist() == [1, 4] and where[0, 3, 0].tolist() == [6, 0] and where[4, 0, 0].tolist() == [8, 0]
    )
    assert len({tuple(x) for x in where.reshape(-1, 2)}) == 16 * 64  # every element once
    product = layouts.coordinates(PRODUCT, (16, 32))
    assert product[:, 0, 0].tolist() == [[0, 0], [0, 1], [8, 0], [8, 1]] and product[0, 1, 5].tolist() == [1, 10]
    rows = layouts.coordinates(f"#ttg.slice<{{dim = 1, parent = {BLOCKED}}}>", (16,))
    assert rows[:, 0, 0, 0].tolist() == [0, 8] and rows[0, 0, 20, 0] == 1
    linear = "#ttg.linear<{register = [[0, 1]], lane = [[0, 2], [0, 4], [1, 0], [2, 0], [4, 0]], warp = [[8, 0]]}>"
    assert layouts.coordinates(linear, (16, 8))[1, 1, 31].tolist() == [15, 7]
    with pytest.raises(layouts.UnknownLayout):
        layouts.coordinates("#ttg.swizzled_shared<{vec = 8}>", (16,))


def test_lines_and_sectors_of_known_accesses():
    found = traffic.analyse(ttgir.parse(IR), _launch(H=64, L=128), lambda name, at: np.full_like(at, 3))
    # A row's 32 tokens, 64 channels apart: a line and a sector each.
    assert found.touched["kernel.py:4", False, 4] == traffic.Touched(32.0, 32.0)
    # Neighbours in memory, the upper half of the lanes masked: 64 bytes.
    assert found.touched["helper.py:9", True, 4] == traffic.Touched(1.0, 2.0)
    # Only in every other turn.
    assert found.touched["kernel.py:7", True, 4] == traffic.Touched(0.5, 2.0)
    assert found.trips == {"kernel.py:6": 4.0}
    assert found.bytes_a_turn["kernel.py:6"]["kernel.py:4"] == 4 * 4  # four registers of a thread
    assert not found.unknown


def test_near_channels_share_lines():
    found = traffic.analyse(ttgir.parse(IR), _launch(H=2, L=128), lambda name, at: np.full_like(at, 3))
    assert found.touched["kernel.py:4", False, 4] == traffic.Touched(2.0, 8.0)


def test_what_is_not_known_is_said():
    """A loop whose end comes from memory that nobody knows, and the accesses that depend on it."""
    text = IR.replace("%c0 to %L step", "%rows to %L step")
    found = traffic.analyse(ttgir.parse(text), _launch(H=64, L=128))
    assert (
        "integers of table_ptr" in found.unknown["kernel.py:6"]
        and "integers of table_ptr" in found.unknown["kernel.py:4"]
    )
    assert not found.trips and ("kernel.py:4", False, 4) not in found.touched


def test_each_result_of_an_operation_has_its_name():
    """One may start a loop: of the split's two here the second."""
    halves = "%low, %high = tt.split %start : tensor<4x2xi32> -> tensor<4xi32>\n"
    loop = "scf.for %i = %c0_i32 to %L step %c1_i32 iter_args(%x = %high) -> (tensor<4xi32>)  : i32 {\n}\n"
    kernel = ttgir.parse(f"tt.func public @k(%start: tensor<4x2xi32>) {{\n{halves}{loop}}}\n")
    assert [(v.op.name, v.index) for v in kernel.ops[-1].initial] == [("tt.split", 1)]


def test_rows_of_a_dense_batch():
    memory = traffic.RowTable(length=200, segments=4, segment=64)
    table = memory("table_ptr", np.arange(8 * 2)).reshape(8, 2)
    assert table[3].tolist() == [192, 8] and table[4].tolist() == [200, 64]
    with pytest.raises(ttgir.Unknown):
        memory("lengths_ptr", np.arange(3))
