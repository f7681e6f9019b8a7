"""Arrays with frames along their first axis, in `.npz` and `.npy` files."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tvm_iovt.errors import UsageError
from tvm_iovt.frames.source import Frame, FrameSource, frame_axis, unreadable
from tvm_iovt.types import TensorSpec

SUFFIXES = (".npz", ".npy")

_UNREADABLE = (
    *(OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error),
    NotImplementedError,  # a compression that this Python does not know
)


def open_files(source: str, files: Sequence[Path], inputs: tuple[TensorSpec, ...]) -> FrameSource:
    """Files of frames, one file after the other, each read whole when its first frame is due.

    Raises:
        UsageError: The only file cannot be read or does not fit the network; of several, each is
            judged when its turn comes.
    """
    only = _read(files[0], inputs) if len(files) == 1 else None
    count = len(only[inputs[0].name]) if only else None

    def frames() -> Iterator[Frame]:
        index = 0
        for file in files:
            try:
                stacks = only or _read(file, inputs)
            except UsageError as error:
                raise unreadable(index, source, error) from error
            for number in range(len(stacks[inputs[0].name])):
                yield {
                    spec.name: np.array(stacks[spec.name][number], spec.dtype, order="C")
                    for spec in inputs
                }
                index += 1

    return FrameSource(name=source, count=count, start=frames)


def _read(file: Path, inputs: tuple[TensorSpec, ...]) -> Frame:
    """The inputs of a file's frames, each with the frame axis first."""
    found = {
        name: frame_axis(array, next(s for s in inputs if s.name == name), str(file))
        for name, array in _arrays(file, inputs).items()
    }
    counts = {name: len(array) for name, array in found.items()}
    if len(set(counts.values())) != 1 or 0 in counts.values():
        raise UsageError(
            f"The arrays of {file} do not hold the same frames",
            seen=", ".join(f"{name}: {count} frames" for name, count in counts.items()),
            do="give arrays with the same number of frames, at least one",
        )
    return found


def _arrays(file: Path, inputs: tuple[TensorSpec, ...]) -> dict[str, npt.NDArray[np.generic]]:
    try:
        if file.suffix.lower() == ".npy":
            if len(inputs) != 1:
                raise UsageError(
                    f"{file} holds one input",
                    seen=f"a network with {len(inputs)}: {', '.join(map(str, inputs))}",
                    do="give an .npz with one array for each input name",
                )
            return {inputs[0].name: np.load(file, mmap_mode="r", allow_pickle=False)}
        with np.load(file, allow_pickle=False) as archive:
            names = list(archive.files)
            if len(inputs) == 1 and len(names) == 1:
                return {inputs[0].name: archive[names[0]]}
            missing = [spec.name for spec in inputs if spec.name not in names]
            if missing:
                raise UsageError(
                    f"{file} lacks the input {', '.join(missing)}",
                    seen=f"arrays {', '.join(names) or '(none)'}",
                    do="numpy.savez(path, **{input name: frames})",
                )
            return {spec.name: archive[spec.name] for spec in inputs}
    except _UNREADABLE as error:
        raise UsageError(f"Cannot read {file}", seen=str(error)) from error
