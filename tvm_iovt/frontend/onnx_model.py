"""Reading an ONNX file: every way in which it can be broken ends in a readable `ModelError`."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tvm_iovt.errors import ModelError
from tvm_iovt.types import TensorSpec

if TYPE_CHECKING:
    import onnx

OLDEST_OPSET = 7

# A serialised message ends at 2 GiB; what is not weights gets some room.
LARGEST_WEIGHTS_BYTES = 2**31 - 2**26

# Complaints of the ONNX checker that do not matter here: operators of unknown names or domains are
# reported later, all of them and with their nodes; outputs without a shape are inferred.
_TOLERATED = ("No Op registered", "No opset import for domain", "Field 'shape' of 'type'")


def load_onnx(path: Path) -> onnx.ModelProto:
    """Read and check an ONNX model, external data included.

    Raises:
        ModelError: The file is missing, is not ONNX, is truncated, or breaks the ONNX rules.
    """
    import onnx
    from google.protobuf.message import DecodeError

    if not path.is_file():
        raise ModelError(
            f"Cannot read the model {path}",
            seen="a folder" if path.is_dir() else "no such file",
            do="give the path of an .onnx file",
        )
    size_bytes = path.stat().st_size
    try:
        model = onnx.load(str(path))
    except (DecodeError, UnicodeDecodeError, ValueError, EOFError) as error:
        raise _not_onnx(path, size_bytes, error) from error
    except (OSError, onnx.checker.ValidationError) as error:  # external data beside the model
        raise ModelError(
            f"Cannot read all of the model {path}",
            seen=str(error),
            do="put the model's external data files beside it",
        ) from error
    if not model.graph.node and not model.graph.output:
        raise _not_onnx(path, size_bytes, "no graph inside")
    opset = opset_version(model)
    if opset < OLDEST_OPSET:
        raise ModelError(
            f"{path.name} uses an ONNX opset that is too old",
            seen=f"opset {opset}; {OLDEST_OPSET} is the oldest that can be read",
            do="export the model again, or use onnx.version_converter",
        )
    try:
        # The checker copies a model in memory, which ends at 2 GB.
        large = weights_bytes(model) > LARGEST_WEIGHTS_BYTES
        onnx.checker.check_model(str(path) if large else model)
    except (onnx.checker.ValidationError, ValueError) as error:
        message = str(error).strip()
        if not any(text in message for text in _TOLERATED):
            raise ModelError(
                f"{path.name} is not a valid ONNX model",
                seen=message.splitlines()[0][:300],
                do="export it again; onnx.checker.check_model tells the whole story",
            ) from error
    return model


def opset_version(model: onnx.ModelProto) -> int:
    """Version of the default operator domain."""
    return max((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), default=1)


def weights_bytes(model: onnx.ModelProto) -> int:
    """Bytes of a model's initializers and nodes, external data included once it is loaded."""
    return sum(part.ByteSize() for part in (*model.graph.initializer, *model.graph.node))


def refuse_large(model: onnx.ModelProto, name: str) -> None:
    """Stop at a model that does not fit into one message, as importing it needs.

    Raises:
        ModelError: The weights are too large.
    """
    size_bytes = weights_bytes(model)
    if size_bytes > LARGEST_WEIGHTS_BYTES:
        raise ModelError(
            f"{name} is too large",
            seen=f"{size_bytes / 1e9:.1f} GB of weights; the limit is 2 GB",
            do="store the weights as float16, or cut the model in parts",
        )


def sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as stream:
        digest = hashlib.sha256()
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def graph_inputs(model: onnx.ModelProto) -> tuple[onnx.ValueInfoProto, ...]:
    """Inputs that the caller feeds (old files list the initializers as inputs too)."""
    constants = {tensor.name for tensor in model.graph.initializer}
    return tuple(value for value in model.graph.input if value.name not in constants)


def dimensions(value: onnx.ValueInfoProto) -> tuple[int | str, ...] | None:
    """Shape of a graph value: numbers, symbol names, `?`; None when the rank is unknown."""
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        return None
    return tuple(
        d.dim_value if d.HasField("dim_value") else (d.dim_param or "?") for d in tensor.shape.dim
    )


def tensor_spec(value: onnx.ValueInfoProto) -> TensorSpec:
    """The static `TensorSpec` of a graph input or output.

    Raises:
        ModelError: The value is not a tensor, or its shape is not static.
    """
    import onnx

    shape = dimensions(value)
    if shape is None or not all(isinstance(d, int) and d >= 0 for d in shape):
        raise ModelError(
            f"The shape of {value.name!r} is not known before the network runs",
            seen="unknown rank" if shape is None else "x".join(map(str, shape)),
            do="fix the input shapes with --input-shape; networks whose output size depends on "
            "their data (non-maximum suppression inside, say) must be cut before that point",
        )
    dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type))
    return TensorSpec(name=value.name, shape=tuple(int(d) for d in shape), dtype=dtype.name)


def _not_onnx(path: Path, size_bytes: int, error: object) -> ModelError:
    with path.open("rb") as stream:
        head = stream.read(256)
    if size_bytes == 0:
        seen = "an empty file"
    elif head and all(byte in b"\t\n\r" or 32 <= byte < 127 for byte in head):
        seen = f"a text file that begins with {head[:40].decode('ascii')!r}"
    else:
        seen = f"{size_bytes} bytes that do not parse as ONNX ({error})"
    return ModelError(
        f"{path} is not an ONNX model",
        seen=seen,
        do="give an .onnx file; if it was downloaded, it may be cut short: fetch it again",
    )
