"""Predicted times: the larger of bytes over bandwidth and operations over rate, kernel by kernel.

Rates are the makers' published dense peaks. A prediction is a lower bound that assumes both are reached; it leaves out
the time to launch a kernel (some microseconds each, hidden by CUDA graphs) and what caches keep.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Card:
    """Bytes a second, and operations a second of the vector units and of matrix products by operand type."""

    name: str
    bandwidth: float
    vector: float
    products: dict[str, float]


T = 1e12
CARDS = (
    Card("A100 80GB", 2.039e12, 19.5 * T, {"fp16": 312 * T, "bf16": 312 * T, "tf32": 156 * T, "ieee": 19.5 * T}),
    Card("H100 SXM", 3.35e12, 66.9 * T, {"fp16": 989 * T, "bf16": 989 * T, "tf32": 494 * T, "ieee": 66.9 * T}),
    Card("H200", 4.8e12, 66.9 * T, {"fp16": 989 * T, "bf16": 989 * T, "tf32": 494 * T, "ieee": 66.9 * T}),
    Card("RTX 4090", 1.008e12, 82.6 * T, {"fp16": 165 * T, "bf16": 165 * T, "tf32": 82.6 * T, "ieee": 82.6 * T}),
    Card("MI300X", 5.3e12, 163.4 * T, {"fp16": 1307 * T, "bf16": 1307 * T, "tf32": 653 * T, "ieee": 163.4 * T}),
)


def seconds(
    card: Card, bytes_: float, products: float, vector: float, precision: str = "tf32", half: float = 0
) -> float:
    """Of one kernel. tf32x3 is three TF32 products; AMD cards do fp32 products exactly instead.

    ``half`` counts operations on 16-bit operands, beside ``products`` in ``precision``. bf16x6 is counted there, six of
    them for a product.
    """
    if card.name.startswith("MI") and precision in ("tf32", "tf32x3", "bf16x6"):
        if precision == "bf16x6":
            products, half = products + half / 6, 0
        precision = "ieee"
    if precision == "tf32x3":
        products, precision = 3 * products, "tf32"
    if precision == "bf16x6":
        precision = "tf32"
    computing = products / card.products[precision] + half / card.products["fp16"] + vector / card.vector
    return max(bytes_ / card.bandwidth, computing)


def launch_seconds(card: Card, launch: dict[str, Any], scale: int) -> float:
    """Of a recorded launch."""
    moved = (launch["loaded"] + launch["stored"]) * scale
    precision = launch["constants"].get("PREC", "tf32")
    products, vector, half = (launch.get(k, 0) * scale for k in ("product_flops", "vector_flops", "half_flops"))
    return seconds(card, moved, products, vector, precision, half)
