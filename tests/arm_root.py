"""Make a root folder of 64-bit ARM Linux with Python and TVM's runtime, to run under qemu-user.

    python tests/arm_root.py [--root DIR] [--show]

Needs apt-get and dpkg-deb, but not root rights: apt works on a private state, and packages are
only unpacked. Prints where everything is, as JSON. A complete root is left as it is, so that
calling this again costs nothing. DIR defaults to $TVM_IOVT_ARM_ROOT, else to the user's cache.

The distribution must publish arm64 packages in the configured sources (Debian does).
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

SYSTEM_PACKAGES = ("python3", "libstdc++6", "libgomp1")
PLATFORMS = ("manylinux_2_28_aarch64", "manylinux2014_aarch64")
COMPILER = "tvm/lib/libtvm_compiler.so"  # 240 MB that the runtime does not use


def default_root() -> Path:
    if os.environ.get("TVM_IOVT_ARM_ROOT"):
        return Path(os.environ["TVM_IOVT_ARM_ROOT"])
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "tvm-iovt" / "arm64-root"


def describe(root: Path) -> dict[str, str] | None:
    """Where the parts of a complete root are; None when it is missing or of other versions."""
    try:
        found: dict[str, str] = json.loads((root / "arm-root.json").read_text())
    except (OSError, ValueError):
        return None
    if found.pop("requirements") != " ".join(requirements()):
        return None
    return {name: str(root / path) for name, path in found.items()} | {"root": str(root)}


def requirements() -> list[str]:
    tvm = [
        f"{name}=={importlib.metadata.version(name)}" for name in ("apache-tvm", "apache-tvm-ffi")
    ]
    return [*tvm, "numpy", "ml_dtypes", "typing_extensions"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--root", type=Path, default=default_root())
    parser.add_argument("--show", action="store_true", help="make nothing; fail if there is none")
    arguments = parser.parse_args()
    root = arguments.root.resolve()
    if describe(root) is None:
        if arguments.show:
            sys.exit("run python tests/arm_root.py")
        root.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=root.parent, prefix=".arm-root-") as temporary:
            made = Path(temporary) / "root"
            python = unpack_system(made, Path(temporary) / "apt")
            unpack_wheels(made, python)
            shutil.rmtree(root, ignore_errors=True)
            made.rename(root)
    print(json.dumps(describe(root), indent=1))


def unpack_system(root: Path, state: Path) -> str:
    """Unpack Python and what it depends on; returns its version (`3.11`)."""
    for folder in ("lists/partial", "cache/archives/partial"):
        (state / folder).mkdir(parents=True)
    (state / "status").touch()  # nothing is installed, so that all dependencies are fetched
    options = {
        "APT::Architecture": "arm64",
        "APT::Architectures::": "arm64",
        "APT::Install-Recommends": "false",
        "Acquire::Languages": "none",
        "Debug::NoLocking": "true",
        "Dir::State": str(state),
        "Dir::State::Lists": str(state / "lists"),
        "Dir::State::status": str(state / "status"),
        "Dir::Cache": str(state / "cache"),
    }
    apt = ["apt-get", "-q", *(word for k, v in options.items() for word in ("-o", f"{k}={v}"))]
    run([*apt, "update"])
    run([*apt, "install", "--yes", "--download-only", *SYSTEM_PACKAGES])
    root.mkdir()
    for package in sorted((state / "cache" / "archives").glob("*.deb")):
        run(["dpkg-deb", "--extract", str(package), str(root)])
    if not (root / "lib").exists():
        # Newer distributions keep everything in /usr, and make this link in another package.
        (root / "lib").symlink_to("usr/lib")
    (python,) = {p.name for p in (root / "usr" / "bin").glob("python3.*") if p.name[8:].isdigit()}
    return python.removeprefix("python")


def unpack_wheels(root: Path, python: str) -> None:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--only-binary=:all:", "--python-version", python, "--dest", str(root / "wheels")]
    command += [word for tag in PLATFORMS for word in ("--platform", tag)]
    run([*command, *requirements()])
    for wheel in sorted((root / "wheels").glob("*.whl")):
        with zipfile.ZipFile(wheel) as archive:
            members = [name for name in archive.namelist() if name != COMPILER]
            archive.extractall(root / "site", members)
    found = {
        "requirements": " ".join(requirements()),
        "python": f"usr/bin/python{python}",
        "site": "site",
        "wheels": "wheels",
    }
    (root / "arm-root.json").write_text(json.dumps(found))


def run(command: list[str]) -> None:
    """Run a command; on failure print what it printed, and exit."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode != 0:
        sys.exit(f"failed: {' '.join(command)}\n{done.stdout}")


if __name__ == "__main__":
    main()
