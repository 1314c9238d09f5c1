"""Single steps of compat.s4: the sequence's numbers, whatever happened to the parameters in between."""

from __future__ import annotations

import copy

import pytest
import torch

from lyra_kernels.compat import s4

from .test_s4 import H, M, N, close, loaded, upstream_kernel, upstream_system


@pytest.mark.parametrize("gradients", [False, True])
@pytest.mark.parametrize(
    "options",
    [{}, {"disc": "bilinear", "channels": 2, "swap_channels": True}, {"dt_tie": False, "n_ssm": 3, "gate": 1}],
    ids=str,
)
def test_steps_are_the_sequence(options, gradients):
    torch.manual_seed(0)
    block = s4.S4Block(H, mode="diag", d_state=N, transposed=False, **options).double().eval()
    u = torch.randn(2, 250, H, dtype=torch.float64)
    whole, none = block(u)
    assert none is None
    block.setup_step()
    state = block.default_state(2)
    assert state.shape == (2, H, M) and state.dtype == torch.complex128
    first, state = block(u[:, :100], state=state)
    steps = [first]
    with torch.set_grad_enabled(gradients):
        for t in range(100, 250):
            y, state = block.step(u[:, t], state)
            assert y.requires_grad == gradients
            steps.append(y[:, None])
    close(torch.cat(steps, 1), whole)


def test_states_are_upstreams_up_to_a_factor_of_each_mode():
    state = upstream_kernel()
    conv = loaded(s4.FFTConv(H, mode="diag", d_state=N, activation=None), state, "kernel.")
    dA, dB, _ = upstream_system(state, "zoh")
    u = torch.randn(2, 5, H, dtype=torch.float64)
    ours, theirs = conv.default_state(2), torch.zeros(2, H, M, dtype=torch.complex128)
    for t in range(5):
        ours = conv.step(u[:, t], ours)[1]
        theirs = dA * theirs + dB * u[:, t].unsqueeze(-1)
    close(dB * ours.conj(), theirs)


def by_optimizer(conv, other):
    conv(torch.randn(1, H, 9, dtype=torch.float64))[0].sum().backward()
    torch.optim.SGD(conv.parameters(), lr=0.01).step()


def by_data(conv, other):
    conv.kernel.A_imag.data.add_(0.5)


CHANGES = {
    "optimizer": by_optimizer,
    "load_state_dict": lambda conv, other: conv.load_state_dict(other.state_dict()),
    "data": by_data,
    "dtype": lambda conv, other: conv.float(),
    "option": lambda conv, other: setattr(conv.kernel, "bandlimit", 0.05),
    "hook": lambda conv, other: conv.kernel.register_forward_hook(lambda *_: None),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_step_after_a_change_is_of_what_is_there_now(change):
    conv, other = (s4.FFTConv(H, mode="diag", d_state=N, disc="bilinear").double() for _ in range(2))
    x, state = torch.randn(3, H, dtype=torch.float64), torch.randn(3, H, M, dtype=torch.complex128)
    with torch.no_grad():
        conv.step(x, state)
        with torch.enable_grad():
            CHANGES[change](conv, other)
        if change == "hook":
            with pytest.raises(
                ValueError,
                match="no state can be carried through 1 tokens: the kernel was replaced, wrapped or has hooks",
            ):
                conv.step(x, state)
            return
        dtype = conv.D.dtype
        x, state = x.to(dtype), state.to(dtype.to_complex())
        for found in (conv.step(x, state), copy.deepcopy(conv).step(x, state)):
            with torch.enable_grad():  # the op
                wanted = conv.step(x, state)
            close(found[0], wanted[0].detach(), 1e-6 if dtype == torch.float32 else 1e-12)
            close(found[1], wanted[1].detach(), 1e-6 if dtype == torch.float32 else 1e-12)


@pytest.mark.parametrize("gradients", [False, True])
def test_what_does_not_fit_is_refused_by_the_op(gradients):
    conv = s4.FFTConv(H, mode="diag", d_state=N)
    state = conv.default_state(2)
    with torch.set_grad_enabled(gradients):
        y, after = conv.step(torch.zeros(2, H, dtype=torch.bfloat16), state)
        assert y.dtype == torch.bfloat16 and after.dtype == torch.complex64
        with pytest.raises(ValueError, match=r"x must be .* of 6 channels"):
            conv.step(torch.zeros(2, H + 1), state)
        with pytest.raises(ValueError, match="initial_state must have shape"):
            conv.step(torch.zeros(3, H), state)
        both = s4.FFTConv(H, mode="diag", d_state=N, bidirectional=True)
        with pytest.raises(ValueError, match="a bidirectional convolution has no state"):
            both.step(torch.zeros(2, H), state)


@torch.no_grad()
def test_a_step_after_a_change_to_a_wider_dtype_has_it():
    conv = s4.FFTConv(H, mode="diag", d_state=N)
    conv.step(torch.zeros(2, H), conv.default_state(2))
    conv.double()  # the numbers stay
    y, state = conv.step(torch.zeros(2, H, dtype=torch.float64), conv.default_state(2))
    assert y.dtype == torch.float64 and state.dtype == torch.complex128


def test_steps_inside_of_a_transform_leave_nothing_behind():
    block = s4.FFTConv(H, mode="diag", d_state=N).double()
    x, state = torch.randn(3, H, dtype=torch.float64), torch.randn(3, H, M, dtype=torch.complex128)
    with torch.no_grad():
        wanted, _ = block.step(x, state)
        parameters = {name: torch.stack([p, p]) for name, p in block.named_parameters()}

        class Step(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.block = block

            def forward(self, x):
                return self.block.step(x, state)[0]

        mapped = {f"block.{name}": p for name, p in parameters.items()}
        for _ in range(2):
            found = torch.func.vmap(lambda p: torch.func.functional_call(Step(), p, (x,)))(mapped)
            torch.testing.assert_close(found, torch.stack([wanted, wanted]))
        torch.testing.assert_close(block.step(x, state)[0], wanted)


def test_states_as_upstream_has_them():
    """Upstream's are conjugated; what is none is refused."""
    block = s4.FFTConv(H, mode="diag", d_state=N).double()
    x, state = torch.randn(3, H, dtype=torch.float64), torch.randn(3, H, M, dtype=torch.complex128)
    y, _ = block.step(x, state.conj())
    torch.testing.assert_close(y, block.step(x, state.conj().resolve_conj())[0])
    with pytest.raises(TypeError, match=r"state must be a tensor, of default_state\(\) or the step before, not None"):
        block.step(x, None)
