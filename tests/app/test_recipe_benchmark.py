"""The benchmark of the recipe at a tiny size: what it measures is there, and its page has it."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks import recipe

TINY = {"d_model": 8, "d_state": 4, "epochs": 1}


def test_few_rows_beside_the_simpler_models():
    result = recipe.at_size(100, 0, **TINY)
    assert "fifth left out" in result["recipe"] and set(result["covered"]) == {"0.5", "0.8", "0.9"}
    assert np.isfinite([result["lyra"], *result["rivals"].values()]).all()
    page = recipe.page({"100 rows, draw 0": result})
    assert f"| 100 rows, draw 0 | {result['lyra']:.3f} |" in page


@pytest.mark.parametrize("name", ["mpsa", "solvent_accessibility"])
def test_networks_alone_together_and_mixed(name):
    result = recipe.on_data(name, 0, **TINY)
    assert len(result["alone"]) == recipe.SEEDS and np.isfinite([*result["alone"], result["together"]]).all()
    assert ("mixed" in result) == (name == "mpsa")
    assert f"| {result['together']:.4f} |" in recipe.page({f"{name}, seed 0": result})
