"""The whole model against the published one and a transformer."""

import pytest

from . import cases


@pytest.mark.parametrize("case", cases.model_cases(), ids=str)
def test_model(case, threads, measure):
    measure(case, threads)
