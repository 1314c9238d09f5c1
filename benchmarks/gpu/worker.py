"""The process that touches the card: takes cases from standard input, says rows on standard output, JSON by line.

    python -m benchmarks.gpu.worker cuda|cpu

It says {"ready": true} when it takes cases, and {"end": true} after each. A case is a spec of a module, "module", which
has either `run(spec, card, pace, say)` or `build(spec, card)`, which makes a `Case`. It leaves with status 3 once the
device answers no more.
"""

from __future__ import annotations

import importlib
import json
import os
import sys

from .cards import Card, make
from .cases import TINY, Pace, Row, Say
from .measure import Sticky, measure, one_line

STICKY = 3


def main(kind: str) -> int:
    channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints goes to the log

    def say(row: Row) -> None:
        channel.write(json.dumps(row) + "\n")
        channel.flush()

    card, pace = make(kind), Pace() if kind == "cuda" else TINY
    say({"ready": True})
    for line in sys.stdin:
        spec = json.loads(line)
        try:
            serve(spec, card, pace, say)
        except Sticky:
            return STICKY
        say({"end": True})
    return 0


def serve(spec: Row, card: Card, pace: Pace, say: Say) -> None:
    """One case; what fails before its first side fails the case."""
    skip = {tuple(pair) for pair in spec.pop("skip", ())}
    try:
        module = importlib.import_module(spec.pop("module"))
        if hasattr(module, "run"):
            module.run(spec, card, pace, say)
        else:
            measure(module.build(spec, card), card, pace, say, skip)
    except Sticky:
        raise
    except Exception as error:
        say({**{k: v for k, v in spec.items() if k not in ("only", "tiny")}, "failed": one_line(error)})
        if not card.healthy():
            raise Sticky from error
    card.release()


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
