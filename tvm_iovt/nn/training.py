"""Training of classifiers that gives the same result whether or not it was interrupted."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np

from tvm_iovt.datasets.labelled_images import LabelledImages
from tvm_iovt.errors import NumericsError, UsageError
from tvm_iovt.nn.checkpoint import (
    Checkpoint,
    load_checkpoint,
    require_settings,
    require_tensors,
    save_checkpoint,
)
from tvm_iovt.nn.evaluation_mode import evaluation_mode
from tvm_iovt.nn.image_batches import image_tensor, shifted
from tvm_iovt.nn.torch_import import nn, torch

Model = TypeVar("Model")

_STREAMS = ("order", "shifts", "objective")
_EVALUATION_BATCH = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingOptions:
    """How to train.

    Attributes:
        epochs: Passes over the images.
        batch_size: Images of one step; a shorter last batch is dropped.
        peak_learning_rate: Of AdamW (arXiv 1711.05101), reached after a third of the steps of a
            one-cycle schedule (arXiv 1708.07120).
        weight_decay: Of AdamW.
        shift_pixels: Images are moved by up to as many pixels along both axes.
        seed: Of the order of the images, their shifts, and what the objective draws. For that of
            the weights see `seeded_model`.

    Raises:
        UsageError: A number is out of range.
    """

    epochs: int
    batch_size: int = 128
    peak_learning_rate: float = 1e-2
    weight_decay: float = 1e-2
    shift_pixels: int = 2
    seed: int = 0

    def __post_init__(self) -> None:
        least = {"epochs": 1, "batch_size": 1, "shift_pixels": 0, "seed": 0}
        for name, smallest in least.items():
            if getattr(self, name) < smallest:
                raise UsageError(
                    f"{name} must be at least {smallest}", seen=str(getattr(self, name))
                )
        if not 0 < self.peak_learning_rate < math.inf or not 0 <= self.weight_decay < math.inf:
            raise UsageError(
                "The learning rate must be positive, the weight decay not negative",
                seen=f"{self.peak_learning_rate}, {self.weight_decay}",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingProgress:
    """Where a training run is after a step.

    Attributes:
        epoch: Counted from 1.
        epochs: Number of them.
        step: Of this epoch, counted from 1.
        steps: In an epoch.
        loss: Of this step.
        images_per_s: Mean since the run was started or resumed.
        eta_s: Seconds until the end at this speed.
    """

    epoch: int
    epochs: int
    step: int
    steps: int
    loss: float
    images_per_s: float
    eta_s: float


class Objective(Protocol):
    """What a training step minimises."""

    def settings(self) -> Mapping[str, Any]:
        """What a resumed run must have in common with the interrupted one: plain values."""

    def backward(
        self, model: Any, images: Any, labels: Any, generator: np.random.Generator
    ) -> float:
        """Adds the gradients of the loss to the model's parameters.

        Args:
            model: In training mode.
            images: `[N, C, H, W]`.
            labels: `[N]` int64.
            generator: For whatever is drawn at random.

        Returns:
            The loss.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class CrossEntropy:
    """Mean cross entropy of the logits."""

    def settings(self) -> Mapping[str, Any]:
        """See `Objective`."""
        return {"objective": "cross entropy"}

    def backward(
        self, model: Any, images: Any, labels: Any, generator: np.random.Generator
    ) -> float:
        """See `Objective`."""
        loss = nn.functional.cross_entropy(model(images), labels)
        loss.backward()
        return float(loss.detach())


def seeded_model(build: Callable[[], Model], seed: int) -> Model:
    """The model that `build` makes with torch's generator seeded; its state is put back."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build()


def train(
    model: Any,
    data: LabelledImages,
    options: TrainingOptions,
    *,
    objective: Objective | None = None,
    progress: Callable[[TrainingProgress], None] = lambda progress: None,
    checkpoint: Path | None = None,
    resume: bool = False,
) -> tuple[float, ...]:
    """Trains a classifier in place and leaves it in evaluation mode.

    On the CPU, with one version of torch and one number of threads, the result depends on the
    arguments alone, however often the run was interrupted and resumed.

    Args:
        model: Gives `[N, classes]` logits for `[N, C, H, W]` images from 0 to 1.
        data: The images.
        options: See `TrainingOptions`.
        objective: What to minimise; by default the `CrossEntropy`.
        progress: Called after every step.
        checkpoint: A file that holds the state after the last epoch.
        resume: Go on from that file, if it exists; otherwise it is replaced after an epoch.

    Returns:
        Mean loss of each epoch.

    Raises:
        UsageError: There are fewer images than one batch, or the checkpoint is damaged, of other
            options, data or model, or cannot be written. The model is left as it was.
        NumericsError: The loss is no longer finite. The checkpoint stays that of the last epoch.
    """
    if resume and checkpoint is None:
        raise UsageError("Training can be resumed from a checkpoint only", do="name its file")
    steps = len(data) // options.batch_size
    if steps == 0:
        raise UsageError(
            "There are fewer training images than one batch holds",
            seen=f"{len(data)} images, batches of {options.batch_size}",
            do="give more images, or a smaller batch size",
        )
    run = _Run(model, data, options, objective or CrossEntropy(), steps)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(options.seed)
        if resume and checkpoint is not None and checkpoint.exists():
            run.restore(checkpoint)
        began_s, first = time.perf_counter(), len(run.losses)
        for epoch in range(first, options.epochs):
            model.train()
            total = 0.0
            for step, loss in enumerate(run.epoch(), start=1):
                if not math.isfinite(loss):
                    raise _diverged(loss, epoch, step, checkpoint)
                total += loss
                done = (epoch - first) * steps + step
                step_s = (time.perf_counter() - began_s) / done
                progress(
                    TrainingProgress(
                        epoch=epoch + 1,
                        epochs=options.epochs,
                        step=step,
                        steps=steps,
                        loss=loss,
                        images_per_s=options.batch_size / step_s,
                        eta_s=step_s * ((options.epochs - first) * steps - done),
                    )
                )
            run.losses.append(total / steps)
            if checkpoint is not None:
                save_checkpoint(checkpoint, run.checkpoint())
    model.eval()
    return tuple(run.losses)


def evaluate(model: Any, data: LabelledImages) -> float:
    """Fraction of images whose class has the largest logit, in evaluation mode.

    Raises:
        NumericsError: A logit is NaN.
    """
    correct = 0
    with evaluation_mode(model):
        for start in range(0, len(data), _EVALUATION_BATCH):
            chosen = slice(start, start + _EVALUATION_BATCH)
            logits = model(image_tensor(data.images[chosen], model))
            # The largest of NaNs is the first, which would count as an answer.
            if torch.isnan(logits).any():
                raise NumericsError(
                    "The model gives NaN", do="train again with a lower learning rate"
                )
            correct += int((logits.argmax(1).cpu().numpy() == data.labels[chosen]).sum())
    return correct / len(data)


class _Run:
    """The moving parts of a training run."""

    def __init__(
        self,
        model: Any,
        data: LabelledImages,
        options: TrainingOptions,
        objective: Objective,
        steps: int,
    ) -> None:
        self._model, self._data, self._options = model, data, options
        self._objective, self._steps = objective, steps
        rate = options.peak_learning_rate
        self._optimizer = torch.optim.AdamW(
            model.parameters(), rate, weight_decay=options.weight_decay
        )
        self._schedule = torch.optim.lr_scheduler.OneCycleLR(
            self._optimizer, rate, total_steps=options.epochs * steps
        )
        seeds = np.random.SeedSequence(options.seed).spawn(len(_STREAMS))
        self._generators = {
            name: np.random.default_rng(seed) for name, seed in zip(_STREAMS, seeds, strict=True)
        }
        self.losses: list[float] = []

    def epoch(self) -> Any:
        """Trains one epoch; yields the loss of each step.

        A loss is given out before the weights follow it, so that they never follow a NaN.
        """
        draws, size = self._generators, self._options.batch_size
        order = draws["order"].permutation(len(self._data))
        for step in range(self._steps):
            chosen = order[step * size : (step + 1) * size]
            images = shifted(self._data.images[chosen], self._options.shift_pixels, draws["shifts"])
            inputs = image_tensor(images, self._model)
            labels = torch.from_numpy(self._data.labels[chosen]).to(inputs.device)
            self._optimizer.zero_grad()
            loss = self._objective.backward(self._model, inputs, labels, draws["objective"])
            if math.isfinite(loss):
                self._optimizer.step()
                self._schedule.step()
            yield loss

    def checkpoint(self) -> Checkpoint:
        """The state between two epochs."""
        return Checkpoint(
            epoch=len(self.losses),
            settings=self._settings(),
            model=self._model.state_dict(),
            optimizer=self._optimizer.state_dict(),
            schedule=self._schedule.state_dict(),
            generators={
                name: json.dumps(generator.bit_generator.state)
                for name, generator in self._generators.items()
            },
            torch_generator=torch.get_rng_state(),
            losses=list(self.losses),
        )

    def restore(self, path: Path) -> None:
        """Takes up the state of a file."""
        saved = load_checkpoint(path)
        require_settings(saved, self._settings(), path)
        require_tensors(saved, self._model, path)
        try:
            for name, generator in self._generators.items():
                generator.bit_generator.state = json.loads(saved.generators[name])
            torch.set_rng_state(saved.torch_generator)
            self._optimizer.load_state_dict(saved.optimizer)
            self._schedule.load_state_dict(saved.schedule)
            self._model.load_state_dict(saved.model)
        except (RuntimeError, LookupError, ValueError, TypeError, AttributeError) as error:
            raise UsageError(
                f"The checkpoint {path} cannot be taken up",
                seen=str(error).strip()[:200],
                do="train without resuming to begin anew",
            ) from error
        self.losses = list(saved.losses)

    def _settings(self) -> dict[str, Any]:
        digest = hashlib.sha256(np.ascontiguousarray(self._data.images).data)
        digest.update(np.ascontiguousarray(self._data.labels).data)
        return {
            **dataclasses.asdict(self._options),
            **self._objective.settings(),
            "images": len(self._data),
            "data_sha256": digest.hexdigest(),
        }


def _diverged(loss: float, epoch: int, step: int, checkpoint: Path | None) -> NumericsError:
    kept = ""
    if checkpoint is not None and epoch > 0:
        kept = f"; {checkpoint} holds the state after epoch {epoch}"
    return NumericsError(
        "The training loss is not finite",
        seen=f"{loss} in epoch {epoch + 1}, step {step}{kept}",
        do="lower the learning rate, and check the data and initial weights for NaN",
    )
