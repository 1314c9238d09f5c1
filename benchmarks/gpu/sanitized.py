"""One op on one backend at a small shape, forward and backward, in every storage: what compute-sanitizer watches.

    python -m benchmarks.gpu.sanitized OP BACKEND cuda|cpu

It says `FINISHED` when it is through: a sanitizer that found nothing in a program that did nothing has shown nothing.
"""

from __future__ import annotations

import sys

import torch

import lyra_kernels as lk

from . import cards, ops

FINISHED = "all of it ran"
SHAPES = ((2, 70, 24), (1, 5, 3))  # neither a multiple of any tile


def main(op: str, backend: str, kind: str) -> None:
    card = cards.make(kind)
    with lk.use_backend(backend):
        for shape in SHAPES:
            for precision in ops.PRECISIONS:
                case = ops.make(op, shape, getattr(torch, precision), card.device)
                out = cards.tensors(case.function(*case.tensors))[0]
                grads = torch.autograd.grad(out, case.tensors, torch.randn_like(out))
                card.synchronize()
                if not all(bool(t.isfinite().all()) for t in (out, *grads)):
                    raise ArithmeticError(f"{op} at {shape} in {precision} is not finite")
    print(FINISHED, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
