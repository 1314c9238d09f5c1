"""On a real card: what is replayed is what is launched one by one, bit for bit, by every op and every layout."""

from __future__ import annotations

import pytest
import torch

import lyra_kernels as lk

from ..ops import cases

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a card")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("name, layout", cases.combos(cases.ESSENTIAL))
def test_replayed_as_launched(name, layout, dtype, monkeypatch):
    from lyra_kernels.backends.triton import _PLANNED, _direct, _plans

    if not _plans.available():
        pytest.skip("the native library was not built")
    launched, find = [], _direct.find
    monkeypatch.setattr(_direct, "find", lambda kernel, key: launched.append(kernel) or find(kernel, key))

    def training() -> list[torch.Tensor]:
        outputs, gradients = cases.gradients(case, cotangents)
        return [*outputs, *gradients.values()]

    case = cases.make(name, layout, dtype, batch=3, length=200, channels=16).to("cuda")
    with lk.use_backend("triton"):
        with torch.no_grad():
            cotangents = cases.weights_like(case())
        for _ in range(3):
            training()
        case = case.map(lambda x: x * torch.empty_like(x).uniform_(0.5, 1.0))
        launched.clear()
        found = training()
        one_by_one = len(launched)
        monkeypatch.setattr(_plans.Planned, "__call__", lambda self, *args: self.function(*args))
        wanted = training()
    assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))
    assert not one_by_one, {n: _PLANNED[n].refusals for n in _PLANNED if _PLANNED[n].refusals}
