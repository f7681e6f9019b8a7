"""Top-1 and top-5 accuracy of a compiled classifier beside its reference, on the same images.

Quantised and reduced-precision networks are not equal to their reference element by element; what
has to agree is the class they name. Images are streamed, so a data set may be larger than memory.
"""

from __future__ import annotations

import re
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tvm_iovt.errors import NumericsError, UsageError
from tvm_iovt.images import image_files

Array = npt.NDArray[Any]
Run = Callable[[dict[str, Array]], Mapping[str, Array]]
Sample = tuple[Path, "int | None"]

MAX_DISAGREEMENTS = 20
"""How many of the disagreeing files an `Accuracy` lists."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Disagreement:
    """A file for which the two networks name different classes; `label` is -1 when unknown."""

    file: str
    label: int
    ours: int
    reference: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Accuracy:
    """Ours against the reference over a set of images. Accuracies are fractions in 0..1.

    Attributes:
        images: Number of images.
        labelled: Whether the true classes were known; accuracies are None otherwise.
        top1: Fraction of images whose class is our first.
        top5: Fraction of images whose class is among our first five; None below six classes.
        reference_top1: `top1` of the reference.
        reference_top5: `top5` of the reference.
        top1_agreement: Fraction of images for which both name the same class first.
        disagreements: The first files for which they do not, `MAX_DISAGREEMENTS` at most.
        max_abs_difference: Largest difference between the two outputs, over all images.
    """

    SCHEMA: typing.ClassVar[str] = "tvm-iovt/accuracy/1"

    images: int
    labelled: bool
    top1: float | None
    top5: float | None
    reference_top1: float | None
    reference_top5: float | None
    top1_agreement: float
    disagreements: tuple[Disagreement, ...]
    max_abs_difference: float


def read_labels(folder: Path, labels: str | None) -> tuple[Sample, ...]:
    """The images of a folder with their class indices.

    Args:
        folder: Where the images are, also in folders below it.
        labels: How the class of an image is found:
            `folders`: the image lies in one folder per class. Folders whose names are all integers
            are the class index; otherwise the index is the folder's place in sorted order, so the
            set must have a folder for *every* class.
            `prefix`: the integer before the first `_` of the file name.
            A file: lines of `relative/path<separator>index`, separated by a tab, comma or blank.
            Images that are not listed are left out; empty lines and `#` comments are skipped.
            None: the classes are unknown.

    Returns:
        Pairs of path and class index (None when `labels` is None), sorted by path; in the file's
        order for a file.

    Raises:
        UsageError: The folder or file is missing, an image has no class, or a class is not a
            non-negative integer.
    """
    if labels is None:
        return tuple((path, None) for path in image_files(folder))
    if labels == "folders":
        return _labels_from_folders(folder)
    if labels == "prefix":
        return tuple((path, _prefix(path)) for path in image_files(folder))
    return _labels_from_file(folder, Path(labels))


def evaluate(
    run: Run,
    reference: Run,
    samples: Sequence[Sample],
    load: Callable[[Path], dict[str, Array]],
    *,
    progress: Callable[[int, int], None] | None = None,
) -> Accuracy:
    """Runs both networks over the samples and compares the classes they name.

    Args:
        run: Our network: inputs by name to outputs by name.
        reference: The reference, called with the same inputs.
        samples: What `read_labels` returned. Either all samples have a class or none has.
        load: Reads one image as the network's inputs, e.g. `images.load_inputs`.
        progress: Called after each image with the number done and the total.

    Raises:
        UsageError: There are no samples, the network is no classifier, or a class index is beyond
            the network's classes.
        NumericsError: An output of ours is not finite where the reference's is.
    """
    if not samples:
        raise UsageError("There are no images to evaluate")
    labelled = samples[0][1] is not None
    if any((label is not None) != labelled for _, label in samples):
        raise UsageError("Some of the images have a class and some have none")
    hits = np.zeros((2, 2), dtype=np.int64)  # [ours, reference] x [top-1, top-5]
    disagreements: list[Disagreement] = []
    agreed = classes = 0
    max_abs_difference = 0.0
    for done, (path, label) in enumerate(samples, start=1):
        inputs = load(path)
        ours, theirs = _scores(run(inputs)), _scores(reference(inputs))
        if ours.shape != theirs.shape:
            raise UsageError(
                "The two networks have different numbers of classes",
                seen=f"{ours.size} and {theirs.size} in the reference",
            )
        classes = ours.size
        if label is not None and not 0 <= label < classes:
            raise UsageError(
                f"The class of {path} is out of range",
                seen=f"index {label}; the network has the classes 0 to {classes - 1}",
                do="check the label file, and that class indices count from 0",
            )
        max_abs_difference = max(max_abs_difference, _difference(ours, theirs, path))
        ranks = tuple(np.argsort(-scores, kind="stable")[:5] for scores in (ours, theirs))
        first, reference_first = int(ranks[0][0]), int(ranks[1][0])
        for network, rank in enumerate(ranks):
            hits[network] += rank[0] == label, label in rank
        if first == reference_first:
            agreed += 1
        elif len(disagreements) < MAX_DISAGREEMENTS:
            disagreements.append(
                Disagreement(
                    file=str(path),
                    label=-1 if label is None else label,
                    ours=first,
                    reference=reference_first,
                )
            )
        if progress is not None:
            progress(done, len(samples))
    top1, reference_top1 = (float(n) / len(samples) if labelled else None for n in hits[:, 0])
    has_top5 = labelled and classes > 5
    top5, reference_top5 = (float(n) / len(samples) if has_top5 else None for n in hits[:, 1])
    return Accuracy(
        images=len(samples),
        labelled=labelled,
        top1=top1,
        top5=top5,
        reference_top1=reference_top1,
        reference_top5=reference_top5,
        top1_agreement=agreed / len(samples),
        disagreements=tuple(disagreements),
        max_abs_difference=max_abs_difference,
    )


def _labels_from_folders(folder: Path) -> tuple[Sample, ...]:
    paths = image_files(folder)
    loose = [path for path in paths if path.parent == folder]
    if loose:
        raise UsageError(
            f"{loose[0]} is in no class folder",
            do="put each image into a folder of its class, or use another way to label",
        )
    # Folders count even when empty: leaving one out would shift every later class.
    names = sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    if all(name.isdecimal() for name in names):
        index = {name: int(name) for name in names}
    else:
        index = {name: place for place, name in enumerate(names)}
    return tuple((path, index[path.relative_to(folder).parts[0]]) for path in paths)


def _prefix(path: Path) -> int:
    prefix, separator, _ = path.name.partition("_")
    if not separator or not (prefix.isascii() and prefix.isdecimal()):
        raise UsageError(
            f"The file name {path.name} does not start with a class index",
            seen=str(path),
            do="name the file like 281_cat.jpg, or use another way to label",
        )
    return int(prefix)


def _labels_from_file(folder: Path, file: Path) -> tuple[Sample, ...]:
    if not folder.is_dir():
        raise UsageError(f"{folder} is not a folder")
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError as error:
        raise UsageError(
            f"There is no label file {file}",
            do="labels are `folders`, `prefix`, or the path of a file",
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"Cannot read the label file {file}", seen=str(error)) from error
    samples: list[Sample] = []
    for number, line in enumerate(lines, start=1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        where = f"line {number} of {file}"
        # The last separator counts, so that paths may contain blanks and commas.
        match = re.fullmatch(r"(.+?)(?:\s*[,;]\s*|\s+)([^\s,;]+)", text)
        name, index = (match[1].strip("\"'"), match[2]) if match else (text, "")
        path = folder / name
        if not (index.isascii() and index.isdecimal()):
            if not samples and index and not path.exists():
                continue  # a header such as `file,class`
            raise UsageError(
                f"The class in {where} is not a non-negative integer",
                seen=repr(line),
                do="write lines of: relative/path, tab or comma, class index",
            )
        if not path.is_file():
            raise UsageError(f"{where} names an image that does not exist", seen=str(path))
        samples.append((path, int(index)))
    if not samples:
        raise UsageError(f"The label file {file} names no image")
    return tuple(samples)


def _scores(outputs: Mapping[str, Array]) -> npt.NDArray[np.float64]:
    """The class scores among a network's outputs, as a vector."""
    candidates = {
        name: array
        for name, array in outputs.items()
        if array.ndim and array.size > 1 and array.size == max(array.shape)
    }
    if len(candidates) != 1:
        listed = ", ".join(f"{n} {'x'.join(map(str, a.shape))}" for n, a in outputs.items())
        raise UsageError(
            "Accuracy needs a classifier: one output with a score for each class",
            seen=f"outputs {listed}",
            do="compare the outputs with the reference instead of with labels",
        )
    (scores,) = candidates.values()
    return np.asarray(scores, dtype=np.float64).ravel()


def _difference(ours: Array, theirs: Array, path: Path) -> float:
    broken = ~np.isfinite(ours) & np.isfinite(theirs)
    if broken.any():
        raise NumericsError(
            f"The network's output for {path} is not finite",
            seen=f"{int(broken.sum())} of {ours.size} scores",
        )
    comparable = np.isfinite(ours) & np.isfinite(theirs)
    return float(np.abs(ours - theirs)[comparable].max(initial=0.0))
