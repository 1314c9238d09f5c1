"""The native S4D scan against the float64 reference: layouts, directions, states, chunk boundaries, streaming."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from .block_checks import DTYPES, LAYOUTS, error, isa, layout, on_some_isa  # noqa: F401
from .s4d_checks import check_scan, scan, scan_arguments, scan_backward

ENDS = [(1e-4, 1.1e-4), (1e-3, 1e-1), (0.3, 1.0)]  # of the step dt


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", LAYOUTS)
@pytest.mark.parametrize("directions", [1, 2])
def test_dtypes_layouts_and_directions(isa, dtype, kind, directions):  # noqa: F811
    check_scan(scan_arguments(dtype, layout(kind, 3, 150), 20, 4, directions, state=directions == 1))


@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("length", [1, 2, 7, 8, 9, 31, 32, 33, 63, 64, 65, 128, 1000])
def test_block_and_chunk_boundaries(length, directions):
    check_scan(scan_arguments(torch.float32, layout("dense", 2, length), 5, 3, directions, state=directions == 1))
    check_scan(scan_arguments(torch.float32, layout("padded", 4, length), 5, 3, directions))
    check_scan(scan_arguments(torch.float32, layout("packed", 4, length), 5, 3, directions))


@pytest.mark.parametrize("channels", [1, 3, 4, 7, 8, 15, 16, 17, 33, 100])
def test_channels_that_fit_no_vector(isa, channels):  # noqa: F811
    check_scan(scan_arguments(torch.float32, layout("dense", 2, 70), channels, 3, 2))


@pytest.mark.parametrize("skip", [True, False], ids=["D", "no-D"])
@pytest.mark.parametrize("state", [True, False], ids=["state", "no-state"])
def test_absent_arguments(skip, state):
    check_scan(scan_arguments(torch.float32, layout("padded", 3, 90), 6, 5, skip=skip, state=state))


@pytest.mark.parametrize("kind", LAYOUTS)
@pytest.mark.parametrize("batch, length", [(0, 5), (2, 0), (0, 0)])
@pytest.mark.parametrize("directions", [1, 2])
def test_nothing(kind, batch, length, directions):
    shape = (1, 0, None, torch.zeros(batch + 1, dtype=torch.int64)) if kind == "packed" else None
    check_scan(scan_arguments(torch.float32, shape or layout(kind, batch, length), 6, 3, directions))


@pytest.mark.parametrize("channels, modes", [(0, 3), (3, 0), (0, 0)])
@pytest.mark.parametrize("directions", [1, 2])
def test_no_channels_and_no_modes(channels, modes, directions):
    check_scan(scan_arguments(torch.float32, layout("dense", 2, 70), channels, modes, directions))


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    kind=st.sampled_from(LAYOUTS),
    batch=st.integers(1, 4),
    length=st.integers(1, 200),
    channels=st.integers(1, 40),
    modes=st.integers(1, 9),
    directions=st.integers(1, 2),
    state=st.booleans(),
    skip=st.booleans(),
    isa_index=st.integers(0, 7),
)
def test_odd_shapes(kind, batch, length, channels, modes, directions, state, skip, isa_index):
    with on_some_isa(isa_index):
        shape = layout(kind, batch, length)
        check_scan(
            scan_arguments(
                torch.float32, shape, channels, modes, directions, skip=skip, state=state and directions == 1
            )
        )


@pytest.mark.parametrize("log_A_real", [-6.0, -0.7, 3.0])
@pytest.mark.parametrize("dt", ENDS)
def test_slow_and_fast_modes(isa, dt, log_A_real):  # noqa: F811
    arguments = scan_arguments(torch.float32, layout("dense", 1, 2000), 8, 32, 1, log_A_real=log_A_real, dt=dt)
    check_scan(arguments, looser=2.0)


def test_frequencies_of_thousands_of_radians():
    arguments = scan_arguments(torch.float32, layout("dense", 1, 300), 8, 4, 1)
    arguments["A_imag"] = arguments["A_imag"] * 1e5
    check_scan(arguments)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("pieces", [[1, 1, 98], [64, 36], [37, 63], [0, 100, 0], [7] * 14 + [2]])
def test_a_sequence_in_pieces_is_the_whole(dtype, pieces):
    arguments = scan_arguments(dtype, layout("dense", 2, 100), 9, 4)
    whole, final, _ = scan(arguments)
    state, outputs = None, []
    for piece in arguments["u"].split(pieces, dim=1):
        y, state, _ = scan({**arguments, "u": piece.contiguous(), "initial_state": state})
        outputs.append(y)
    limit = 1e-6 if dtype == torch.float32 else 1e-14
    assert error(torch.cat(outputs, dim=1), whole) < limit
    assert error(state, final) < limit


def test_gradients_flow_through_the_pieces():
    arguments = scan_arguments(torch.float64, layout("dense", 2, 100), 5, 4)
    grad, grad_state = torch.randn(2, 100, 5).double(), torch.randn(2, 5, 4, 2).double()
    whole = scan_backward(grad, grad_state, arguments, scan(arguments)[2])
    first = {**arguments, "u": arguments["u"][:, :41].contiguous()}
    _, state, first_checkpoints = scan(first)
    second = {**arguments, "u": arguments["u"][:, 41:].contiguous(), "initial_state": state}
    later = scan_backward(grad[:, 41:].contiguous(), grad_state, second, scan(second)[2])
    earlier = scan_backward(grad[:, :41].contiguous(), later[6], first, first_checkpoints)
    assert error(torch.cat([earlier[0], later[0]], dim=1), whole[0]) < 1e-13
    for i in range(1, 6):
        assert error(earlier[i] + later[i], whole[i]) < 1e-13


def test_sequences_do_not_see_each_other():
    arguments = scan_arguments(torch.float32, layout("dense", 1, 150), 8, 4, 2)
    whole = scan({**arguments, "cu_seqlens": torch.tensor([0, 1, 70, 70, 150])})[0]
    for begin, end in [(0, 1), (1, 70), (70, 150)]:
        alone = scan({**arguments, "u": arguments["u"][:, begin:end].contiguous()})[0]
        assert torch.equal(whole[:, begin:end], alone)


def test_causal_output_ignores_the_future():
    arguments = scan_arguments(torch.float32, layout("dense", 1, 130), 8, 4)
    before = scan(arguments)[0]
    arguments["u"][:, 100:] = torch.randn(30, 8)
    assert torch.equal(before[:, :96], scan(arguments)[0][:, :96])
    assert error(scan(arguments)[0][:, :100], before[:, :100]) < 1e-6


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_not_finite_input_ends_and_shows(bad):
    arguments = scan_arguments(torch.float32, layout("dense", 2, 200), 8, 4, 2)
    arguments["u"][0, 100, 3] = bad
    y, _, checkpoints = scan(arguments)
    assert not y[0, 101:, 3].isfinite().any() and not y[0, 0, 3].isfinite()
    assert y[1].isfinite().all() and y[0, :, :3].isfinite().all() and y[0, :, 4:].isfinite().all()
    gradients = scan_backward(torch.randn(2, 200, 8), None, arguments, checkpoints)
    assert gradients[0].isfinite().all()  # du depends on grad_y only
    assert not gradients[3][3].isfinite().any() and gradients[3][[0, 1, 2, 4, 5, 6, 7]].isfinite().all()
    for name in ("log_dt", "log_A_real", "A_imag", "C"):
        damaged = {**arguments, name: torch.full_like(arguments[name], bad)}
        scan_backward(torch.randn(2, 200, 8), None, damaged, scan(damaged)[2])


def test_denormals_are_off_in_the_kernel_and_only_there():
    """A decayed state that went on as a denormal would cost a hundred times the time."""
    arguments = scan_arguments(torch.float32, layout("dense", 1, 4000), 16, 4, log_A_real=5.0, dt=(1e-2, 1e-1))
    arguments["u"][:, 1:] = 0
    assert (scan(arguments)[0][:, -100:] == 0).all()
    tiny = torch.full((2,), 1e-40)
    assert (tiny * 0.5 > 0).all()


def test_same_bits_for_any_number_of_threads():
    arguments = scan_arguments(torch.float32, layout("padded", 5, 300), 24, 4, 2)
    grad = torch.randn(5, 300, 24)
    threads = torch.get_num_threads()
    results = []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            forward = scan(arguments)
            # Checkpoints of chunks that lie in the padding are left as they were.
            results.append([*forward[:2], *scan_backward(grad, None, arguments, forward[2])])
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_a_wrong_call_of_the_op_raises():
    arguments = scan_arguments(torch.float32, layout("dense", 2, 10), 4, 3)
    for name, value in {
        "log_dt": torch.zeros(5),
        "A_imag": torch.zeros(4, 2),
        "C": torch.zeros(3, 4, 3, 2),
        "D": torch.zeros(4, dtype=torch.float64),
        "lengths": torch.tensor([3, 11]),
        "initial_state": torch.zeros(2, 4, 3),
        "cu_seqlens": torch.tensor([0, 10]),
    }.items():
        message = {"A_imag": "log_A_real has size 3", "cu_seqlens": "packed"}.get(name, name)
        with pytest.raises(RuntimeError, match=message):
            scan({**arguments, name: value})
    u = arguments["u"]
    with pytest.raises(RuntimeError, match="checkpoints"):
        scan_backward(torch.zeros_like(u), None, arguments, torch.zeros(3, 24))


# These modes remember 400,000 tokens, and with them the roundings of as many.
@pytest.mark.parametrize("length, limit", [(4096, 1e-6), (65536, 5e-6), (1 << 20, 1.5e-5)])
def test_long_sequences(length, limit):
    arguments = scan_arguments(torch.float32, layout("dense", 1, length), 9, 32, log_A_real=-6.0)
    exact = {name: x.double() if x is not None else None for name, x in arguments.items()}
    y, state, _ = scan(arguments, save=False)
    expected, expected_state, _ = scan(exact, save=False)
    assert error(y, expected) < limit
    assert error(state, expected_state) < limit
