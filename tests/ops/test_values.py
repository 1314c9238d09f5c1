"""Values and gradients of every public op, on every backend, against the reference in float64."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import lyra_kernels as lk
from lyra_kernels.schemas import CONTRACTS, Role

from . import cases


@pytest.mark.parametrize("name, layout", cases.combos())
def test_float32(name, layout, backend, device):
    cases.assert_matches_reference(cases.make(name, layout).to(device))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", cases.NAMES)
def test_dtypes(name, dtype, backend, device):
    layout = "padded" if name in cases.WITH_LAYOUT else "dense"
    cases.assert_matches_reference(cases.make(name, layout, dtype).to(device))


@pytest.mark.filterwarnings("ignore:.* of a state space in torch")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", cases.NAMES)
def test_parameters_in_half_precision_too(name, dtype):
    """The arithmetic stays in float32, gradients come in the parameters' dtype."""
    cases.assert_matches_reference(cases.make(name, dtype=dtype, parameter_dtype=dtype), 2e-2)


@pytest.mark.parametrize("name", cases.NAMES)
def test_outputs_are_contiguous_and_keep_the_dtype(name, backend_once, device):
    case = cases.make(name, dtype=torch.bfloat16).to(device)
    outputs = case()
    assert outputs[0].dtype == (torch.float32 if name == "s4d_kernel" else torch.bfloat16)
    assert backend_once == "reference" or all(o.is_contiguous() for o in outputs)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    name=st.sampled_from(cases.NAMES),
    layout=st.sampled_from(cases.LAYOUTS),
    batch=st.integers(0, 4),
    length=st.sampled_from([0, 1, 2, 3, 16, 31, 63, 64, 65, 127, 129, 200]),
    channels=st.sampled_from([1, 2, 3, 7, 8, 15, 16, 17, 33]),
)
def test_any_shape(name, layout, batch, length, channels):
    torch.manual_seed(0)  # an example is the same, whatever was drawn before it
    layout = layout if name in cases.WITH_LAYOUT else "dense"
    if name.startswith(("rms_norm", "pgc")):
        channels = max(channels, 3)  # of one channel a norm leaves only the sign: nothing but rounding has a gradient
    cases.assert_matches_reference(cases.make(name, layout, batch=batch, length=length, channels=channels), 2e-5)


@pytest.mark.parametrize("name", cases.NAMES)
def test_strided_views(name, backend_once, device):
    """Views that are not contiguous, for every argument and for the gradient that arrives."""
    case = cases.make(name).to(device)
    wanted = cases.gradients(case, cotangents := cases.weights_like(case()))

    def scattered(x):
        wide = x.new_full((*x.shape[:-1], 2 * x.shape[-1]), torch.nan)
        wide[..., ::2] = x
        return wide[..., ::2].transpose(0, -1).contiguous().transpose(0, -1)

    leaves = case.leaves()
    outputs = leaves(*(scattered(x) for x in leaves.values))
    torch.autograd.backward(outputs, tuple(scattered(c) for c in cotangents))
    for found, output in zip(outputs, wanted[0], strict=True):
        torch.testing.assert_close(found, output)
    for key, leaf in leaves.tensors.items():
        torch.testing.assert_close(leaf.grad, wanted[1][key])


@pytest.mark.parametrize("name", cases.NAMES)
def test_expanded_gradient(name):
    """`out.sum().backward()` sends a gradient without strides."""
    case = cases.make(name).leaves()
    case()[0].sum().backward()
    plain = case.leaves()
    output = plain()[0]
    output.backward(torch.ones_like(output))
    for key, leaf in case.tensors.items():
        torch.testing.assert_close(leaf.grad, plain.tensors[key].grad)


@pytest.mark.parametrize("name", cases.WITH_LAYOUT)
def test_padding_does_not_exist(name, backend, device):
    """Whatever stands in the padding reaches neither outputs nor gradients, which are zero there."""
    case = cases.make(name, "padded").to(device)
    lengths = case.options["lengths"]
    first = next(iter(case.tensors))
    padded = torch.arange(case.tensors[first].shape[1], device=device) >= lengths[:, None]
    cotangents = cases.weights_like(case())
    outputs, found = cases.gradients(case, cotangents)
    for key in case.tensors:
        if key in (first, "residual"):
            case.tensors[key][padded] = torch.nan
    cotangents[0][padded] = torch.nan
    again, grads = cases.gradients(case, cotangents)
    assert not outputs[0][padded].any() and not grads[first][padded].any()
    for a, b in zip(outputs, again, strict=True):
        assert torch.equal(a, b)
    for key in found:
        assert torch.equal(found[key], grads[key]), key


def names_of(*roles: Role) -> set[str]:
    """What the ops call their arguments of some roles."""
    return {argument.name for c in CONTRACTS.values() for argument in c.arguments if argument.role in roles}


@pytest.mark.parametrize("name", cases.WITH_LAYOUT)
def test_layouts_agree(name):
    """A sequence gives the same alone, padded and packed."""
    packed = cases.make(name, "packed", torch.float64)
    cu = packed.options["cu_seqlens"]
    whole = packed()
    activations, per_sequence = names_of(Role.ACTIVATION, Role.RESIDUAL), names_of(Role.STATE, Role.MASK)
    for s in range(cu.shape[0] - 1):
        part = slice(int(cu[s]), int(cu[s + 1]))
        tensors = {
            k: v[s : s + 1] if k in per_sequence else v[:, part] if k in activations else v
            for k, v in packed.tensors.items()
        }
        options = {k: v[s : s + 1] if k in per_sequence else v for k, v in packed.options.items()}
        options.pop("cu_seqlens")
        alone = packed.function(**tensors, **options)
        alone = alone if isinstance(alone, tuple) else (alone,)
        torch.testing.assert_close(alone[0], whole[0][:, part])
        if len(alone) > 1:
            torch.testing.assert_close(alone[1], whole[1][s : s + 1])


@pytest.mark.parametrize(
    "name, optional",
    [
        ("rms_norm", ["weight"]),
        ("gated_conv", ["conv_bias", "norm_weight"]),
        ("pgc", ["in_bias", "in_norm_weight", "conv_bias", "out_bias", "out_norm_weight"]),
        ("gelu_glu", ["bias", "residual"]),
        ("fft_conv", ["D", "reverse_kernel"]),
        ("gated_fft_conv", ["D", "reverse_kernel", "pregate", "postgate"]),
        ("causal_conv", ["D", "reverse_kernel"]),
        ("s4d_conv-scan", ["D"]),
        ("s4d_conv-fft", ["D"]),
    ],
)
def test_absent_parameters(name, optional, backend, device):
    """Each optional argument alone, and all of them, as None."""
    for absent in (*([o] for o in optional), optional):
        case = cases.make(name)
        kept = {k: v for k, v in case.tensors.items() if k not in absent}
        given = {**case.options, **dict.fromkeys(absent)}
        cases.assert_matches_reference(cases.Case(name, case.function, kept, given).to(device))


def test_mask_of_gelu_glu_is_optional():
    case = cases.make("gelu_glu")
    ones = torch.ones_like(case.options["mask"])
    torch.testing.assert_close(lk.gelu_glu(**case.tensors, mask=None), lk.gelu_glu(**case.tensors, mask=ones))


@pytest.mark.parametrize("taps", [0, 1, 5, 36, 37, 38, 90])
@pytest.mark.parametrize("name", ["causal_conv", "fft_conv"])
def test_any_number_of_taps(name, taps):
    """Missing taps are zero, surplus ones unused and without gradient."""
    case = cases.make(name)
    case.tensors["kernel"] = torch.randn(5, taps)
    cases.assert_matches_reference(case)


@pytest.mark.parametrize("length", [1, 17, 300])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_algorithms_agree(length, bidirectional):
    name = "s4d_conv-scan-bidirectional" if bidirectional else "s4d_conv-scan"
    case = cases.make(name, dtype=torch.float64, length=length)
    results = {}
    for algorithm in ("scan", "direct", "fft", "auto"):
        case.options["algorithm"] = algorithm
        results[algorithm] = case()[0]
    for algorithm, y in results.items():
        cases.assert_close(y, results["scan"], 1e-12, algorithm)


@pytest.mark.parametrize("name, length", [("s4d_conv-scan", 4096), ("s4d_kernel", 4096), ("s4d_conv-direct", 700)])
def test_long_memory_is_as_exact_as_the_plain_formula(name, length, backend, device):
    """Where nothing decays, errors of the phase add up: no more may be lost than by the formula in float32."""
    case = cases.make(name, batch=1, length=length, channels=3).to(device)
    case.tensors["log_A_real"] = torch.full_like(case.tensors["log_A_real"], -6.0)
    cotangents = cases.weights_like(case())
    exact = cases.reference(case, cotangents)
    with lk.use_backend("reference"):
        plain = cases.gradients(case, cotangents)
    found = cases.gradients(case, cotangents)
    limit = 1.2 * cases.error(plain[0][0], exact[0][0]) + 1e-6
    cases.assert_close(found[0][0], exact[0][0], limit, "output")
    for key in exact[1]:
        limit = 1.2 * cases.error(plain[1][key], exact[1][key]) + 1e-6
        cases.assert_close(found[1][key], exact[1][key], limit, key)


@pytest.mark.parametrize("name", cases.NAMES)
def test_same_bits_again(name):
    case = cases.make(name, "padded" if name in cases.WITH_LAYOUT else "dense", length=150)
    cotangents = cases.weights_like(case())
    first, grads = cases.gradients(case, cotangents)
    second, again = cases.gradients(case, cotangents)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert all(torch.equal(grads[k], again[k]) for k in grads)


@pytest.mark.parametrize("name", cases.NAMES)
def test_inputs_are_left_alone(name):
    case = cases.make(name)
    before = {k: v.clone() for k, v in case.tensors.items()}
    cases.gradients(case, cases.weights_like(case()))
    assert all(torch.equal(before[k], case.tensors[k]) for k in before)
