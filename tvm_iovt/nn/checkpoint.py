"""The state of a training run as a file, from which it goes on as if it had not been stopped."""

from __future__ import annotations

import dataclasses
import io
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tvm_iovt.atomic_write import write_atomically
from tvm_iovt.errors import UsageError
from tvm_iovt.nn.torch_import import torch

SCHEMA = "tvm-iovt/checkpoint/1"

_START_ANEW = "delete the file, or train without resuming, to begin anew"


# Compared by identity: tensors have no single truth value.
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Checkpoint:
    """Everything that the rest of a training run depends on.

    Attributes:
        epoch: Epochs that are done.
        settings: The options of the run, and what identifies its data: names with plain values.
        model: `state_dict` of the model.
        optimizer: `state_dict` of the optimizer.
        schedule: `state_dict` of the learning rate's schedule.
        generators: State of each NumPy generator by its name, as JSON.
        torch_generator: State of torch's own generator, uint8.
        losses: Mean loss of each epoch that is done.
    """

    epoch: int
    settings: dict[str, Any]
    model: dict[str, Any]
    optimizer: dict[str, Any]
    schedule: dict[str, Any]
    generators: dict[str, str]
    torch_generator: Any
    losses: list[float]


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Writes a checkpoint; a file of that name is replaced at once or not at all.

    Raises:
        UsageError: The file cannot be written.
    """
    fields = {f.name: getattr(checkpoint, f.name) for f in dataclasses.fields(checkpoint)}
    stream = io.BytesIO()
    torch.save({"schema": SCHEMA, **fields}, stream)
    write_atomically(path, stream.getvalue())


def load_checkpoint(path: Path) -> Checkpoint:
    """Reads a checkpoint, executing nothing that the file might hold.

    Raises:
        UsageError: The file is missing, damaged, or not a checkpoint of this version.
    """
    try:
        stored = path.read_bytes()
    except OSError as error:
        raise UsageError(f"Cannot read the checkpoint {path}", seen=str(error)) from error
    try:
        with zipfile.ZipFile(io.BytesIO(stored)) as archive:
            # torch does not look at the checksums: a changed weight would go unnoticed.
            if (member := archive.testzip()) is not None:
                raise zipfile.BadZipFile(f"the checksum of {member} is wrong")
        content = torch.load(io.BytesIO(stored), map_location="cpu", weights_only=True)
    # Whatever a damaged archive or a foreign pickle makes them raise; there is no list of it.
    except Exception as error:
        raise UsageError(
            f"{path} is damaged or no checkpoint", seen=_first_line(error), do=_START_ANEW
        ) from error
    schema = content.get("schema") if isinstance(content, dict) else None
    if schema != SCHEMA:
        raise UsageError(
            f"{path} is not a checkpoint that this version can read",
            seen=f"schema {schema!r}; this version reads {SCHEMA!r}",
            do=_START_ANEW,
        )
    types = {
        **dict.fromkeys(("settings", "model", "optimizer", "schedule", "generators"), dict),
        "epoch": int,
        "torch_generator": torch.Tensor,
        "losses": list,
    }
    for name, wanted in types.items():
        if not isinstance(content.get(name), wanted):
            raise UsageError(
                f"The checkpoint {path} is incomplete",
                seen=f"{name} is {type(content.get(name)).__name__}",
                do=_START_ANEW,
            )
    return Checkpoint(**{name: content[name] for name in types})


def require_settings(checkpoint: Checkpoint, settings: Mapping[str, Any], path: Path) -> None:
    """Checks that a checkpoint is of a run with these settings.

    Raises:
        UsageError: A setting differs; the message names each that does.
    """
    theirs = checkpoint.settings
    names = [*settings, *(name for name in theirs if name not in settings)]
    differences = [
        f"{name}: {theirs.get(name)!r} there, {settings.get(name)!r} now"
        for name in names
        if theirs.get(name) != settings.get(name)
    ]
    if differences:
        raise UsageError(
            f"The checkpoint {path} is of another training run",
            seen="; ".join(differences),
            do=f"train with its settings; or {_START_ANEW}",
        )


def require_tensors(checkpoint: Checkpoint, model: Any, path: Path) -> None:
    """Checks that a checkpoint holds the tensors of this model.

    Raises:
        UsageError: A tensor is missing, unknown, or of another shape.
    """
    theirs = {name: tuple(tensor.shape) for name, tensor in checkpoint.model.items()}
    ours = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    for name in [*ours, *theirs]:
        if theirs.get(name) != ours.get(name):
            raise UsageError(
                f"The checkpoint {path} is of another model",
                seen=f"{name} has shape {theirs.get(name, 'none')} there, "
                f"{ours.get(name, 'none')} in this model",
                do=_START_ANEW,
            )


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)[:200]
