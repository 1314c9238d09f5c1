"""`make gpu`, or `python -m benchmarks.gpu`: proves and measures everything on the card of this machine.

Exit status: 0 when all stages ran, whatever they found; 2 without a card, before anything is written; 130 or 143 when
it was interrupted, with the results written so far. LYRA_COMMIT names the commit where there is no git to ask.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from . import page, results
from .cards import Card, StandIn
from .children import ROOT
from .results import RESULTS
from .stages import SHARES, Run

NO_CARD = 2


class Interrupted(BaseException):
    """SIGTERM came."""


def main(arguments: list[str]) -> int:
    options = parse(arguments)
    if options.pages:
        return rewrite_pages(options.out or RESULTS)
    if not options.dry_run and not torch.cuda.is_available():
        print("make gpu: torch sees no card on this machine, so nothing was run", file=sys.stderr)
        return NO_CARD
    card = StandIn() if options.dry_run else Card()
    folder = options.out or (Path(tempfile.mkdtemp(prefix="lyra-dry-run-")) if options.dry_run else RESULTS)
    stamp = {"commit": commit(), "date": datetime.date.today().isoformat()}
    run = Run(card, folder, 60 * options.minutes, stamp, tuple(options.only or SHARES))
    before = signal.signal(signal.SIGTERM, interrupt)
    status = 0
    try:
        run.go()
    except KeyboardInterrupt:
        status = 128 + signal.SIGINT
    except Interrupted:
        status = 128 + signal.SIGTERM
    finally:
        signal.signal(signal.SIGTERM, before)
    print(f"{'interrupted; ' if status else ''}written: {run.file.with_suffix('.md')}")
    return status


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=list(SHARES), metavar="STAGE", help=", ".join(SHARES))
    parser.add_argument("--minutes", type=minutes, default=8.0, help="for everything together [8]")
    parser.add_argument("--out", type=Path, help="folder of the results [benchmarks/results; of a dry run a new one]")
    parser.add_argument(
        "--dry-run", action="store_true", help="tiny sizes on the CPU: whether it all works, no figures"
    )
    parser.add_argument("--pages", action="store_true", help="only make the pages of all cards anew from their JSON")
    return parser.parse_args(arguments)


def minutes(text: str) -> float:
    value = float(text)
    if not 0 < value < 1e4:
        raise argparse.ArgumentTypeError("must be above 0")
    return value


def interrupt(*_: object) -> None:
    raise Interrupted


def rewrite_pages(folder: Path) -> int:
    """Every card's page from its JSON."""
    for file in cards_in(folder):
        content = json.loads(file.read_text())
        results.replace(file.with_suffix(".md"), page.render(content["card"], content["rows"]))
        print(f"written: {file.with_suffix('.md')}")
    return 0


def cards_in(folder: Path) -> list[Path]:
    """The results of cards in a folder."""
    found = []
    for file in sorted(folder.glob("*.json")):
        content = json.loads(file.read_text())
        if isinstance(content, dict) and "card" in content:
            found.append(file)
    return found


def commit() -> str:
    """The commit that is measured, with "-dirty" if files differ from it; LYRA_COMMIT says it where there is no git."""
    told = os.environ.get("LYRA_COMMIT")
    if told:
        return told
    try:
        name = git("rev-parse", "--short=7", "HEAD")
        changed = git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!benchmarks/results")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return name + ("-dirty" if changed else "")


def git(*arguments: str) -> str:
    command = ["git", "-C", str(ROOT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
