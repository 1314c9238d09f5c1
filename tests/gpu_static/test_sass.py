"""Reading machine code: a piece of what nvdisasm printed for two kernels, shortened."""

from __future__ import annotations

import pytest

pytest.importorskip("triton")
from benchmarks.gpu_static import sass
from benchmarks.gpu_static.sass import Instruction, classify, loops, parse, trace

TEXT = """
.text._sum_rows:
	//## File "/somewhere/_reduce.py", line 15
        /*0010*/                   S2R R18, SR_CTAID.X ;                       /* 0x0000000000127919 */
                                                                               /* 0x000e620000002500 */
	//## File "/somewhere/_reduce.py", line 17
        /*00c0*/              @!P0 BRA `(.L_x_0) ;                             /* 0x0000000800508947 */
                                                                               /* 0x000fea0003800000 */
.L_x_1:
	//## File "/somewhere/_reduce.py", line 20
        /*0210*/              @!P0 LDG.E.128 R12, desc[UR10][R2.64] ;          /* 0x0000000a020c8981 */
                                                                               /* 0x0002a2000c1e1d00 */
        /*0460*/                   LDGDEPBAR ;                                 /* 0x00000000000079af */
                                                                               /* 0x000e280000000000 */
        /*0700*/                   DEPBAR.LE SB0, 0x1 ;                        /* 0x000080000000791a */
                                                                               /* 0x000fc80000000000 */
        /*0710*/              @P0  BRA `(.L_x_1) ;                             /* 0xffffffe800780947 */
                                                                               /* 0x000fea000383ffff */
.L_x_0:
        /*1d60*/                   EXIT ;                                      /* 0x000000000000794d */
                                                                               /* 0x000fea0003800000 */
.L_x_2:
        /*1d70*/                   BRA `(.L_x_2);                              /* 0xfffffffc00fc7947 */
                                                                               /* 0x000fc0000383ffff */
"""


def test_instructions_and_control_codes():
    code = parse(TEXT)
    assert [i.name for i in code] == ["S2R", "BRA", "LDG", "LDGDEPBAR", "DEPBAR", "BRA", "EXIT", "BRA"]
    assert code[0].line == "_reduce.py:15" and code[2].line == "_reduce.py:20"
    # 0x000e62...: scoreboard 1 is set, the warp's next instruction may issue a cycle later.
    assert (code[0].stall, code[0].write, code[0].read, code[0].wait) == (1, 1, sass.NO_SCOREBOARD, 0)
    # 0x0002a2...: sets scoreboard 2 with the result, 1 when the operands are read.
    assert (code[2].write, code[2].read, code[2].width, code[2].predicated) == (2, 1, 16, True)
    assert code[4].pending == 1 and code[3].pending == -1
    assert [i.target for i in code] == [-1, 6, -1, -1, -1, 2, -1, 7]


def test_what_is_no_code_is_an_error():
    with pytest.raises(ValueError, match="no instructions"):
        parse("nothing")
    with pytest.raises(ValueError, match=r"no label \.L_x_0"):
        parse(TEXT.replace(".L_x_0:", ""))


def test_loops_and_the_way_through_them():
    code = parse(TEXT)
    assert loops(code) == [(2, 5)]
    assert trace(code, [1]) == [0, 1, 2, 3, 4, 5, 6]
    assert trace(code, [3]) == [0, 1, *[2, 3, 4, 5] * 3, 6]
    with pytest.raises(ValueError, match="1 loops, 2 counts"):
        trace(code, [1, 1])


def _plain(op: str = "FADD", predicated: bool = False, target: int = -1) -> Instruction:
    return Instruction(op, predicated, 1, 7, 7, 0, target)


def test_a_loop_inside_another_starts_again():
    code = [_plain(), _plain(), _plain("BRA", True, 1), _plain("BRA", True, 0), _plain("EXIT")]
    assert loops(code) == [(1, 2), (0, 3)]
    assert trace(code, [2, 2]) == [0, 1, 2, 1, 2, 3] * 2 + [4]


def test_of_two_ways_the_longer_and_no_slow_path():
    """A branch over a subroutine's call is taken; of if and else the one with more instructions is."""
    slow = [_plain("BRA", True, 3), _plain("CALL"), _plain(), _plain("EXIT")]
    assert trace(slow, []) == [0, 3]
    either = [_plain("BRA", True, 3), _plain(), _plain("BRA", False, 7), *[_plain()] * 4, _plain("EXIT")]
    assert trace(either, []) == [0, 3, 4, 5, 6, 7]
    ahead = [_plain("BRA", True, 2), _plain(), _plain("EXIT")]
    assert trace(ahead, []) == [0, 1, 2]


@pytest.mark.parametrize(
    ("op", "unit", "cycles", "kind"),
    [
        ("FFMA", "fma", 1, ""),
        ("IMAD.WIDE", "imad", 2, ""),
        ("ISETP.GE.AND", "alu", 2, ""),
        ("MUFU.EX2", "mufu", 8, "mufu"),
        ("DFMA", "fp64", 2, "fp64"),
        ("HMMA.1688.F32.TF32", "tensor", 6, "tensor"),
        ("HGMMA.64x64x8.F32.TF32", "tensor", 32, "tensor"),
        ("HGMMA.64x64x16.F32.BF16", "tensor", 32, "tensor"),
        ("LDS.128", "lsu", 4, "shared_load"),
        ("STS.64", "lsu", 2, "shared_store"),
        ("LDGSTS.E.BYPASS.128", "lsu", 1, "load"),
        ("STG.E", "lsu", 1, "store"),
        ("SHFL.BFLY", "lsu", 2, "shuffle"),
        ("BAR.SYNC.DEFER_BLOCKING", "", 1, ""),
    ],
)
def test_units(op, unit, cycles, kind):
    use = classify(_plain(op))
    assert (use.unit, use.cycles, use.kind) == (unit, cycles, kind)
