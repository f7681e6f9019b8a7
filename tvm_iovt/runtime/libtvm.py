"""Bring TVM's runtime library and `tvm_ffi` into the process, and nothing else of TVM."""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import importlib.metadata
import importlib.util
import os
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from tvm_iovt.errors import BundleError, DeviceError
from tvm_iovt.runtime import threads

RUNTIME = "libtvm_runtime.so"
EXTRA = "libtvm_runtime_extra.so"
DEVICE_LIBRARIES = {"cuda": "libtvm_runtime_cuda.so"}

_lock = threading.Lock()
_loaded: dict[str, ctypes.CDLL] = {}


def pip_command(tvm_version: str, tvm_ffi_version: str) -> str:
    """The command that installs the runtime a bundle was compiled for."""
    return f"pip install apache-tvm=={tvm_version} apache-tvm-ffi=={tvm_ffi_version}"


def library_folders(packed: Path | None = None) -> tuple[Path, ...]:
    """Where TVM's libraries are looked for, first match wins.

    Args:
        packed: The `lib` folder of a packed bundle, if there is one.

    Returns:
        `$TVM_LIBRARY_PATH`, the packed folder, the installed `apache-tvm`; those that exist.
    """
    folders = [Path(os.environ["TVM_LIBRARY_PATH"])] if os.environ.get("TVM_LIBRARY_PATH") else []
    if packed is not None:
        folders.append(packed)
    spec = importlib.util.find_spec("tvm")  # does not run the package's code
    if spec is not None and spec.origin is not None:
        folders.append(Path(spec.origin).parent / "lib")
    return tuple(folder for folder in folders if folder.is_dir())


def check_versions(tvm_version: str, tvm_ffi_version: str, packed: Path | None = None) -> None:
    """Compare the versions that a bundle was compiled with to those that would run it.

    TVM's binary interface changes with every release. The packed libraries beside a bundle are
    of the right version by construction; then only `tvm_ffi` is checked.

    Raises:
        BundleError: They differ, or TVM's runtime is not installed.
    """
    do = pip_command(tvm_version, tvm_ffi_version)
    tvm, ffi = _installed("apache-tvm"), _installed("apache-tvm-ffi")
    is_packed = (
        packed is not None and (packed / RUNTIME).is_file() and sys.modules.get("tvm") is None
    )
    if ffi is None or not (tvm or is_packed or os.environ.get("TVM_LIBRARY_PATH")):
        missing = "apache-tvm-ffi" if ffi is None else "apache-tvm"
        raise BundleError("TVM's runtime is not installed", seen=f"no {missing}", do=do)
    if not is_packed and tvm is not None and tvm != tvm_version:
        raise BundleError(
            "The bundle was compiled with another TVM",
            seen=f"apache-tvm {tvm_version} compiled it; {tvm} is installed",
            do=do,
        )
    if _release(ffi) != _release(tvm_ffi_version):
        raise BundleError(
            "The bundle was compiled with another TVM FFI",
            seen=f"apache-tvm-ffi {tvm_ffi_version} compiled it; {ffi} is installed",
            do=do,
        )


def load(packed: Path | None = None) -> ModuleType:
    """Load TVM's runtime library, once a process, and return the module `tvm_ffi`.

    Raises:
        BundleError: The library or the module cannot be found or loaded.
    """
    with _lock:
        try:
            with _without_torch():
                ffi = importlib.import_module("tvm_ffi")
        except (ImportError, OSError, RuntimeError) as error:
            raise BundleError(
                "tvm_ffi cannot be imported", seen=str(error), do="pip install apache-tvm-ffi"
            ) from error
        threads.set_defaults()
        if sys.modules.get("tvm") is None and RUNTIME not in _loaded:
            _loaded[RUNTIME] = _open(RUNTIME, packed)
            # Sort, top-k and other operators that networks look up only when they run.
            with contextlib.suppress(BundleError):
                _loaded[EXTRA] = _open(EXTRA, packed)
        return ffi


def load_device(kind: str, packed: Path | None = None) -> None:
    """Load TVM's runtime of a kind of device (`cuda`), which registers its device API.

    Raises:
        DeviceError: There is none, or the driver libraries that it needs are missing.
    """
    name = DEVICE_LIBRARIES.get(kind)
    with _lock:
        if name is None or name in _loaded:
            return
        _preload_pip_cuda()
        try:
            _loaded[name] = _open(name, packed)
        except BundleError as error:
            raise DeviceError(
                f"TVM's {kind} runtime cannot be loaded",
                seen=error.seen,
                do="install the driver and the CUDA runtime (pip install nvidia-cuda-runtime)",
            ) from error


def _open(name: str, packed: Path | None) -> ctypes.CDLL:
    folders = library_folders(packed)
    path = next((folder / name for folder in folders if (folder / name).is_file()), None)
    if path is None:
        raise BundleError(
            f"{name} cannot be found",
            seen=f"looked in {', '.join(map(str, folders)) or 'no folder'}",
            do="install apache-tvm, or set TVM_LIBRARY_PATH to the folder that holds it",
        )
    try:
        return ctypes.CDLL(str(path), ctypes.RTLD_GLOBAL)
    except OSError as error:
        raise BundleError(
            f"{path} cannot be loaded", seen=str(error), do="install apache-tvm again"
        ) from error


def _preload_pip_cuda() -> None:
    """Load a CUDA runtime that pip installed, which the dynamic loader would not find."""
    spec = importlib.util.find_spec("nvidia")
    for root in (spec.submodule_search_locations or ()) if spec else ():
        for path in sorted(Path(root).glob("*/lib/libcudart.so.*")):
            try:
                ctypes.CDLL(str(path), ctypes.RTLD_GLOBAL)
            except OSError:
                continue


@contextmanager
def _without_torch() -> Iterator[None]:
    """Keep torch out of the process: `tvm_ffi` imports it where it is installed, for seconds."""
    if "torch" in sys.modules:
        yield
        return
    sys.modules["torch"] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules["torch"]


def _installed(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _release(version: str) -> str:
    """Major, minor and patch number: post releases of TVM's FFI keep its interface."""
    match = re.match(r"\d+\.\d+\.\d+", version)
    return match[0] if match else version
