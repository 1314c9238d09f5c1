"""What becomes of a layer's children is seen: whatever hooks, wraps, replaces or changes them does what it does in the
published layers, which call them."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune, spectral_norm

import lyra_kernels as lk
from lyra import Lyra
from lyra_kernels.layers import _children, pgc, s4d

from .by_children import written_out

pytestmark = pytest.mark.filterwarnings("ignore:Full backward hook is firing:UserWarning")

U = torch.randn(2, 6, 4)
CHILDREN = {
    "pgc": ("in_proj", "in_norm", "conv", "out_proj", "out_norm", "dropout"),
    "s4d": ("kernel", "activation", "dropout", "output_linear", "output_linear.0", "output_linear.1"),
    "lyra": ("encoder", "norms.0", "dropouts.0", "pgc_layers.0", "pgc_layers.0.conv", "s4_layers.0",
             "s4_layers.0.kernel", "s4_layers.0.output_linear.0", "final_norm", "final_dropout", "decoder"),
}  # fmt: skip
EACH = [(name, child) for name, children in CHILDREN.items() for child in children]
WEIGHTED = [(n, c) for n, c in EACH if c.split(".")[-1] in ("in_proj", "conv", "out_proj", "encoder", "0", "decoder")
            and not c.endswith(("norms.0", "dropouts.0", "layers.0"))]  # fmt: skip


def make(name: str, **options) -> nn.Module:
    torch.manual_seed(0)
    if name == "lyra":
        layer: nn.Module = Lyra(d_input=4, d_model=4, d_output=2, num_pgc_layers=1, num_s4_layers=1, d_state=4)
    else:
        layer = lk.PGC(4, **options) if name == "pgc" else lk.S4D(4, d_state=4, transposed=False, **options)
    for parameter in layer.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return layer.eval()


def put(layer: nn.Module, child: str, other: nn.Module) -> None:
    parent, _, name = child.rpartition(".")
    setattr(layer.get_submodule(parent), name, other)


def assert_like_the_published(layer: nn.Module, u: Tensor = U) -> None:
    """Its output and the gradients of all its parameters."""
    found, wanted = layer(u), written_out(layer, u)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    parameters = [p for p in layer.parameters() if p.requires_grad]
    pairs = [torch.autograd.grad(y.sin().sum(), parameters, allow_unused=True) for y in (found, wanted)]
    for a, b in zip(*pairs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


class Twice(nn.Module):
    """A wrapper such as LoRA's: it shows the weight of what it wraps, and computes something else."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base, self.scale = base, nn.Parameter(torch.tensor(2.0))

    weight = property(lambda self: self.base.weight)
    bias = property(lambda self: self.base.bias)
    eps = property(lambda self: self.base.eps)

    def forward(self, *args):
        return self.scale * self.base(*args) + 1


class Double(nn.Module):
    def forward(self, x):
        return 2 * x


# ---- who looks at a child ----------------------------------------------------------------------------------------
def looked_at(module: nn.Module, call: Callable[[], object]) -> list:
    """What the module gets and gives in a call, once each."""
    seen: list = []
    handles = [
        module.register_forward_pre_hook(lambda module, args: seen.extend(args)),
        module.register_forward_hook(lambda module, args, out: seen.append(out)),
    ]
    call()
    for handle in handles:
        handle.remove()
    return seen


@pytest.mark.parametrize("name, child", EACH)
def test_hooks(name, child):
    """Forward hooks see what the published layer's child gets and gives, backward ones its gradients."""
    layer = make(name)
    before, module, gradients = layer(U), layer.get_submodule(child), []
    found = looked_at(module, lambda: torch.testing.assert_close(layer(U), before))
    torch.testing.assert_close(found, looked_at(module, lambda: written_out(layer, U)), rtol=1e-4, atol=1e-5)
    assert torch.equal(layer(U), before)

    handle = module.register_full_backward_hook(lambda module, into, of: gradients.append(of[0]))
    layer(U).sin().sum().backward()
    written_out(layer, U).sin().sum().backward()
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-3, atol=1e-4)
    handle.remove()
    module.register_full_backward_pre_hook(lambda module, of: [3 * of[0]])
    assert_like_the_published(layer)


@pytest.mark.parametrize("name, child", EACH)
def test_a_hook_that_changes_something(name, child):
    layer = make(name)
    before = layer(U)
    layer.get_submodule(child).register_forward_hook(lambda module, args, out: 2 * out + 1)
    assert not torch.allclose(layer(U), before)
    assert_like_the_published(layer)


@pytest.mark.parametrize("name", CHILDREN)
def test_hooks_of_all_modules(name):
    layer, called = make(name), []
    handle = nn.modules.module.register_module_forward_hook(lambda module, args, out: called.append(module))
    try:
        y = layer(U)
    finally:
        handle.remove()
    assert {layer, *(layer.get_submodule(child) for child in CHILDREN[name])} <= set(called)
    torch.testing.assert_close(y, layer(U))


# ---- what stands in a child's place --------------------------------------------------------------------------------
@pytest.mark.parametrize("name, child", EACH)
def test_a_wrapper(name, child):
    layer = make(name)
    before = layer(U)
    wrapper = Twice(layer.get_submodule(child))
    put(layer, child, wrapper)
    assert_like_the_published(layer)
    assert not torch.allclose(layer(U), before)
    layer(U).sin().sum().backward()
    assert wrapper.scale.grad is not None


@pytest.mark.parametrize("name, child", EACH)
def test_another_forward(name, child):
    """As accelerate's hooks, and others that patch an instance."""
    layer = make(name)
    before, module = layer(U), layer.get_submodule(child)
    forward = module.forward
    module.forward = lambda *args, **options: 2 * forward(*args, **options) + 1
    assert not torch.allclose(layer(U), before)
    del module.forward
    assert torch.equal(layer(U), before)


def test_a_class_with_another_forward(monkeypatch):
    layer, forward = make("pgc"), nn.Linear.forward
    monkeypatch.setattr(nn.Linear, "forward", lambda self, x: 2 * forward(self, x) + 1)
    assert_like_the_published(layer)


@pytest.mark.parametrize(
    "name, child, other",
    [
        ("pgc", "in_norm", nn.LayerNorm(8)),
        ("pgc", "out_norm", nn.Identity()),
        ("pgc", "conv", nn.Conv1d(4, 4, 5, padding=2, groups=4)),
        ("pgc", "conv", nn.Conv1d(4, 4, 3, padding=2, dilation=2, groups=4)),
        ("pgc", "conv", nn.Conv1d(4, 4, 3, padding=1)),
        ("pgc", "in_proj", nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 8))),
        ("s4d", "activation", nn.SiLU()),
        ("s4d", "activation", nn.GELU(approximate="tanh")),
        ("s4d", "output_linear.1", nn.Sequential(nn.Conv1d(8, 4, 1), nn.Tanh())),
        ("s4d", "output_linear.0", nn.Conv1d(4, 8, 3, padding=1)),
        ("s4d", "output_linear.0", nn.Conv1d(4, 8, 1, groups=2)),
        ("s4d", "output_linear.0", nn.Conv1d(4, 12, 1)),
        ("s4d", "output_linear.0", nn.Conv1d(4, 8, 1, padding=1)),
        ("s4d", "output_linear", nn.Conv1d(4, 4, 1)),
        ("s4d", "dropout", nn.Identity()),
        ("lyra", "encoder", nn.Sequential(nn.Linear(4, 4), nn.ReLU())),
        ("lyra", "norms.0", nn.LayerNorm(4)),
        ("lyra", "pgc_layers.0", nn.Linear(4, 4)),
        ("lyra", "s4_layers.0", nn.Identity()),
        ("lyra", "dropouts.0", Double()),
    ],
    ids=str,
)
def test_surgery(name, child, other):
    layer = make(name)
    before = layer(U)
    put(layer, child, other)
    assert_like_the_published(layer)
    after = layer(U)
    same = after.shape == before.shape and torch.allclose(after, before)
    assert same == (isinstance(other, nn.Identity) and "dropout" in child)


@pytest.mark.parametrize(
    "name, child, setting, value",
    [
        ("pgc", "conv", "padding_mode", "circular"),
        ("pgc", "conv", "dilation", (2,)),
        ("pgc", "in_norm", "eps", 1.0),
        ("pgc", "out_norm", "eps", 1.0),
        ("s4d", "activation", "approximate", "tanh"),
        ("s4d", "output_linear.1", "dim", 1),
        ("lyra", "norms.0", "eps", 1.0),
    ],
)
def test_settings(name, child, setting, value):
    layer = make(name)
    module = layer.get_submodule(child)
    setattr(module, setting, value)
    if setting == "padding_mode":
        module._reversed_padding_repeated_twice = [1, 1]
    if setting == "dilation":
        module.padding = (2,)
    assert_like_the_published(layer)


def test_one_more_child():
    layer = make("s4d")
    layer.output_linear.append(Double())
    assert_like_the_published(layer)


# ---- what becomes of its weights -----------------------------------------------------------------------------------
@pytest.mark.parametrize("name, child", WEIGHTED)
def test_parametrized_weights(name, child):
    layer = make(name)
    before, module = layer(U), layer.get_submodule(child)
    parametrize.register_parametrization(module, "weight", Double())
    assert not torch.allclose(layer(U), before)
    assert_like_the_published(layer)
    parametrize.remove_parametrizations(module, "weight", leave_parametrized=False)
    torch.testing.assert_close(layer(U), before)
    for change in (parametrizations.weight_norm, spectral_norm):
        changed = copy.deepcopy(layer)
        change(changed.get_submodule(child))
        assert_like_the_published(changed)


@pytest.mark.parametrize("name, child", WEIGHTED)
def test_pruned_weights(name, child):
    """Of the weights after the optimizer's step, not of those before, and without keeping a graph."""
    layer = make(name)
    before, module = layer(U), layer.get_submodule(child)
    prune.l1_unstructured(module, "weight", amount=0.5)
    assert not torch.allclose(layer(U), before)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        layer(U).square().sum().backward()
        optimizer.step()
    assert_like_the_published(layer)
    assert module.weight_orig.grad is not None


class Stored(Tensor):
    """A weight that is stored otherwise, as torchao's are: only whoever calls the child gets its numbers."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        if func in (F.linear, F.conv1d):
            return func(*(2 * x.as_subclass(Tensor) if isinstance(x, Stored) else x for x in args))
        return super().__torch_function__(func, types, args, kwargs)


@pytest.mark.parametrize("name, child", WEIGHTED)
def test_weights_of_another_kind(name, child):
    layer = make(name)
    module = layer.get_submodule(child)
    doubled = copy.deepcopy(layer)
    doubled.get_submodule(child).weight.data *= 2
    module.weight = nn.Parameter(module.weight.detach().as_subclass(Stored), requires_grad=False)
    torch.testing.assert_close(layer(U), doubled(U), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name, child", WEIGHTED)
def test_weights_of_another_dtype_are_refused_as_by_the_child(name, child):
    layer = make(name)
    layer.get_submodule(child).double()
    with pytest.raises((RuntimeError, TypeError), match=r"dtype|type|torch.float64"):
        layer(U)


def test_other_parameters():
    for name in ("pgc", "s4d"):
        layer = make(name)
        values = {key: 1.5 * p for key, p in layer.named_parameters()}
        assert not torch.equal(torch.func.functional_call(layer, values, (U,)), layer(U))
        child = layer.get_submodule("out_proj" if name == "pgc" else "output_linear.0")
        child.weight = nn.Parameter(child.weight.detach() * -3)
        child.bias = None
        assert_like_the_published(layer)


def test_a_state_space_of_buffers():
    layer = lk.S4D(4, d_state=4, transposed=False, lr=0.0)
    before = layer(U)
    layer.kernel.log_dt += 1.0
    assert not torch.equal(layer(U), before)


# ---- every way to call -------------------------------------------------------------------------------------------
def composed(layer: nn.Module) -> nn.Module:
    """A copy that computes the same by its children: somebody looks at each."""
    twin = copy.deepcopy(layer)
    for module in list(twin.modules())[1:]:
        module.register_forward_hook(lambda module, args, out: None)
    return twin


VARIANTS: dict[str, Callable[[], nn.Module]] = {
    "pgc": lambda: make("pgc", dropout=0.3),
    "pgc-causal": lambda: make("pgc", causal=True, kernel_size=4, dropout=0.3),
    "s4d": lambda: make("s4d", dropout=0.3),
    "s4d-bidirectional": lambda: make("s4d", bidirectional=True, dropout=0.3),
    "s4d-direct": lambda: make("s4d", algorithm="direct"),
}


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("batch", ["dense", "padded", "packed", "empty"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_composed_layers_are_the_fused_ones(variant, batch, training):
    """In every layout, with and without a residual, with the same dropout; padding reaches nothing."""
    layer = VARIANTS[variant]().train(training)
    lengths = torch.tensor([6, 0, 3])
    u, options = torch.randn(3, 0 if batch == "empty" else 6, 4), {}
    if batch == "padded":
        u[1:, 3:], options = torch.nan, {"lengths": lengths}
    if batch == "packed":
        u, options = torch.randn(1, 9, 4), {"cu_seqlens": torch.tensor([0, 6, 6, 9])}
    u[1:2] = torch.nan if batch == "padded" else u[1:2]
    results = []
    for each in (layer, composed(layer)):
        leaf = u.clone().requires_grad_()
        torch.manual_seed(3)
        y = each(leaf, **options)
        torch.manual_seed(3)
        torch.testing.assert_close(each(leaf, residual=torch.ones_like(u), **options)[0], y[0] + 1)
        parameters = list(each.parameters())
        results.append([y, *torch.autograd.grad(y.sin().sum(), [leaf, *parameters])])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("variant", ["pgc", "pgc-causal", "s4d", "s4d-bidirectional"])
def test_composed_layers_under_autocast_and_in_bfloat16(variant):
    layer = VARIANTS[variant]()
    twin, wanted = composed(layer), layer(U)
    with torch.autocast("cpu", torch.bfloat16):
        found = twin(U)
        assert twin(U, residual=U).dtype == layer(U, residual=U).dtype == torch.float32
        assert found.dtype == layer(U).dtype == torch.bfloat16
    half = twin.bfloat16()(U.bfloat16())
    for y in (found, half):
        assert y.dtype == torch.bfloat16 and (y.float() - wanted).norm() < 0.03 * wanted.norm()


@pytest.mark.parametrize("variant", ["pgc", "s4d"])
def test_composed_layers_in_torch_compile(variant):
    torch._dynamo.reset()
    layer, u = VARIANTS[variant](), U.clone().requires_grad_()
    child = "in_proj" if variant == "pgc" else "output_linear.0"
    put(layer, child, Twice(layer.get_submodule(child)))
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(u), layer(u))
    parameters = [u, *layer.parameters()]
    pairs = [torch.autograd.grad(f(u).sin().sum(), parameters) for f in (compiled, layer)]
    for a, b in zip(*pairs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)


def test_states_of_a_composed_layer():
    """They need the state space's own parameters: read off a parametrized kernel, refused off one with hooks."""
    layer = make("s4d")
    put(layer, "output_linear.0", Twice(layer.output_linear[0]))
    state = layer.initial_state(2)
    y, _ = layer(U, initial_state=state, return_final_state=True)
    torch.testing.assert_close(y, layer(U))
    parametrize.register_parametrization(layer.kernel, "C", Double())
    y, _ = layer(U, initial_state=state, return_final_state=True)
    torch.testing.assert_close(y, layer(U), rtol=1e-4, atol=1e-5)
    layer.kernel.register_forward_hook(lambda *args: None)
    with pytest.raises(RuntimeError, match=r"need the state space's own parameters, and the layer's\n?.*kernel"):
        layer(U, initial_state=state)


def test_token_ids_go_through_whatever_encodes():
    model = make("lyra")
    ids = torch.tensor([[0, 3, -1, 2], [1, 1, 0, -5]])
    one_hot = F.one_hot(ids.clamp(min=0), 4).float() * (ids >= 0).unsqueeze(-1)
    model.encoder.register_forward_hook(lambda module, args, out: out + 1)
    torch.testing.assert_close(model(ids), model(one_hot))
    with pytest.raises(ValueError, match="x holds token id 7, the model has 4 letters"):
        model(ids + 4)


# ---- the look itself -----------------------------------------------------------------------------------------------
@pytest.mark.skipif(_children._native_look is None, reason="lyra_kernels._C is not built")
@pytest.mark.parametrize("name, child", [e for e in EACH if e[0] != "lyra"])
def test_the_native_look_is_the_same(name, child):
    parts = pgc._WHOLE if name == "pgc" else s4d._WHOLE

    def looks(layer: nn.Module) -> list:
        native = _children._native_look(layer, parts, _children._torch.GLOBAL_HOOKS, _children._ORDINARY)
        return [native, _children._look(layer, parts)]

    native, python = looks(make(name))
    assert native is not None and all(a is b for a, b in zip(native, python, strict=True))
    changes: list[Callable[[nn.Module], object]] = [
        lambda module: module.register_forward_hook(print),
        lambda module: module.register_forward_pre_hook(print),
        lambda module: module.register_full_backward_hook(print),
        lambda module: module.register_full_backward_pre_hook(print),
        lambda module: module.__dict__.update(forward=print),
        lambda module: module.add_module("more", nn.Identity()),
        lambda module: module.compile(backend="eager"),
        lambda module: setattr(module, "__class__", type("Sub", (type(module),), {})),
        lambda module: [
            p.data.__class__ and setattr(p, "data", p.data.double()) for p in list(module.parameters())[:1]
        ],
    ]
    for i, change in enumerate(changes):
        layer = make(name)
        module = layer.get_submodule(child)
        change(module)
        several = len(list(module.parameters())) > 1 or child.endswith("norm")
        if i < len(changes) - 1 or (several and child != "output_linear"):
            assert looks(layer) == [None, None], (i, child)
    layer = make(name)
    put(layer, child, None)
    assert looks(layer) == [None, None]
