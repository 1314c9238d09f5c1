"""The command line. `main` is the entry point; heavy imports wait until a command runs."""

from __future__ import annotations

import os
import platform
import sys

import typer

from ..errors import InputError
from .demo import demo
from .env import env
from .explain import explain
from .predict import predict
from .train import train

EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130  # what a shell reports for Ctrl-C

app = typer.Typer(
    help="Train Lyra models of DNA, RNA and protein sequences, predict with them and explain them.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
for command in (train, predict, explain, env, demo):
    app.command(no_args_is_help=command in (train, predict, explain))(command)


def main() -> None:
    """Runs the command line; what the user can put right ends in one line and exit code 2."""
    # OpenMP's threads sleep while they wait for each other, instead of spinning. On cores that other programs use, too,
    # a training step is four times as fast this way. It must be said before torch is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    if platform.machine() in ("x86_64", "AMD64"):  # where torch does not use OpenBLAS
        # The same for numpy and scipy, whose vectors here are too short to share out: the baselines took seconds on
        # one thread, and over a minute on two that waited for a busy core.
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    try:
        app()
    except InputError as error:
        print(f"lyra: error: {error}", file=sys.stderr)
        sys.exit(EXIT_BAD_INPUT)
    except KeyboardInterrupt:
        print("lyra: interrupted", file=sys.stderr)
        sys.exit(EXIT_INTERRUPTED)
