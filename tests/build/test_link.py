from __future__ import annotations

import ctypes
import importlib.util
import os
import shutil
import time
from pathlib import Path

import pytest

from tvm_iovt.build import link
from tvm_iovt.build.link import (
    Linker,
    elf_machine,
    find_linker,
    host_arch,
    host_linker,
    linkers,
)
from tvm_iovt.errors import ToolchainError
from tvm_iovt.types import CpuSpec

TRIPLES = {
    "x86_64": "x86_64-linux-gnu",
    "aarch64": "aarch64-linux-gnu",
    "armv7l": "armv7l-linux-gnueabihf",
}
ARCHES = sorted(TRIPLES)


def cpu(arch: str) -> CpuSpec:
    return CpuSpec(
        arch=arch,
        triple=TRIPLES.get(arch, f"{arch}-linux-gnu"),
        mcpu="generic",
        cores=1,
        vector_bits=128,
        vector_registers=16,
        l1d_bytes=32768,
        l2_bytes=262144,
    )


def foreign_arch() -> str:
    return "aarch64" if host_arch() != "aarch64" else "x86_64"


@pytest.fixture
def answer_c(tmp_path: Path) -> Path:
    # C and C++ alike, and it needs libm, which C drivers do not link by themselves.
    source = tmp_path / "answer.c"
    source.write_text(
        '#ifdef __cplusplus\nextern "C" {\n#endif\n'
        "double cos(double);\ndouble answer(double x) { return 42 * cos(x); }\n"
        "#ifdef __cplusplus\n}\n#endif\n"
    )
    return source


@pytest.fixture
def nothing_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        link.importlib.util,
        "find_spec",
        lambda name, *rest: None if name == "ziglang" else find_spec(name, *rest),
    )


@pytest.fixture
def host() -> Linker:
    try:
        return host_linker()
    except ToolchainError:
        pytest.skip("no linker for this machine")


def script(path: Path, body: str) -> Path:
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return path


def fake(tmp_path: Path, body: str, arch: str = "aarch64") -> Linker:
    command = str(script(tmp_path / "fake-ld", body))
    return Linker((command,), arch, TRIPLES[arch], "fake-ld")


def test_host_library_loads_and_runs(host: Linker, answer_c: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.so"
    host.link([answer_c], output)
    assert elf_machine(output) == host_arch()
    function = ctypes.CDLL(str(output)).answer
    function.argtypes, function.restype = [ctypes.c_double], ctypes.c_double
    assert function(0.0) == 42


@pytest.mark.parametrize("arch", ARCHES)
def test_every_linker_writes_the_architecture_it_claims(
    arch: str, answer_c: Path, tmp_path: Path
) -> None:
    found = linkers(cpu(arch))
    if not found:
        pytest.skip(f"no linker for {arch}")
    assert find_linker(cpu(arch)) == found[0]
    for index, linker in enumerate(found):
        output = tmp_path / f"{index}.so"
        # Nothing may be left undefined: C drivers do not add libm by themselves.
        linker.link([answer_c], output, ["-Wl,-z,defs"])
        assert elf_machine(output) == arch, linker.name


def test_objects_and_sources_together(host: Linker, answer_c: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.cc"
    other.write_text('extern "C" int other() { return 7; }\n')
    output = tmp_path / "out.so"
    host.link([answer_c, other], output)
    assert ctypes.CDLL(str(output)).other() == 7


@pytest.mark.usefixtures("nothing_installed")
@pytest.mark.parametrize("arch", ["x86_64", "aarch64", "armv7l"])
def test_nothing_installed_names_both_ways_to_install(arch: str) -> None:
    with pytest.raises(ToolchainError) as caught:
        find_linker(cpu(arch))
    message = str(caught.value)
    assert 'pip install "tvm-iovt[cross]"' in message
    assert "apt-get install g++" in message
    assert "ziglang" in message
    assert linkers(cpu(arch)) == ()


@pytest.mark.usefixtures("nothing_installed")
def test_order_is_cross_gcc_then_zig(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    arch = foreign_arch()
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    gcc = "aarch64-linux-gnu-g++" if arch == "aarch64" else "x86_64-linux-gnu-g++"
    zig = script(folder / "zig", "exit 0")
    assert find_linker(cpu(arch)).command[:3] == (str(zig), "c++", "-target")
    cross = script(folder / gcc, "exit 0")
    # The host's own compiler is of no use for another architecture.
    script(folder / "g++", "exit 0")
    assert find_linker(cpu(arch)).command == (str(cross),)
    assert find_linker(cpu(host_arch())).command == (str(folder / "g++"),)


def test_preferred_command_may_carry_arguments(tmp_path: Path) -> None:
    tool = script(tmp_path / "sdk-g++", "exit 0")
    linker = find_linker(cpu("aarch64"), prefer=f"{tool} --sysroot='/opt/my sdk'")
    assert linker.command == (str(tool), "--sysroot=/opt/my sdk")
    assert linker.triple == "aarch64-linux-gnu"


def test_preferred_zig(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    if not any(linker.name.startswith("zig") for linker in linkers(cpu("armv7l"))):
        pytest.skip("zig is not installed")
    linker = find_linker(cpu("armv7l"), prefer="zig")
    assert linker.command[-2:] == ("-target", "arm-linux-gnueabihf.2.28")


@pytest.mark.parametrize("prefer", ["no-such-g++", "'unbalanced", "  "])
def test_preferred_command_that_cannot_run(prefer: str) -> None:
    with pytest.raises(ToolchainError, match="linker"):
        find_linker(cpu("aarch64"), prefer=prefer)


def test_preferred_file_that_is_not_executable(tmp_path: Path) -> None:
    plain = tmp_path / "g++"
    plain.write_text("")
    with pytest.raises(ToolchainError, match="cannot be run"):
        find_linker(cpu("aarch64"), prefer=str(plain))


def test_failure_shows_command_and_output(host: Linker, tmp_path: Path) -> None:
    broken = tmp_path / "with space.o"
    broken.write_bytes(b"not an object file")
    output = tmp_path / "out.so"
    with pytest.raises(ToolchainError) as caught:
        host.link([broken], output)
    message = str(caught.value)
    assert "command: " in message
    assert f"'{broken}'" in message
    assert "exit status 1" in message
    assert "with space.o" in message.split("command: ")[0]
    assert not output.exists()


def test_output_for_another_architecture_is_refused_and_removed(
    host: Linker, answer_c: Path, tmp_path: Path
) -> None:
    arch = foreign_arch()
    output = tmp_path / "out.so"
    wrong = Linker(host.command, arch, TRIPLES[arch], host.name)
    with pytest.raises(ToolchainError, match=f"{host_arch()} instead of {arch}"):
        wrong.link([answer_c], output)
    assert not output.exists()


def test_success_without_output_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ToolchainError, match="Cannot read"):
        fake(tmp_path, "exit 0").link([], tmp_path / "out.so")


def test_full_disk_is_told_apart(tmp_path: Path) -> None:
    linker = fake(tmp_path, "echo 'ld: final link failed: No space left on device' >&2; exit 1")
    with pytest.raises(ToolchainError, match="disk is full"):
        linker.link([], tmp_path / "out.so")


def test_timeout_ends_the_children_too(tmp_path: Path) -> None:
    linker = fake(tmp_path, f"sleep 60 & echo $! > {tmp_path}/pid; wait")
    began = time.monotonic()
    with pytest.raises(ToolchainError, match=r"more than 0\.5 s"):
        linker.link([], tmp_path / "out.so", timeout_s=0.5)
    assert time.monotonic() - began < 20
    child = int((tmp_path / "pid").read_text())
    for _ in range(50):
        state = Path(f"/proc/{child}/stat")
        if not state.exists() or state.read_text().rsplit(")", 1)[1].split()[0] == "Z":
            return
        time.sleep(0.1)
    pytest.fail("the linker's child survived")


def test_fcompile_options_do_not_accumulate(host: Linker, answer_c: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    tool = script(tmp_path / "wrapped", f'echo "$@" >> {log}; exec {host.command[0]} "$@"')
    wrapped = Linker((str(tool), *host.command[1:]), host.arch, host.triple, "wrapped")
    fcompile = wrapped.fcompile()
    output = str(tmp_path / "out.so")
    fcompile(output, [str(answer_c)], options=["-DFIRST"])
    fcompile(output, str(answer_c), options="-DSECOND")
    fcompile(output, [str(answer_c)])
    first, second, third = log.read_text().splitlines()
    assert "-DFIRST" in first
    assert "-DSECOND" in second and "-DFIRST" not in second
    assert "-D" not in third
    assert fcompile.output_format == "so"  # type: ignore[attr-defined]
    assert fcompile.get_target_triple() == host.triple  # type: ignore[attr-defined]


def test_zig_gets_a_cache_only_where_home_cannot_be_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("ZIG_GLOBAL_CACHE_DIR", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert "ZIG_GLOBAL_CACHE_DIR" not in link._environment()
    monkeypatch.setenv("HOME", str(tmp_path / "missing"))
    assert os.access(link._environment()["ZIG_GLOBAL_CACHE_DIR"], os.W_OK)
    monkeypatch.setenv("ZIG_GLOBAL_CACHE_DIR", "/chosen")
    assert link._environment()["ZIG_GLOBAL_CACHE_DIR"] == "/chosen"


@pytest.mark.parametrize("content", [b"", b"\x7fELF", b"#!/bin/sh\nexit 0\n and more text"])
def test_elf_machine_refuses_other_files(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(ToolchainError, match="not an ELF file"):
        elf_machine(path)


@pytest.mark.parametrize(
    ("header", "machine"),
    [
        (b"\x7fELF\x02\x01" + bytes(12) + b"\x3e\x00", "x86_64"),
        (b"\x7fELF\x01\x01" + bytes(12) + b"\x28\x00", "armv7l"),
        (b"\x7fELF\x02\x01" + bytes(12) + b"\xb7\x00", "aarch64"),
        # x32 and ARM's ILP32 share the number with the 64-bit ABIs, big-endian ARM too.
        (b"\x7fELF\x01\x01" + bytes(12) + b"\x3e\x00", "machine 62, 32-bit"),
        (b"\x7fELF\x02\x02" + bytes(12) + b"\x00\xb7", "machine 183, 64-bit, big-endian"),
        (b"\x7fELF\x02\x01" + bytes(12) + b"\xf3\x00", "machine 243, 64-bit"),
    ],
)
def test_elf_machine_looks_at_class_and_byte_order(
    header: bytes, machine: str, tmp_path: Path
) -> None:
    path = tmp_path / "file"
    path.write_bytes(header + bytes(64 - len(header)))
    assert elf_machine(path) == machine


@pytest.mark.parametrize(
    ("arch", "target"),
    [
        ("aarch64", {"kind": "llvm", "mtriple": "aarch64-linux-gnu", "mcpu": "cortex-a72"}),
        (
            "armv7l",
            {
                "kind": "llvm",
                "mtriple": "armv7l-linux-gnueabihf",
                "mcpu": "cortex-a53",
                "mattr": ["+neon"],
                "mfloat-abi": "hard",
            },
        ),
        # Exported as C source instead of an object, with include folders as options.
        (host_arch(), {"kind": "c"}),
    ],
    ids=["aarch64", "armv7l", "c"],
)
def test_tvm_exports_through_fcompile(arch: str, target: dict[str, str], tmp_path: Path) -> None:
    tvm = pytest.importorskip("tvm")
    from tvm import te

    found = linkers(cpu(arch))
    if not found:
        pytest.skip(f"no linker for {arch}")
    x = te.placeholder((16,), name="x")
    y = te.compute((16,), lambda i: te.exp(x[i]), name="y")
    module = tvm.IRModule({"main": te.create_prim_func([x, y])})
    built = tvm.tirx.build(module, target=tvm.target.Target(target))
    for index, linker in enumerate(found):
        output = tmp_path / f"{index}.so"
        built.export_library(str(output), fcompile=linker.fcompile())
        assert elf_machine(output) == arch, linker.name


def test_host_arch_is_one_of_uname(host: Linker) -> None:
    assert shutil.which(host.command[0])
    assert host.arch == host_arch()
