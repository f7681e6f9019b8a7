from __future__ import annotations

import dataclasses
import errno
import json
import os
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tvm_iovt import bundle
from tvm_iovt.errors import BundleError
from tvm_iovt.types import (
    CpuSpec,
    Deployment,
    FileRecord,
    Library,
    Manifest,
    PartitionPlan,
    Stage,
    TargetSpec,
    TensorSpec,
    Tolerance,
)

ROOT = Path(__file__).resolve().parents[1]
INPUT = TensorSpec(name="x", shape=(2, 3), dtype="float32")
OUTPUT = TensorSpec(name="y", shape=(2,), dtype="int64")
LIBRARY = "stage0.board.so"


def fill(folder: Path, contents: bytes = b"not really a library") -> Manifest:
    """Write the files of a bundle whose library cannot be loaded, which nothing here does."""
    (folder / LIBRARY).write_bytes(contents)
    (folder / "report.html").write_text("report")
    sample = bundle.save_sample(
        folder,
        {"x": np.arange(6, dtype=np.float32).reshape(2, 3)},
        {"y": np.array([2, 2], np.int64)},
    )
    cpu = CpuSpec(
        arch="aarch64",
        triple="aarch64-linux-gnu",
        mcpu="cortex-a72",
        cores=4,
        vector_bits=128,
        vector_registers=32,
        l1d_bytes=32768,
        l2_bytes=1048576,
    )
    stage = Stage(index=0, target="board", inputs=(INPUT,), outputs=(OUTPUT,))
    deployment = Deployment(
        name="board",
        targets=(TargetSpec(name="board", description="a board", cpu=cpu),),
        plan=PartitionPlan(stages=(stage,), objective="latency", reason="one target"),
        libraries=(
            Library(stage=0, file=bundle.record(folder, LIBRARY), device="cpu", parameters_bytes=0),
        ),
        verified="not run",
    )
    manifest = Manifest(
        tool_version="1",
        tvm_version="0.27.0",
        tvm_ffi_version="0.1.14",
        created="2026-01-01T00:00:00Z",
        model_name="größe",
        model_sha256="0" * 64,
        inputs=(INPUT,),
        outputs=(OUTPUT,),
        deployments=(deployment,),
        sample=sample,
        reference="onnxruntime 1.31.1",
        tolerance=Tolerance(rtol=1e-3, atol=1e-4),
        report=bundle.record(folder, "report.html"),
        operators=(),
        decisions=(),
    )
    bundle.save_manifest(folder, manifest)
    return manifest


@pytest.fixture
def path(tmp_path: Path) -> Path:
    destination = tmp_path / "model.iovt"
    with bundle.staging(destination, overwrite=False) as folder:
        fill(folder)
    return destination


def names(folder: Path) -> set[str]:
    return {entry.name for entry in folder.iterdir()}


def edit_manifest(path: Path, **fields: object) -> None:
    file = path / bundle.MANIFEST
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


# --- Writing -----------------------------------------------------------------------------------


def test_what_is_written_is_read(tmp_path: Path) -> None:
    destination = tmp_path / "deep" / "er" / "model.iovt"
    with bundle.staging(destination, overwrite=False) as folder:
        written = fill(folder)
        assert folder.parent == destination.parent
        assert not destination.exists()
    assert bundle.check(destination) == written
    assert names(destination.parent) == {"model.iovt"}


def test_an_existing_bundle_needs_overwrite(path: Path) -> None:
    with pytest.raises(BundleError, match="--overwrite"), bundle.staging(path, overwrite=False):
        pytest.fail("must refuse before the work begins")
    with bundle.staging(path, overwrite=True) as folder:
        fill(folder, b"newer")
    assert (path / LIBRARY).read_bytes() == b"newer"
    assert names(path.parent) == {"model.iovt"}


def test_replacing_works_where_folders_cannot_be_exchanged(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bundle, "_exchange", lambda *_: False)
    with bundle.staging(path, overwrite=True) as folder:
        fill(folder, b"newer")
    assert (path / LIBRARY).read_bytes() == b"newer"
    assert names(path.parent) == {"model.iovt"}


def test_a_failed_rename_puts_the_old_bundle_back(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bundle, "_exchange", lambda *_: False)
    rename = Path.rename

    def failing(self: Path, target: Path) -> Path:
        if ".partial-" in self.name:
            raise OSError(errno.EIO, "Input/output error", str(self))
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", failing)
    with (
        pytest.raises(BundleError, match="Input/output"),
        bundle.staging(path, overwrite=True) as f,
    ):
        fill(f, b"newer")
    bundle.check(path)
    assert (path / LIBRARY).read_bytes() == b"not really a library"
    assert names(path.parent) == {"model.iovt"}


@pytest.mark.parametrize("kind", ["file", "empty folder", "folder"])
def test_what_is_not_a_bundle_is_never_deleted(tmp_path: Path, kind: str) -> None:
    destination = tmp_path / "precious"
    if kind == "file":
        destination.write_text("data")
    else:
        destination.mkdir()
        if kind == "folder":
            (destination / "thesis.tex").write_text("data")
    before = sorted(map(str, tmp_path.rglob("*")))
    with (
        pytest.raises(BundleError, match="is not a bundle"),
        bundle.staging(destination, overwrite=True),
    ):
        pytest.fail("must refuse before the work begins")
    assert sorted(map(str, tmp_path.rglob("*"))) == before


@pytest.mark.parametrize("error", [ValueError("bug"), KeyboardInterrupt(), SystemExit(1)])
def test_interrupted_writing_leaves_nothing(path: Path, error: BaseException) -> None:
    with pytest.raises(type(error)), bundle.staging(path, overwrite=True) as folder:
        fill(folder, b"newer")
        raise error
    bundle.check(path)
    assert (path / LIBRARY).read_bytes() == b"not really a library"
    assert names(path.parent) == {"model.iovt"}


def test_errors_of_others_are_not_ours(tmp_path: Path) -> None:
    with (
        pytest.raises(FileNotFoundError),
        bundle.staging(tmp_path / "model.iovt", overwrite=False),
    ):
        (tmp_path / "model.onnx").read_bytes()


def test_a_symbolic_link_is_kept(path: Path, tmp_path: Path) -> None:
    link = tmp_path / "latest.iovt"
    link.symlink_to(path)
    with bundle.staging(link, overwrite=True) as folder:
        fill(folder, b"newer")
    assert link.is_symlink()
    assert (path / LIBRARY).read_bytes() == b"newer"


def test_left_overs_of_dead_processes_are_removed(path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    parent = path.parent
    abandoned = (f".model.iovt.partial-{dead.pid}", f".model.iovt.partial-{os.getpid()}")
    kept = (f".model.iovt.partial-{os.getppid()}", f".other.iovt.partial-{dead.pid}")
    for name in (*abandoned, *kept):
        (parent / name).mkdir()
    with bundle.staging(path, overwrite=True) as folder:
        fill(folder)
    assert names(parent) == {"model.iovt", *kept}


def test_a_bundle_set_aside_by_a_killed_process_comes_back(path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    path.rename(path.with_name(f".model.iovt.replaced-{dead.pid}"))
    with pytest.raises(RuntimeError), bundle.staging(path, overwrite=True):
        raise RuntimeError
    bundle.check(path)


def test_a_killed_writer_leaves_the_old_bundle(path: Path) -> None:
    script = f"""
        import os, signal, sys
        from pathlib import Path
        sys.path[:0] = [{str(ROOT)!r}]
        from tvm_iovt import bundle
        with bundle.staging(Path({str(path)!r}), overwrite=True) as folder:
            (folder / "manifest.json").write_text("half")
            os.kill(os.getpid(), signal.SIGKILL)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)])
    assert done.returncode == -9
    bundle.check(path)
    with bundle.staging(path, overwrite=True) as folder:
        fill(folder)
    assert names(path.parent) == {"model.iovt"}


def test_an_unwritable_parent_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(BundleError, match="Cannot write"),
        bundle.staging(tmp_path / "file" / "model.iovt", overwrite=False),
    ):
        pytest.fail("must refuse before the work begins")


# --- Full disk ---------------------------------------------------------------------------------


def test_a_full_disk_is_reported_with_sizes(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(BundleError) as caught, bundle.staging(path, overwrite=True) as folder:
        fill(folder)
    assert caught.value.exit_code == 8
    assert "40 bytes needed" in caught.value.seen
    assert "bytes free" in caught.value.seen
    bundle.check(path)
    assert names(path.parent) == {"model.iovt"}


def test_a_full_disk_while_syncing_is_reported(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with (
        pytest.raises(BundleError, match="No space left") as caught,
        bundle.staging(path, overwrite=True) as folder,
    ):
        fill(folder)
    assert "bytes written so far" in caught.value.seen
    bundle.check(path)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    if os.geteuid() != 0 or not shutil.which("mount"):
        pytest.skip("mounting a small tmpfs needs root and mount(8)")
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)], capture_output=True
    )
    if mounted.returncode != 0:
        pytest.skip(f"cannot mount a tmpfs: {mounted.stderr.decode().strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_really_full_disk(small_disk: Path) -> None:
    destination = small_disk / "model.iovt"
    with bundle.staging(destination, overwrite=False) as folder:
        fill(folder)
    with (
        pytest.raises(BundleError, match="No space left"),
        bundle.staging(destination, overwrite=True) as folder,
    ):
        fill(folder, b"x" * 200_000)
    bundle.check(destination)
    assert names(small_disk) == {"model.iovt"}


# --- Reading -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["nothing", "file", "empty folder"])
def test_what_is_not_a_bundle_is_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "x"
    if kind == "file":
        path.write_bytes(b"ONNX")
    elif kind == "empty folder":
        path.mkdir()
    with pytest.raises(BundleError, match="is not a bundle"):
        bundle.read_manifest(path)


@pytest.mark.parametrize(
    "text",
    [b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 100_000, b'{"schema": 1}', b"{}"],
    ids=["empty", "cut", "list", "null", "utf-16", "deep", "schema number", "no schema"],
)
def test_malformed_manifests_are_refused(path: Path, text: bytes) -> None:
    (path / bundle.MANIFEST).write_bytes(text)
    with pytest.raises(BundleError) as caught:
        bundle.read_manifest(path)
    assert caught.value.exit_code == 8


def test_another_schema_names_both(path: Path) -> None:
    edit_manifest(path, schema="tvm-iovt/manifest/2")
    with pytest.raises(BundleError, match=r"manifest/2.*manifest/1"):
        bundle.read_manifest(path)


def test_a_stage_on_a_target_that_is_not_described_is_refused(path: Path) -> None:
    data = json.loads((path / bundle.MANIFEST).read_text())
    data["deployments"][0]["plan"]["stages"][0]["target"] = "elsewhere"
    edit_manifest(path, **data)
    with pytest.raises(BundleError, match="a stage on elsewhere"):
        bundle.read_manifest(path)


def test_a_missing_field_is_named(path: Path) -> None:
    file = path / bundle.MANIFEST
    data = json.loads(file.read_text())
    del data["deployments"][0]["plan"]
    file.write_text(json.dumps(data))
    with pytest.raises(BundleError, match=r"deployments\[0\].*\n.*missing plan"):
        bundle.read_manifest(path)


def test_a_stage_without_library_is_refused(path: Path) -> None:
    data = json.loads((path / bundle.MANIFEST).read_text())
    data["deployments"][0]["libraries"] = []
    edit_manifest(path, **data)
    with pytest.raises(BundleError, match="libraries"):
        bundle.read_manifest(path)


@pytest.mark.parametrize("file", [LIBRARY, bundle.SAMPLE, "report.html"])
def test_tampering_is_found(path: Path, file: str) -> None:
    data = bytearray((path / file).read_bytes())
    data[0] ^= 1
    (path / file).write_bytes(data)
    recorded = next(r for r in bundle.files(bundle.read_manifest(path)) if r.file == file)
    with pytest.raises(BundleError) as caught:
        bundle.check(path)
    assert file in caught.value.what
    assert recorded.sha256 in caught.value.seen
    assert bundle.record(path, file).sha256 in caught.value.seen


def test_a_missing_file_is_named(path: Path) -> None:
    (path / LIBRARY).unlink()
    with pytest.raises(BundleError, match=LIBRARY):
        bundle.check(path)


@pytest.mark.parametrize("file", ["../secret", "/etc/passwd", "", "a/../../secret", "x\0y"])
def test_files_outside_of_the_bundle_are_refused(path: Path, file: str) -> None:
    (path.parent / "secret").write_text("secret")
    edit_manifest(path, report={"file": file, "sha256": "0" * 64, "size_bytes": 6})
    with pytest.raises(BundleError, match="outside"):
        bundle.check(path)


def test_a_link_out_of_the_bundle_is_refused(path: Path) -> None:
    secret = path.parent / "secret"
    secret.write_text("secret")
    (path / "report.html").unlink()
    (path / "report.html").symlink_to(secret)
    with pytest.raises(BundleError, match="outside"):
        bundle.check(path)


def test_saving_refuses_two_deployments_of_one_name(tmp_path: Path) -> None:
    manifest = fill(tmp_path)
    twice = dataclasses.replace(manifest, deployments=manifest.deployments * 2)
    with pytest.raises(BundleError, match="two deployments"):
        bundle.save_manifest(tmp_path, twice)


def test_record_is_sha256(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"abc")
    assert bundle.record(tmp_path, "f") == FileRecord(
        file="f",
        sha256="ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
        size_bytes=3,
    )


# --- The sample --------------------------------------------------------------------------------


def test_samples_keep_names_shapes_and_dtypes(tmp_path: Path) -> None:
    inputs = {
        "images/0": np.ones((1, 3, 2, 2), np.float16),
        "scalar": np.array(3, np.int64),
        "größe": np.array([True, False]),
    }
    outputs = {"images/0": np.zeros((0, 4), np.float64)}
    bundle.save_sample(tmp_path, inputs, outputs)
    read_inputs, read_outputs = bundle.load_sample(tmp_path)
    for written, read in ((inputs, read_inputs), (outputs, read_outputs)):
        assert written.keys() == read.keys()
        for name, array in written.items():
            np.testing.assert_array_equal(read[name], array, strict=True)


def test_samples_are_in_c_order(tmp_path: Path) -> None:
    array = np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3))
    bundle.save_sample(tmp_path, {"x": array}, {"y": array[:, ::-1]})
    inputs, outputs = bundle.load_sample(tmp_path)
    assert inputs["x"].flags.c_contiguous
    np.testing.assert_array_equal(outputs["y"], array[:, ::-1])


def test_objects_are_refused_both_ways(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="object"):
        bundle.save_sample(tmp_path, {"x": np.array([{}], object)}, {})
    with (tmp_path / bundle.SAMPLE).open("wb") as stream:
        np.savez(stream, **{"input/x": np.array([{}], object)})
    with pytest.raises(BundleError, match="damaged"):
        bundle.load_sample(tmp_path)


@pytest.mark.parametrize("contents", [b"", b"PK\3\4junk", b"junk"])
def test_damaged_samples_are_refused(tmp_path: Path, contents: bytes) -> None:
    (tmp_path / bundle.SAMPLE).write_bytes(contents)
    with pytest.raises(BundleError, match="damaged"):
        bundle.load_sample(tmp_path)


def test_a_bare_array_is_no_sample(tmp_path: Path) -> None:
    with (tmp_path / bundle.SAMPLE).open("wb") as stream:
        np.save(stream, np.zeros(3))
    with pytest.raises(BundleError, match="damaged"):
        bundle.load_sample(tmp_path)
