"""Write networks to measure as ONNX files: `python bench/peers/networks.py [FOLDER]`.

Latency does not depend on what a network was trained on, so the weights are random: scaled by
their fan-in, with the batch-norm statistics of one random batch, so that activations keep a size
at which a wrong kernel shows. Needs this project's extra `zoo` (torch); the benchmark itself does
not.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from problem import NETWORKS_CACHE

from tvm_iovt import resources
from tvm_iovt.errors import IovtError

_CALIBRATION_BATCH = 4


@dataclass(frozen=True)
class Recipe:
    """How a network is made.

    Attributes:
        build: Returns the `torch.nn.Module`.
        input_shape: Of the ONNX file's input.
        training_form: Keep branches and batch norms as nodes of the graph.
        is_deployed: Fold the branches into one convolution each before the export.
    """

    build: Callable[[], Any]
    input_shape: tuple[int, ...] = (1, 3, 224, 224)
    training_form: bool = False
    is_deployed: bool = False


def _resnet(name: str) -> Any:
    import resnet

    return getattr(resnet, name)()


def _efficientnet_lite0() -> Any:
    from efficientnet_lite_pytorch import EfficientNet

    return EfficientNet.from_name("efficientnet-lite0")


def _mobilenet_v2() -> Any:
    from tvm_iovt.zoo.mobilenet_v2 import MobileNetV2

    return MobileNetV2()


def _repvgg_a0() -> Any:
    from tvm_iovt.nn.networks import repvgg

    return repvgg("A0")


def _mnist_cnn() -> Any:
    """The convolution network of PyTorch's MNIST example, without its dropout."""
    from torch import nn

    return nn.Sequential(
        nn.Conv2d(1, 32, 3),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(9216, 128),
        nn.ReLU(),
        nn.Linear(128, 10),
        nn.LogSoftmax(1),
    )


RECIPES = {
    "resnet18": Recipe(lambda: _resnet("resnet18")),
    "resnet50": Recipe(lambda: _resnet("resnet50")),
    "mobilenet_v2": Recipe(_mobilenet_v2),
    "efficientnet_lite0": Recipe(_efficientnet_lite0),
    "repvgg_a0_train": Recipe(_repvgg_a0, training_form=True),
    "repvgg_a0_deploy": Recipe(_repvgg_a0, is_deployed=True),
    "mnist_cnn_28": Recipe(_mnist_cnn, input_shape=(1, 1, 28, 28)),
}


def make(recipe: Recipe, out: Path) -> None:
    """Write one network; the file is compared with torch before it exists."""
    import torch

    from tvm_iovt.nn.deploy import deploy
    from tvm_iovt.nn.export import export_onnx

    torch.manual_seed(0)
    model = recipe.build()
    randomize(model, recipe.input_shape)
    if recipe.is_deployed:
        model = deploy(model)
    export_onnx(model, out, recipe.input_shape, training_form=recipe.training_form)


def randomize(model: Any, input_shape: tuple[int, ...]) -> None:
    """Draw weights, then take the batch-norm statistics of one random batch."""
    import torch
    from torch import nn

    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            fan_in = module.weight[0].numel()
            nn.init.normal_(module.weight, 0.0, math.sqrt(2 / fan_in))
            if module.bias is not None:
                nn.init.normal_(module.bias, 0.0, 0.1)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0.0, 0.1)
            module.momentum = None  # the mean over all batches, of which there is one
    model.train()
    with torch.no_grad():
        model(torch.randn(_CALIBRATION_BATCH, *input_shape[1:]))
    model.eval()


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument(
        "folder", type=Path, nargs="?", help="default: where `python bench/peers` looks for them"
    )
    arguments.add_argument("--only", default="", metavar="A,B", help=f"of {','.join(RECIPES)}")
    options = arguments.parse_args()
    names = options.only.split(",") if options.only else list(RECIPES)
    for name in names:
        if name not in RECIPES:
            sys.exit(f"There is no network {name!r}\n  do:   use some of: {','.join(RECIPES)}")
    folder = options.folder or resources.cache(NETWORKS_CACHE)
    for name in names:
        file = folder / f"{name}.onnx"
        try:
            make(RECIPES[name], file)
        except ImportError as error:
            sys.exit(f"{name} cannot be made: {error}\n  do:   pip install 'tvm-iovt[zoo]'")
        except IovtError as error:
            sys.exit(str(error))
        print(f"wrote {file}", flush=True)


if __name__ == "__main__":
    main()
