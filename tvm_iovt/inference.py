"""`run_bundle`: a bundle on images, arrays or folders, with the answers in readable form."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tvm_iovt import bundle as bundles
from tvm_iovt import images, runtime
from tvm_iovt.atomic_write import write_atomically
from tvm_iovt.errors import UsageError
from tvm_iovt.types import Measurement, Preprocess

Arrays = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassScore:
    """One class of a classifier's answer; `label` is its name, or its index as text."""

    index: int
    label: str
    score: float


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputSummary:
    """What an output tensor looks like when it is no vector of scores."""

    name: str
    shape: tuple[int, ...]
    minimum: float
    maximum: float
    mean: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The outputs for one input. `top` is filled for classifiers, `outputs` for all networks."""

    source: str
    top: tuple[ClassScore, ...]
    outputs: tuple[OutputSummary, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Inference:
    """The answers for all inputs, and the latencies if they were measured."""

    deployment: str
    answers: tuple[Answer, ...]
    measurements: tuple[Measurement, ...]


def run_bundle(
    path: Path,
    sources: Sequence[Path],
    *,
    target: str | None = None,
    top: int = 5,
    labels: Path | None = None,
    preprocess: str = "",
    output: Path | None = None,
    threads: int | None = None,
    cpus: Sequence[int] | None = None,
    repeat: int = 0,
) -> Inference:
    """Run a bundle on every source; without sources, on its own sample.

    Args:
        path: The bundle.
        sources: Images, `.npy` and `.npz` files, and folders of images.
        target: Name of the deployment; by default the one that fits this machine.
        top: Number of classes to name for a classifier.
        labels: Text file with one class name a line, over the bundle's own.
        preprocess: Name of an image preset, over the bundle's own.
        output: An `.npz` file for the output arrays: `<output name>` for one source,
            `<index>/<output name>` for several.
        threads: Worker threads.
        cpus: CPUs to run on; by default the system decides.
        repeat: Runs to measure the latency over, on the first source; 0 measures nothing.

    Raises:
        UsageError: A source cannot be read or does not fit the network.
        BundleError: The bundle is damaged or not for this machine.
        DeviceError: The network failed while running.
    """
    executor = runtime.load(path, target=target, threads=threads, cpus=cpus)
    manifest = executor.manifest
    recipe = images.preset(preprocess) if preprocess else manifest.preprocess
    names = _read_labels(labels) if labels else manifest.labels
    answers: list[Answer] = []
    kept: list[Arrays] = []
    first: Arrays | None = None
    for source, inputs in _all_inputs(path, sources, executor, recipe):
        first = inputs if first is None else first
        outputs = executor.run(inputs)
        answers.append(_answer(source, outputs, names, top))
        if output is not None:
            kept.append(outputs)
    assert first is not None, "image_files refuses empty folders"
    measurements = (
        executor.benchmark(first, warmup=max(3, repeat // 10), repeat=repeat) if repeat else ()
    )
    if output is not None:
        _save(output, kept)
    return Inference(
        deployment=executor.deployment.name, answers=tuple(answers), measurements=measurements
    )


def _all_inputs(
    path: Path, sources: Sequence[Path], executor: runtime.Executor, recipe: Preprocess | None
) -> Iterator[tuple[str, Arrays]]:
    if not sources:
        sample = executor.manifest.sample
        bundles.verify(path, [sample])
        yield f"the sample of {path.name}", bundles.load_sample(path, sample.file)[0]
    for source in sources:
        if not source.exists():
            raise UsageError(f"There is no input {source}", do="give images, .npz files or folders")
        for file in images.image_files(source) if source.is_dir() else (source,):
            yield str(file), images.load_inputs(file, executor.inputs, recipe)


def _answer(source: str, outputs: Arrays, names: tuple[str, ...], top: int) -> Answer:
    summaries = tuple(
        OutputSummary(
            name=name,
            shape=tuple(int(size) for size in value.shape),
            minimum=float(value.min()),
            maximum=float(value.max()),
            mean=float(value.mean()),
        )
        for name, value in outputs.items()
        if value.size
    )
    return Answer(source=source, top=_top_classes(outputs, names, top), outputs=summaries)


def _top_classes(outputs: Arrays, names: tuple[str, ...], top: int) -> tuple[ClassScore, ...]:
    """The best classes of a network whose only output is one vector of scores, else nothing."""
    if len(outputs) != 1:
        return ()
    (value,) = outputs.values()
    scores = value.reshape(-1)
    if scores.size < 2 or max(value.shape) != scores.size:
        return ()
    best = np.argsort(-scores, kind="stable")[:top]
    return tuple(
        ClassScore(
            index=int(i),
            label=names[i] if i < len(names) else str(int(i)),
            score=float(scores[i]),
        )
        for i in best
    )


def _read_labels(path: Path) -> tuple[str, ...]:
    try:
        return tuple(path.read_text(encoding="utf-8").splitlines())
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"Cannot read the labels {path}", seen=str(error)) from error


def _save(path: Path, outputs: list[Arrays]) -> None:
    arrays = (
        outputs[0]
        if len(outputs) == 1
        else {
            f"{i}/{name}": value for i, each in enumerate(outputs) for name, value in each.items()
        }
    )
    content = io.BytesIO()
    np.savez(content, **arrays)  # type: ignore[arg-type]
    write_atomically(path, content.getvalue())
