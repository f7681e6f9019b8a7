"""The bundle folder: written atomically, every file recorded with its size and SHA-256.

A bundle holds `manifest.json` (a `types.Manifest`), a shared library for each stage of each
deployment with its parameters inside, `sample.npz` (inputs and expected outputs, so that a
device can check itself) and `report.html`.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import json
import os
import re
import shutil
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

import numpy as np

from tvm_iovt.errors import BundleError, IovtError
from tvm_iovt.json_codec import from_json, to_json
from tvm_iovt.types import FileRecord, Manifest

MANIFEST = "manifest.json"
SAMPLE = "sample.npz"

_CHUNK_BYTES = 1 << 20
_INPUT, _OUTPUT = "input/", "output/"
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
_RENAME_EXCHANGE, _AT_FDCWD = 2, -100  # linux/fs.h, fcntl.h

# What np.load raises for files that are no archives of arrays; the last two for a bare array,
# which is no context manager.
_UNREADABLE = (
    *(OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError),
    *(AttributeError, TypeError),
)

# Staging folders of this process: a left-over one can carry our own process id, because
# containers number their processes from 1 again.
_in_progress: set[Path] = set()


@contextmanager
def staging(destination: Path, *, overwrite: bool) -> Iterator[Path]:
    """A temporary folder that becomes `destination` when the block ends without an exception.

    The folder lies beside the destination, on the same file system. Its files are synced to the
    disk before it is renamed; a bundle that it replaces is deleted after that and stays intact
    when anything fails, interruption included.

    Args:
        destination: Path of the bundle to write. Its parents are created.
        overwrite: Whether an existing bundle may be replaced. A file, or a folder without a
            manifest, never is.

    Yields:
        The temporary folder, empty.

    Raises:
        BundleError: The destination is taken, or the file system refuses to be written.
    """
    destination = Path(os.path.realpath(destination))
    _check_replaceable(destination, overwrite=overwrite)
    folder = destination.with_name(f".{destination.name}.partial-{os.getpid()}")
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        _clean_left_over(destination)
    except OSError as error:
        raise _unwritable(destination, error) from error
    _in_progress.add(folder)
    try:
        # Inside of the block that removes it: an interrupt can come right after it is made.
        try:
            folder.mkdir()
        except OSError as error:
            raise _unwritable(destination, error) from error
        try:
            yield folder
            _sync(folder)
            _check_replaceable(destination, overwrite=overwrite)
            _move_into_place(folder, destination)
        except OSError as error:
            if error.errno in _DISK_FULL:
                raise _disk_full(destination, folder, error) from error
            if error.filename is None or not Path(str(error.filename)).is_relative_to(folder):
                raise
            raise _unwritable(destination, error) from error
    finally:
        _in_progress.discard(folder)
        shutil.rmtree(folder, ignore_errors=True)


def record(folder: Path, file: str | Path) -> FileRecord:
    """Size and SHA-256 of a file of the bundle.

    Args:
        folder: The bundle.
        file: Path of the file, relative to `folder`.

    Raises:
        BundleError: The file is missing or unreadable, or lies outside of the bundle.
    """
    name = Path(file).as_posix()
    path = _inside(folder, name)
    digest = hashlib.sha256()
    size_bytes = 0
    try:
        with path.open("rb") as stream:
            while chunk := stream.read(_CHUNK_BYTES):
                digest.update(chunk)
                size_bytes += len(chunk)
    except OSError as error:
        raise BundleError(
            f"The bundle {folder} has no readable file {name}",
            seen=error.strerror or str(error),
            do="copy the bundle again, or compile it again",
        ) from error
    return FileRecord(file=name, sha256=digest.hexdigest(), size_bytes=size_bytes)


def files(manifest: Manifest) -> tuple[FileRecord, ...]:
    """All files that a manifest records, each once."""
    records = [library.file for d in manifest.deployments for library in d.libraries]
    records += [d.plan_file for d in manifest.deployments if d.plan_file is not None]
    return tuple({r.file: r for r in (*records, manifest.sample, manifest.report)}.values())


def save_manifest(folder: Path, manifest: Manifest) -> None:
    """Write `manifest.json`.

    Raises:
        BundleError: The manifest contradicts itself, or cannot be written.
    """
    _validate(folder, manifest)
    text = json.dumps(to_json(manifest), indent=1, ensure_ascii=False) + "\n"
    with _writing(folder / MANIFEST, len(text.encode())):
        (folder / MANIFEST).write_text(text, encoding="utf-8")


def read_manifest(path: Path) -> Manifest:
    """The manifest of a bundle. Reads no other file; see `check`.

    Raises:
        BundleError: `path` is not a bundle, or its manifest is not one that this version reads.
    """
    if not path.is_dir():
        seen = "a file" if path.exists() else "nothing there"
        raise BundleError(
            f"{path} is not a bundle", seen=seen, do="give the folder that `compile` wrote"
        )
    file = path / MANIFEST
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise BundleError(
            f"{path} is not a bundle",
            seen=f"a folder without {MANIFEST}",
            do="give the folder that `compile` wrote",
        ) from error
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise _damaged(file, f"{type(error).__name__}: {error}") from error
    try:
        manifest = from_json(Manifest, data)
    except BundleError:
        raise
    except IovtError as error:
        raise BundleError(
            f"{file}: {error.what}", seen=error.seen, do=error.do or "compile the model again"
        ) from error
    _validate(path, manifest)
    return manifest


def verify(path: Path, records: Iterable[FileRecord]) -> None:
    """Compare files of a bundle with their records.

    Raises:
        BundleError: A file is missing, lies outside of the bundle, or has other contents than
            recorded; names the file and both digests.
    """
    for expected in records:
        found = record(path, expected.file)
        if found != expected:
            raise BundleError(
                f"{path / expected.file} is not the file that was compiled",
                seen=f"sha256 {found.sha256} ({found.size_bytes} bytes); "
                f"recorded {expected.sha256} ({expected.size_bytes} bytes)",
                do="copy the bundle again, or compile it again; do not run this file",
            )


def check(path: Path) -> Manifest:
    """Read a bundle's manifest and verify every file that it records.

    Raises:
        BundleError: See `read_manifest` and `verify`.
    """
    manifest = read_manifest(path)
    verify(path, files(manifest))
    return manifest


def save_sample(
    folder: Path, inputs: Mapping[str, np.ndarray], outputs: Mapping[str, np.ndarray]
) -> FileRecord:
    """Write `sample.npz`: inputs and expected outputs, under `input/<name>` and `output/<name>`.

    The entries are stored uncompressed and in C order, which the C++ runner relies on.

    Raises:
        BundleError: An array is neither boolean nor numeric, or the file cannot be written.
    """
    arrays = {_INPUT + name: np.asarray(value, order="C") for name, value in inputs.items()}
    arrays |= {_OUTPUT + name: np.asarray(value, order="C") for name, value in outputs.items()}
    for name, value in arrays.items():
        if value.dtype.kind not in "biuf":
            raise BundleError(
                f"The sample cannot hold {name}", seen=f"dtype {value.dtype}", do="cast it first"
            )
    path = folder / SAMPLE
    with _writing(path, sum(value.nbytes for value in arrays.values())), path.open("wb") as stream:
        np.savez(stream, allow_pickle=False, **arrays)
    return record(folder, SAMPLE)


def load_sample(
    folder: Path, file: str = SAMPLE
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The inputs and the expected outputs that `save_sample` wrote, by tensor name.

    Raises:
        BundleError: The file is missing or not a sample.
    """
    path = _inside(folder, file)
    inputs: dict[str, np.ndarray] = {}
    outputs: dict[str, np.ndarray] = {}
    try:
        with np.load(path, allow_pickle=False) as archive:
            for key in archive.files:
                if key.startswith(_INPUT):
                    inputs[key.removeprefix(_INPUT)] = archive[key]
                elif key.startswith(_OUTPUT):
                    outputs[key.removeprefix(_OUTPUT)] = archive[key]
    except _UNREADABLE as error:
        raise _damaged(path, f"{type(error).__name__}: {error}") from error
    return inputs, outputs


def _validate(path: Path, manifest: Manifest) -> None:
    names = [deployment.name for deployment in manifest.deployments]
    if not names:
        raise _damaged(path / MANIFEST, "it has no deployment")
    if len(set(names)) != len(names):
        raise _damaged(path / MANIFEST, f"two deployments of one name among {', '.join(names)}")
    for deployment in manifest.deployments:
        if not deployment.targets:
            raise _damaged(path / MANIFEST, f"deployment {deployment.name} has no target")
        stages = [stage.index for stage in deployment.plan.stages]
        libraries = sorted(library.stage for library in deployment.libraries)
        if not stages == libraries == list(range(len(stages))):
            raise _damaged(
                path / MANIFEST,
                f"deployment {deployment.name} plans stages {stages} and has libraries for "
                f"{[library.stage for library in deployment.libraries]}",
            )
        described = {target.name for target in deployment.targets}
        strangers = sorted({stage.target for stage in deployment.plan.stages} - described)
        if strangers:
            raise _damaged(
                path / MANIFEST,
                f"deployment {deployment.name} has a stage on {', '.join(strangers)}, which it "
                "does not describe",
            )
        known = {spec.name for spec in manifest.inputs}
        for stage in deployment.plan.stages:
            unmade = {spec.name for spec in stage.inputs} - known
            if unmade:
                raise _damaged(
                    path / MANIFEST,
                    f"no stage before stage {stage.index} of {deployment.name} makes its input "
                    f"{', '.join(sorted(unmade))}",
                )
            known |= {spec.name for spec in stage.outputs}
        unmade = {spec.name for spec in manifest.outputs} - known
        if unmade:
            raise _damaged(
                path / MANIFEST,
                f"no stage of {deployment.name} makes the output {', '.join(sorted(unmade))}",
            )
    for expected in files(manifest):
        _inside(path, expected.file)


def _inside(folder: Path, file: str) -> Path:
    """The path of a bundle's file; a manifest must not make us read other files."""
    pure = PurePosixPath(file)
    path = folder / pure
    if (
        not pure.parts
        or pure.is_absolute()
        or ".." in pure.parts
        or "\0" in file
        or not path.resolve().is_relative_to(folder.resolve())
    ):
        raise BundleError(
            f"The bundle {folder} names a file outside of itself",
            seen=repr(file),
            do="do not use this bundle; compile the model again",
        )
    return path


def _damaged(file: Path, seen: str) -> BundleError:
    return BundleError(
        f"{file} is damaged", seen=seen, do="copy the bundle again, or compile it again"
    )


def _check_replaceable(destination: Path, *, overwrite: bool) -> None:
    if not destination.exists():
        return
    if not (destination / MANIFEST).is_file():
        raise BundleError(
            f"{destination} exists and is not a bundle",
            seen="a folder without manifest.json" if destination.is_dir() else "a file",
            do="choose another path; only bundles are ever replaced",
        )
    if not overwrite:
        raise BundleError(
            f"{destination} exists", do="choose another path, or pass --overwrite to replace it"
        )


def _clean_left_over(destination: Path) -> None:
    """Remove what a killed process left beside `destination`; put back what it had set aside."""
    pattern = re.compile(rf"\.{re.escape(destination.name)}\.(partial|replaced)-(\d+)")
    for path in destination.parent.iterdir():
        match = pattern.fullmatch(path.name)
        if match is None or path in _in_progress or _is_other_process(int(match[2])):
            continue
        if match[1] == "replaced" and not destination.exists():
            path.rename(destination)
        else:
            shutil.rmtree(path, ignore_errors=True)


def _is_other_process(pid: int) -> bool:
    if pid == os.getpid():
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        pass
    return True


def _sync(folder: Path) -> None:
    """Flush files and folders to the disk, so that a rename cannot survive its contents."""
    for path in (*folder.rglob("*"), folder):
        _fsync(path)


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network and shared-folder file systems cannot sync a folder.
        if error.errno != errno.EINVAL or not path.is_dir():
            raise
    finally:
        os.close(descriptor)


def _move_into_place(folder: Path, destination: Path) -> None:
    if not destination.exists():
        folder.rename(destination)
    elif not _exchange(folder, destination):
        aside = destination.with_name(f".{destination.name}.replaced-{os.getpid()}")
        destination.rename(aside)
        try:
            folder.rename(destination)
        except BaseException:
            aside.rename(destination)
            raise
        shutil.rmtree(aside, ignore_errors=True)
    # After an exchange the old bundle bears the temporary name, and is removed with it.
    _fsync(destination.parent)


def _exchange(first: Path, second: Path) -> bool:
    """Swap two folders in one step, where the C library and the file system can."""
    try:
        renameat2 = ctypes.CDLL(None).renameat2
    except (OSError, AttributeError):
        return False
    done: int = renameat2(
        _AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), _RENAME_EXCHANGE
    )
    return done == 0


@contextmanager
def _writing(path: Path, needed_bytes: int) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in _DISK_FULL:
            raise _disk_full(path, path.parent, error, needed_bytes) from error
        raise _unwritable(path, error) from error


def _disk_full(
    path: Path, folder: Path, error: OSError, needed_bytes: int | None = None
) -> BundleError:
    written = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    free = shutil.disk_usage(folder).free
    need = f"{needed_bytes} bytes needed" if needed_bytes else f"{written} bytes written so far"
    return BundleError(
        f"No space left to write {path}",
        seen=f"{error.strerror}; {need}, {free} bytes free on the file system of {path.parent}",
        do="free some space there, or choose a destination on another disk; nothing was changed",
    )


def _unwritable(path: Path, error: OSError) -> BundleError:
    return BundleError(
        f"Cannot write {path}",
        seen=f"{error.strerror or error}" + (f": {error.filename}" if error.filename else ""),
        do="check the path and its permissions, or choose another destination",
    )
