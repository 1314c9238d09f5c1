"""`lyra env`"""

from __future__ import annotations


def env() -> None:
    """Show versions, which backends this machine has and why others are missing, CPU features and threads.

    Example: [bold]lyra env[/bold]
    """
    import importlib.metadata
    import platform

    import lyra_kernels

    from .. import __version__

    print(f"lyra {__version__}, Python {platform.python_version()}, {platform.platform()}")
    for package in (
        "torch",
        "numpy",
        "triton",
        "lightning",
        "torchmetrics",
        "pandas",
        "scipy",
        "safetensors",
    ):
        try:
            print(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            print(f"{package} is not installed")
    print(lyra_kernels.env_report())
