"""Trains the digit classifier that ships with the package and writes it as ONNX.

    python -m tvm_iovt.zoo.train_digits --data FOLDER -o digits.onnx

FOLDER holds the four MNIST files. Needs `pip install "tvm-iovt[torch]"`; takes a few minutes on one
core. The seed is fixed; results still differ in the last digits between versions of torch.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from tvm_iovt.datasets.mnist import read_split
from tvm_iovt.errors import IovtError
from tvm_iovt.images import preset
from tvm_iovt.zoo.catalogue import find
from tvm_iovt.zoo.digits import INPUT_SHAPE, DigitClassifier
from tvm_iovt.zoo.torch_to_onnx import write_onnx

SHIFT_PIXELS = 2


def train(
    images: npt.NDArray[Any],
    labels: npt.NDArray[Any],
    *,
    epochs: int,
    batch_size: int = 128,
    peak_learning_rate: float = 1e-2,
    seed: int = 0,
) -> DigitClassifier:
    """Trains with AdamW, a one-cycle learning rate and random shifts of up to two pixels.

    Args:
        images: `[N, 28, 28]` uint8.
        labels: `[N]` uint8, 0 to 9.
        epochs: Passes over the images.
        batch_size: Images of one step; a shorter last batch is dropped.
        peak_learning_rate: Reached after a third of the steps.
        seed: Of the weights, the order and the shifts.

    Returns:
        The classifier, in evaluation mode.
    """
    torch.manual_seed(seed)
    torch.set_num_threads(1)  # sums in one order on any machine; the network is too small for more
    generator = np.random.default_rng(seed)
    model = DigitClassifier()
    steps = len(images) // batch_size
    optimizer = torch.optim.AdamW(model.parameters(), peak_learning_rate, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, peak_learning_rate, total_steps=epochs * steps
    )
    loss_of = nn.CrossEntropyLoss()
    targets = torch.from_numpy(labels.astype(np.int64))
    for epoch in range(epochs):
        start, total_loss = time.perf_counter(), 0.0
        order = generator.permutation(len(images))
        for step in range(steps):
            chosen = order[step * batch_size : (step + 1) * batch_size]
            optimizer.zero_grad()
            loss = loss_of(model(_batch(_shift(images[chosen], generator))), targets[chosen])
            loss.backward()
            optimizer.step()
            schedule.step()
            total_loss += loss.item()
        seconds = time.perf_counter() - start
        _log(f"epoch {epoch + 1}/{epochs}: loss {total_loss / steps:.4f}, {seconds:.0f} s")
    model.eval()
    return model


def accuracy(model: Any, images: npt.NDArray[Any], labels: npt.NDArray[Any]) -> float:
    """Fraction of images whose digit has the largest logit."""
    correct = 0
    with torch.no_grad():
        for start in range(0, len(images), 1000):
            logits = model(_batch(images[start : start + 1000])).numpy()
            correct += int((logits.argmax(1) == labels[start : start + 1000]).sum())
    return correct / len(images)


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m tvm_iovt.zoo.train_digits", description="Train the digit classifier."
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of the MNIST files")
    parser.add_argument("-o", "--output", type=Path, default=Path("digits.onnx"))
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    try:
        model = train(*read_split(options.data, "train"), epochs=options.epochs, seed=options.seed)
        test_accuracy = accuracy(model, *read_split(options.data, "test"))
        entry = find("digits")
        write_onnx(
            model,
            options.output,
            input_shape=INPUT_SHAPE,
            preprocess=preset(entry.preprocess),
            labels=entry.labels,
            training_form=True,
        )
    except IovtError as error:
        _log(str(error))
        return error.exit_code
    print(f"{options.output}: test accuracy {test_accuracy:.4f}")
    return 0


def _shift(images: npt.NDArray[Any], generator: np.random.Generator) -> npt.NDArray[Any]:
    """Each image moved by its own random offset, filled with zeros."""
    count, height, width = images.shape
    margin = SHIFT_PIXELS
    padded = np.pad(images, ((0, 0), (margin, margin), (margin, margin)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (height, width), axis=(1, 2))
    down, right = generator.integers(0, 2 * margin + 1, size=(2, count))
    shifted: npt.NDArray[Any] = windows[np.arange(count), down, right]
    return shifted


def _batch(images: npt.NDArray[Any]) -> Any:
    return torch.from_numpy(images.astype(np.float32)[:, np.newaxis] / 255)


def _log(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
