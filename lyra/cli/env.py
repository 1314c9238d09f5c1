"""`lyra env`"""

from __future__ import annotations

PACKAGES = (
    "numpy", "triton", "lightning", "pandas", "scipy", "safetensors", "huggingface_hub",
    "matplotlib", "typer", "rich",
)  # fmt: skip


def env() -> None:
    """Show versions, which backends this machine has and why others are missing, CPU features and threads.

    Example: [bold]lyra env[/bold]
    """
    import importlib.metadata

    import lyra_kernels

    facts = dict(lyra_kernels.env_report())
    for package in PACKAGES:
        try:
            facts[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            facts[package] = "not installed"
    width = max(map(len, facts))
    for name, value in facts.items():
        print(f"{name:<{width}}  {value}")
