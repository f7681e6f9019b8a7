"""Image files as frames."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from tvm_iovt.errors import UsageError
from tvm_iovt.frames.source import Frame, FrameSource, unreadable
from tvm_iovt.images import PRESETS, load_image
from tvm_iovt.types import Preprocess, TensorSpec


def recipe(
    source: str, inputs: tuple[TensorSpec, ...], preprocess: Preprocess | None
) -> tuple[TensorSpec, Preprocess]:
    """How pictures become the network's input.

    Raises:
        UsageError: The network has several inputs, or it is not known how.
    """
    if len(inputs) != 1:
        raise UsageError(
            f"{source} holds pictures, which are one input",
            seen=f"a network with {len(inputs)}: {', '.join(map(str, inputs))}",
            do="give .npz files with an array for each input name",
        )
    if preprocess is None:
        raise UsageError(
            f"It is not known how the pictures of {source} become the input {inputs[0]}",
            seen="a model without preprocessing in its metadata",
            do=f"name one with --preprocess: {', '.join(p.name for p in PRESETS)}",
        )
    return inputs[0], preprocess


def open_files(
    source: str,
    files: Sequence[Path],
    inputs: tuple[TensorSpec, ...],
    preprocess: Preprocess | None,
) -> FrameSource:
    """Image files, a frame each.

    Raises:
        UsageError: The network does not take pictures.
    """
    spec, chosen = recipe(source, inputs, preprocess)

    def frames() -> Iterator[Frame]:
        for index, file in enumerate(files):
            try:
                yield {spec.name: load_image(file, chosen, spec)}
            except UsageError as error:
                raise unreadable(index, source, error) from error

    return FrameSource(name=source, count=len(files), start=frames)
