"""Making TVM's CUDA code generator work on machines without an NVIDIA driver.

TVM compiles CUDA kernels to machine code only when its CUDA runtime library is loaded, and that
library wants the driver's `libcuda.so.1`. Without it, TVM embeds CUDA *source* in the result and
says nothing. Code generation calls none of the driver's functions, so a stand-in whose functions
all answer "no device" is enough.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import importlib.util
import os
import re
import tempfile
from collections.abc import Iterable
from pathlib import Path

from tvm_iovt import resources
from tvm_iovt.build.elf import ImportedSymbol, imported_symbols
from tvm_iovt.build.link import host_linker
from tvm_iovt.errors import ToolchainError

DRIVER = "libcuda.so.1"

# The same number in the driver's and the runtime's error enumerations.
_NO_DEVICE = 100

# Whoever else loads the driver in this process (libcudart, torch) asks for these first.
_ALWAYS = ("cuInit", "cuDriverGetVersion", "cuGetProcAddress", "cuGetProcAddress_v2")

_RETURNS_TEXT = ("cudaGetErrorString", "cudaGetErrorName")
_STORES_TEXT = ("cuGetErrorString", "cuGetErrorName")


@functools.cache
def enable_codegen() -> str:
    """Make TVM's CUDA code generator available in this process; calling it again does nothing.

    Loads the real driver and CUDA runtime when the machine has them. Stand-ins, built once with
    the host's linker and kept in the user's cache, are used only for those that cannot be loaded;
    with stand-ins this process sees no CUDA device.

    Returns:
        `driver` if the real driver is in use, `stub` if not.

    Raises:
        ToolchainError: TVM has no CUDA support, or a stand-in cannot be built or loaded.
    """
    library = _runtime_library()
    symbols = [s for s in imported_symbols(library) if re.match(r"cu(da)?[A-Z]", s.name)]
    driver_symbols = [s for s in symbols if not s.library]
    runtimes = sorted({s.library for s in symbols if s.library})

    driver = "driver" if _loadable(DRIVER) else "stub"
    if driver == "stub":
        _load(build_stub(DRIVER, driver_symbols))
    for runtime in runtimes:
        if not (_loadable(runtime) or _load_from_pip(runtime)):
            _load(build_stub(runtime, [s for s in symbols if s.library == runtime]))

    # An import that happens only now finds the libraries above by their SONAME, by itself.
    import tvm
    import tvm_ffi

    if tvm_ffi.get_global_func("device_api.cuda", allow_missing=True) is None:
        # TVM keeps the handle of its own attempt in the same place.
        tvm.base._LOADED_LIBS["tvm_runtime_cuda"] = _load(library)
    if tvm_ffi.get_global_func("device_api.cuda", allow_missing=True) is None:
        raise ToolchainError(
            "TVM's CUDA code generator is not available",
            seen=f"{library} was loaded but registered no CUDA device API",
            do="install apache-tvm again; its version must be the one that tvm-iovt asks for",
        )
    return driver


def build_stub(soname: str, symbols: Iterable[ImportedSymbol]) -> Path:
    """A shared library of that name in the user's cache, all of whose functions say "no device".

    Args:
        soname: The library to stand in for.
        symbols: The functions to define, with the versions they are wanted in.

    Raises:
        ToolchainError: There is no host linker, or the cache cannot be written.
    """
    source, versions = _stub_source(soname, symbols)
    linker = host_linker()
    key = "\0".join((source, versions, *linker.command))
    digest = hashlib.sha256(key.encode()).hexdigest()[:16]
    try:
        folder = resources.cache("cuda-stub") / digest
        stub = folder / soname
        if stub.is_file():
            return stub
        folder.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            written = Path(scratch) / "stub.c"
            written.write_text(source)
            script = Path(scratch) / "versions.map"
            script.write_text(versions)
            built = Path(scratch) / soname
            options = [f"-Wl,-soname,{soname}"]
            if versions:
                options.append(f"-Wl,--version-script={script}")
            linker.link([written], built, options)
            # Another process may be doing the same: the last one wins, with equal contents.
            built.replace(stub)
    except OSError as error:
        raise ToolchainError(
            f"Cannot write a stand-in for {soname}",
            seen=str(error),
            do="point XDG_CACHE_HOME at a folder that can be written",
        ) from error
    return stub


def _stub_source(soname: str, symbols: Iterable[ImportedSymbol]) -> tuple[str, str]:
    wanted = {symbol.name: symbol.version for symbol in symbols}
    if soname == DRIVER:
        wanted = dict.fromkeys(_ALWAYS, "") | wanted
    text = '"no CUDA device (tvm-iovt stand-in)"'
    lines = ["#ifdef __cplusplus", 'extern "C" {', "#endif"]
    for name in sorted(wanted):
        if name in _RETURNS_TEXT:
            lines.append(f"const char* {name}(int code) {{ (void)code; return {text}; }}")
        elif name in _STORES_TEXT:
            lines.append(
                f"int {name}(int code, const char** to) {{ (void)code; *to = {text}; return 0; }}"
            )
        else:
            lines.append(f"int {name}(void) {{ return {_NO_DEVICE}; }}")
    lines += ["#ifdef __cplusplus", "}", "#endif", ""]
    by_version: dict[str, list[str]] = {}
    for name, version in sorted(wanted.items()):
        by_version.setdefault(version, []).append(name)
    script = "".join(
        f"{version} {{ global: {' '.join(f'{name};' for name in names)} }};\n"
        for version, names in by_version.items()
        if version
    )
    return "\n".join(lines), script


def _runtime_library() -> Path:
    # `find_spec` does not run the package, so TVM need not be imported yet.
    spec = importlib.util.find_spec("tvm")
    folders = [Path(spec.origin).parent / "lib"] if spec and spec.origin else []
    if override := os.environ.get("TVM_LIBRARY_PATH"):
        folders.insert(0, Path(override))
    for folder in folders:
        if (library := folder / "libtvm_runtime_cuda.so").is_file():
            return library
    raise ToolchainError(
        "This TVM has no CUDA support",
        seen=f"no libtvm_runtime_cuda.so in {', '.join(map(str, folders)) or 'any tvm package'}",
        do="pip install apache-tvm (its Linux wheels have it)",
    )


def _loadable(soname: str) -> bool:
    try:
        ctypes.CDLL(soname)
    except OSError:
        return False
    return True


def _load_from_pip(soname: str) -> bool:
    """Whether NVIDIA's package of the CUDA runtime is installed and could be loaded."""
    spec = importlib.util.find_spec("nvidia")
    roots = spec.submodule_search_locations if spec else None
    for root in roots or ():
        for path in sorted(Path(root).glob(f"*/lib/{soname}")):
            if _loadable(str(path)):
                return True
    return False


def _load(path: Path) -> ctypes.CDLL:
    try:
        return ctypes.CDLL(str(path))
    except OSError as error:
        raise ToolchainError(f"Cannot load {path}", seen=str(error)) from error
