"""Builds the wheel, installs it in an environment of its own and uses it there: what a user of `pip install` gets.

LYRA_WHEEL_TORCH names the torch of that environment, "torch>=2.10" where unset resolves to the one already downloaded.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

USE = """
import lyra, lyra_kernels, torch
assert "cpu" in lyra_kernels.available_backends(), lyra_kernels.env_report()
model = lyra.Lyra(d_input=4, d_model=16, d_state=8).train()
model(torch.randint(0, 4, (2, 50))).sum().backward()
assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
print("torch", torch.__version__, "from", lyra_kernels.__file__)
"""


def run(*command: str | Path, cwd: Path) -> None:
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}
    subprocess.run([str(part) for part in command], cwd=cwd, env=environment, check=True)


def main() -> None:
    dist = ROOT / "dist"
    shutil.rmtree(dist, ignore_errors=True)
    run(sys.executable, "-m", "pip", "wheel", "-q", ".", "--no-deps", "--no-build-isolation", "-w", dist, cwd=ROOT)
    (wheel,) = dist.glob("*.whl")
    files = zipfile.ZipFile(wheel).namelist()
    for needed in ("lyra_kernels/_C.abi3.so", "lyra_kernels/py.typed"):
        if needed not in files:
            raise SystemExit(f"{wheel.name} lacks {needed}")
    strays = [name for name in files if not name.startswith(("lyra/", "lyra_kernels/", "lyra_bio-"))]
    if strays:
        raise SystemExit(f"{wheel.name} installs what it should not: {', '.join(strays[:5])}")
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        venv.create(home / "env", with_pip=True)
        python = home / "env/bin/python"
        torch = os.environ.get("LYRA_WHEEL_TORCH", "torch==2.13.0")
        run(python, "-m", "pip", "install", "-q", "--no-compile", torch, cwd=home)
        run(python, "-m", "pip", "install", "-q", "--no-compile", f"{wheel}[app]", cwd=home)
        run(python, "-c", USE, cwd=home)
        run(home / "env/bin/lyra", "env", cwd=home)
    print(f"{wheel.name}: {wheel.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
