"""The command line. `main` is the entry point; heavy imports wait until a command runs."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import platform
import sys
import tempfile
import traceback
from typing import Any, NoReturn

import typer

from ..errors import InputError, arguments_spelled
from .data import data
from .demo import demo
from .design import design
from .env import env
from .explain import explain
from .options import Command, option
from .predict import predict
from .split import split
from .train import train
from .variants import variants

EXIT_FAILED = 1
EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130  # what a shell reports for Ctrl-C

app = typer.Typer(
    help="Train Lyra models of DNA, RNA and protein sequences, predict with them and explain them.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
for command in (train, predict, explain, variants, design, split, data, env, demo):
    app.command(no_args_is_help=command not in (data, env, demo), cls=Command)(command)


def main() -> None:
    """Runs the command line; what the user can put right ends in one line and exit code 2."""
    # OpenMP's threads sleep while they wait for each other, instead of spinning. On cores that other programs use, too,
    # a training step is four times as fast this way. It must be said before torch is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    if platform.machine() in ("x86_64", "AMD64"):  # where torch does not use OpenBLAS
        # The same for numpy and scipy, whose vectors here are too short to share out: the baselines took seconds on
        # one thread, and over a minute on two that waited for a busy core.
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a name that the terminal cannot show is no reason to fail
            stream.reconfigure(errors="backslashreplace")
    try:
        with arguments_spelled(option):
            code = app(standalone_mode=False, prog_name="lyra")  # so that every error comes here
        if sys.stdout is not None:
            sys.stdout.flush()
    except InputError as error:
        fail(str(error), EXIT_BAD_INPUT)
    except KeyboardInterrupt:
        print("lyra: interrupted", file=sys.stderr)
        sys.exit(EXIT_INTERRUPTED)
    except Exception as error:
        if hasattr(error, "format_message"):  # the command line itself is wrong
            fail_usage(error)
        if type(error).__name__ == "Abort":  # what earlier versions of typer make of an interrupt
            sys.exit(EXIT_INTERRUPTED)
        if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
            fail("not enough memory; try a smaller --batch-size, or the CPU", EXIT_BAD_INPUT)
        if isinstance(error, OSError) and error.errno in (errno.EPIPE, errno.ENOSPC):
            silence_output()
            fail(f"standard output: cannot be written: {error.strerror}", EXIT_BAD_INPUT)
        report_failure(error)
        sys.exit(EXIT_FAILED)
    sys.exit(code)


def fail(message: str, code: int) -> NoReturn:
    print(f"lyra: error: {message}", file=sys.stderr)
    sys.exit(code)


def fail_usage(error: Any) -> NoReturn:
    """Says what is wrong with the command line; a command without anything behind it shows its help."""
    if type(error).__name__ == "NoArgsIsHelpError":
        error.show()
        sys.exit(error.exit_code)
    command = error.ctx.command_path if error.ctx is not None else "lyra"
    message = " ".join(error.format_message().split())
    fail(f"{message.rstrip('.')}; see {command} --help", error.exit_code)


def silence_output() -> None:
    """Keeps Python from trying once more, at its end, to write what cannot be written."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def report_failure(error: Exception) -> None:
    """Says in one line what went wrong that should not have, and keeps the traceback in a file."""
    reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
    try:
        with tempfile.NamedTemporaryFile("w", prefix="lyra-error-", suffix=".txt", delete=False, encoding="utf-8",
                                         errors="backslashreplace") as file:  # fmt: skip
            traceback.print_exception(error, file=file)
        where = f"the traceback is in {file.name}"
    except OSError as problem:  # the disk may be what failed
        where = f"the traceback could not be kept ({problem.strerror})"
    print(f"lyra: error: {reason} (this is a fault of lyra, please report it: {where})", file=sys.stderr)
