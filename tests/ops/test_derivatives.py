"""Derivatives of every order and in every manner that PyTorch has: what a plain formula could do, an op can."""

from __future__ import annotations

import pytest
import torch
from torch.autograd import forward_ad
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, vjp, vmap
from torch.utils.checkpoint import checkpoint

import lyra_kernels as lk

from ..conftest import FASTEST
from . import cases

SMALL = {"batch": 2, "length": 4, "channels": 3}


def layout_of(name: str) -> str:
    return "padded" if name in cases.WITH_LAYOUT else "dense"


def small(name: str, layout: str | None = None) -> cases.Case:
    return cases.make(name, layout or layout_of(name), torch.float64, **SMALL)


def scalar(case: cases.Case, weights: tuple[torch.Tensor, ...]):
    """The case as a function of its tensors with one number as result."""
    return lambda *values: sum((o * w).sum() for o, w in zip(case(*values), weights, strict=True))


@pytest.mark.parametrize("name, layout", cases.combos(cases.ESSENTIAL))
def test_gradcheck(name, layout):
    case = small(name, layout).leaves()
    assert torch.autograd.gradcheck(case, case.values, fast_mode=True, check_undefined_grad=True)


@pytest.mark.parametrize("name", cases.NAMES)
def test_gradgradcheck(name):
    case = small(name).leaves()
    assert torch.autograd.gradgradcheck(case, case.values, fast_mode=True)


@pytest.mark.parametrize("name", cases.NAMES)
def test_forward_mode_and_batched_gradcheck(name):
    case = small(name).leaves()
    assert torch.autograd.gradcheck(
        case,
        case.values,
        fast_mode=True,
        check_forward_ad=True,
        check_backward_ad=False,
        check_batched_forward_grad=True,
    )
    assert torch.autograd.gradcheck(case, case.values, fast_mode=True, check_batched_grad=True)


@pytest.mark.parametrize("name", cases.ESSENTIAL)
def test_third_order(name):
    case = small(name)
    key = next(iter(case.tensors))
    direction = torch.randn_like(case.tensors[key])

    def along(t: torch.Tensor) -> torch.Tensor:
        return sum(o.tanh().sum() for o in case(case.tensors[key] + t * direction))

    found = grad(grad(grad(along)))(torch.tensor(0.1, dtype=torch.float64))
    with lk.use_backend("reference"):
        wanted = grad(grad(grad(along)))(torch.tensor(0.1, dtype=torch.float64))
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("name", cases.NAMES)
def test_double_backward_in_float32(name):
    """A gradient penalty, whose gradients reach every input."""

    def penalty(case: cases.Case) -> dict[str, torch.Tensor]:
        case = case.leaves()
        outputs = case()
        first = torch.autograd.grad(sum(o.square().sum() for o in outputs), case.values, create_graph=True)
        sum(g.square().mean() for g in first).backward()
        return {k: v.grad for k, v in case.tensors.items()}

    case = cases.make(name, layout_of(name), length=20)
    found = penalty(case)
    with lk.use_backend("reference"):
        wanted = penalty(case.double())
    cases.assert_all_close(found, wanted, 1e-4)


@pytest.mark.parametrize("algorithm", ["direct", "scan"])
def test_one_tensor_in_two_places(algorithm):
    """Gradients add up, in the first order and in the second."""

    def penalty(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        if algorithm == "direct":
            y = lk.causal_conv(x, w, reverse_kernel=w)
        else:
            y = lk.s4d_conv(x, w[:, 0], w, w, torch.stack([w, w], -1), D=w[:, 0], algorithm="scan")
        y = lk.gelu_glu(y, torch.cat([w, w]), residual=y)
        first = torch.autograd.grad(y.square().sum(), (x, w), create_graph=True)
        return sum(g.square().sum() for g in first)

    x, w = torch.randn(2, 4, 4, dtype=torch.float64), torch.randn(4, 4, dtype=torch.float64)
    leaves = x.requires_grad_(), w.requires_grad_()
    found = torch.autograd.grad(penalty(*leaves), leaves)
    with lk.use_backend("reference"):
        wanted = torch.autograd.grad(penalty(*leaves), leaves)
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("name", cases.NAMES)
def test_gradient_of_some_inputs_only(name):
    """Each input alone requires a gradient, and that gradient is the same as among all."""
    case = cases.make(name)
    weights = cases.weights_like(case())
    _, wanted = cases.gradients(case, weights)
    for key in case.tensors:
        alone = case.map(torch.Tensor.clone)
        alone.tensors[key].requires_grad_()
        torch.autograd.backward(alone(), weights)
        torch.testing.assert_close(alone.tensors[key].grad, wanted[key])
        assert all(v.grad is None for k, v in alone.tensors.items() if k != key)


@pytest.mark.parametrize("backend_once", [b for b in FASTEST if b != "reference"], indirect=True)
@pytest.mark.parametrize("name", cases.ESSENTIAL)
def test_a_backward_inside_autocast(name, backend_once, device):
    """Computes as outside: with what was saved, in its types. The reference's is PyTorch's, which autocast reaches."""
    kind = device if torch.cuda.is_available() else "cpu"  # as C++ knows a pretended card
    case = cases.make(name).to(device).leaves()
    outputs = case()
    cotangents = cases.weights_like(outputs)
    found = []
    for autocast in (False, True):
        with torch.autocast(kind, torch.bfloat16, enabled=autocast):
            found.append(torch.autograd.grad(outputs, case.values, cotangents, retain_graph=True, allow_unused=True))
    for outside, inside in zip(*found, strict=True):
        assert (outside is None) == (inside is None) and (outside is None or torch.equal(outside, inside))


@pytest.mark.parametrize("name", cases.ESSENTIAL)
def test_no_graph_is_kept_where_none_is_asked_for(name):
    case = cases.make(name)
    assert not any(o.requires_grad for o in case())
    with torch.no_grad():
        assert not any(o.requires_grad for o in case.leaves()())
    with torch.inference_mode():
        assert not any(o.requires_grad for o in case.leaves()())
    with torch.inference_mode():
        inside = cases.make(name)()
    assert all(o.is_inference() for o in inside)


def test_only_one_of_two_outputs_is_used():
    case = cases.make("s4d_conv-scan-state", "padded")
    for used in (0, 1):
        leaves, exact = case.leaves(), case.double().leaves()
        leaves()[used].sum().backward()
        with lk.use_backend("reference"):
            exact()[used].sum().backward()
        for key, leaf in leaves.tensors.items():
            wanted = exact.tensors[key].grad
            if wanted is None:
                assert leaf.grad is None or not leaf.grad.any()
            else:
                cases.assert_close(leaf.grad, wanted, 1e-5, key)


@pytest.mark.parametrize("name", cases.NAMES)
def test_retained_graph_and_checkpointing(name):
    case = cases.make(name)
    weights = cases.weights_like(case())
    _, wanted = cases.gradients(case, weights)
    leaves = case.leaves()
    outputs = checkpoint(leaves, *leaves.values, use_reentrant=False)
    torch.autograd.backward(outputs, weights, retain_graph=True)
    for key, leaf in leaves.tensors.items():
        assert torch.equal(leaf.grad, wanted[key])
        leaf.grad = None
    outputs = leaves()
    for _ in range(2):
        torch.autograd.backward(outputs, weights, retain_graph=True)
    for key, leaf in leaves.tensors.items():
        torch.testing.assert_close(leaf.grad, 2 * wanted[key])


@pytest.mark.parametrize("name", cases.NAMES)
def test_func_grad_and_vjp(name):
    case = cases.make(name, layout_of(name))
    weights = cases.weights_like(case())
    _, wanted = cases.gradients(case, weights)
    found = grad(scalar(case, weights), tuple(range(len(case.tensors))))(*case.values)
    outputs, pull = vjp(case, *case.values)
    pulled = pull(weights)
    for key, a, b in zip(case.tensors, found, pulled, strict=True):
        torch.testing.assert_close(a, wanted[key])
        torch.testing.assert_close(b, wanted[key])
    for a, b in zip(outputs, case(), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("name, layout", cases.combos())
def test_jvp(name, layout):
    case = cases.make(name, layout, torch.float64, length=9)
    tangents = tuple(torch.randn_like(v) for v in case.values)
    outputs, found = jvp(case, case.values, tangents)
    with lk.use_backend("reference"):
        wanted_outputs, wanted = jvp(case, case.values, tangents)
    for a, b in zip((*outputs, *found), (*wanted_outputs, *wanted), strict=True):
        torch.testing.assert_close(a, b)
    with forward_ad.dual_level():
        first, *rest = case.values
        dual = forward_ad.make_dual(first, tangents[0])
        one = forward_ad.unpack_dual(case(dual, *rest)[0]).tangent
    zeros = tuple(torch.zeros_like(t) for t in tangents[1:])
    with lk.use_backend("reference"):
        torch.testing.assert_close(one, jvp(case, case.values, (tangents[0], *zeros))[1][0])


@pytest.mark.parametrize("name", cases.NAMES)
def test_jacobians_and_hessian(name):
    case = small(name)
    first, *rest = case.values

    def function(x: torch.Tensor) -> torch.Tensor:
        return case(x, *rest)[0]

    torch.testing.assert_close(jacrev(function)(first), jacfwd(function)(first))
    found = hessian(lambda x: function(x).tanh().sum())(first)
    with lk.use_backend("reference"):
        torch.testing.assert_close(found, hessian(lambda x: function(x).tanh().sum())(first))


def per_sample(case: cases.Case, size: int) -> tuple[dict[str, torch.Tensor], tuple[int | None, ...]]:
    """Activations with a dimension to map over in front, parameters without."""
    shared = ("weight", "bias", "kernel", "D", "C", "reverse_kernel", "log_dt", "log_A_real", "A_imag")
    mapped = [not (k in shared or k.endswith(("_weight", "_bias"))) for k in case.tensors]
    tensors = {
        k: torch.randn(size, *v.shape, dtype=v.dtype) if m else v
        for (k, v), m in zip(case.tensors.items(), mapped, strict=True)
    }
    return tensors, tuple(0 if m else None for m in mapped)


@pytest.mark.parametrize("name, layout", cases.combos())
def test_vmap_and_per_sample_gradients(name, layout):
    case = cases.make(name, layout, length=12)
    tensors, in_dims = per_sample(case, 3)
    if 0 not in in_dims:
        tensors["C"], in_dims = torch.randn(3, *tensors["C"].shape), (None, None, None, 0)
    values = tuple(tensors.values())
    pick = [tuple(v if d is None else v[i] for v, d in zip(values, in_dims, strict=True)) for i in range(3)]

    found = vmap(case, in_dims)(*values)
    for i in range(3):
        for a, b in zip(found, case(*pick[i]), strict=True):
            torch.testing.assert_close(a[i], b, atol=1e-5, rtol=1e-5)

    function = grad(scalar(case, cases.weights_like(case())), tuple(range(len(values))))
    samples = vmap(function, in_dims)(*values)
    for i in range(3):
        for key, a, b in zip(case.tensors, samples, function(*pick[i]), strict=True):
            cases.assert_close(a[i], b, 1e-5, key)


@pytest.mark.parametrize("name", cases.ESSENTIAL)
def test_vmap_over_parameters_and_other_dimensions(name):
    """An ensemble: every parameter has one more dimension, in the middle of its shape."""
    case = cases.make(name, length=12)
    values = tuple(torch.stack([v, v * 0.9, v * 1.1], dim=1) for v in case.values)
    found = vmap(case, 1)(*values)
    for i in range(3):
        for a, b in zip(found, case(*(v.select(1, i) for v in values)), strict=True):
            torch.testing.assert_close(a[i], b)
    nested = vmap(vmap(case, 0), 0)(*(torch.stack([v.movedim(1, 0)] * 2) for v in values))
    torch.testing.assert_close(nested[0][1], found[0])


@pytest.mark.parametrize("name", cases.WITH_LAYOUT)
def test_vmap_over_an_inner_dimension_of_the_activations(name):
    """Only the activations are mapped, so that the dimension merges into the batch, wherever it stands."""
    case = cases.make(name, "padded", length=12)
    first = next(iter(case.tensors))
    values = [case.tensors[first] * factor for factor in (1.0, -0.5)]
    for dim in (1, 2, 3):
        found = vmap(lambda x: case(x)[0], in_dims=dim, out_dims=1)(torch.stack(values, dim))
        for i, value in enumerate(values):
            torch.testing.assert_close(found[:, i], case(value)[0])


@pytest.mark.parametrize("name", [n for n in cases.ESSENTIAL if n in cases.WITH_LAYOUT])
def test_vmap_over_lengths(name):
    case = cases.make(name, "padded", length=12)
    lengths = torch.stack([case.options["lengths"], torch.tensor([3, 12, 5])])
    first = case.values[0]

    def function(x: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        return cases.replace(case, options={**case.options, "lengths": lengths})(x)[0]

    found = vmap(function, (None, 0))(first, lengths)
    both = vmap(function)(torch.stack([first, 2 * first]), lengths)
    for i in range(2):
        torch.testing.assert_close(found[i], function(first, lengths[i]))
        torch.testing.assert_close(both[i], function((i + 1) * first, lengths[i]))


@pytest.mark.parametrize("name", cases.NAMES)
def test_vmap_over_nothing_in_the_batch(name):
    """A mapped dimension in front of an empty batch."""
    case = cases.make(name, batch=0, length=5)
    tensors, in_dims = per_sample(case, 3)
    if 0 in in_dims:
        found = vmap(case, in_dims)(*tensors.values())
        assert found[0].shape == (3, *case()[0].shape)


def test_functional_call_on_a_layer():
    layer = lk.PGC(6)
    x = torch.randn(4, 9, 6)
    parameters = dict(layer.named_parameters())
    loss = lambda p, u: functional_call(layer, p, (u.unsqueeze(0),)).tanh().sum()  # noqa: E731
    samples = vmap(grad(loss), (None, 0))(parameters, x)
    for i in range(4):
        alone = grad(loss)(parameters, x[i])
        for key in alone:
            cases.assert_close(samples[key][i], alone[key], 1e-5, key)
