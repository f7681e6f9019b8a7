"""Files as network inputs: images through a preprocessing recipe, and `.npz` / `.npy` arrays.

The wrong recipe costs accuracy without any error message (EfficientNet-Lite with ImageNet's mean
and standard deviation loses eleven points of top-1), so a recipe travels with the model: in the
ONNX metadata, under the keys that `write_metadata` sets and `read_metadata` reads.

Orientation tags (EXIF) are not applied: training and published evaluation pipelines read the
stored pixels, and an accuracy measured here has to be comparable with theirs.
"""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tvm_iovt.errors import IovtError, ModelError, UsageError
from tvm_iovt.json_codec import from_json, to_json
from tvm_iovt.types import Preprocess, TensorSpec

if TYPE_CHECKING:
    from PIL import Image

Array = npt.NDArray[Any]

IMAGENET_MEAN = (123.675, 116.28, 103.53)  # .485 .456 .406 of 255
IMAGENET_STD = (58.395, 57.12, 57.375)  # .229 .224 .225 of 255

PRESETS: tuple[Preprocess, ...] = (
    Preprocess(name="imagenet", resize=256, mean=IMAGENET_MEAN, std=IMAGENET_STD, channels="RGB"),
    Preprocess(name="efficientnet-lite", resize=256, mean=(127.0,), std=(128.0,), channels="RGB"),
    Preprocess(name="digits", resize=0, mean=(0.0,), std=(255.0,), channels="L"),
    Preprocess(name="scale", resize=0, mean=(0.0,), std=(255.0,), channels="RGB"),
    Preprocess(name="centred", resize=0, mean=(127.5,), std=(128.0,), channels="RGB"),
    Preprocess(name="raw", resize=0, mean=(0.0,), std=(1.0,), channels="RGB"),
)

PRESET_SIDE = 224
"""The input side for which the presets state `resize`; other sides scale it in proportion."""

IMAGE_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")

PREPROCESS_KEY = "tvm_iovt.preprocess"
LABELS_KEY = "tvm_iovt.labels"

_CHANNEL_COUNT = {"RGB": 3, "BGR": 3, "L": 1}


def preset(name: str) -> Preprocess:
    """The preprocessing of that name.

    Raises:
        UsageError: There is no such preset.
    """
    for candidate in PRESETS:
        if candidate.name == name:
            return candidate
    raise UsageError(
        f"There is no preprocessing preset {name!r}",
        do=f"use one of: {', '.join(p.name for p in PRESETS)}",
    )


def load_image(path: Path, preprocess: Preprocess, spec: TensorSpec) -> Array:
    """Reads an image file as one network input.

    The short side is resized to `preprocess.resize` (bilinear, antialiased) and the centre is
    cropped to the input size; `resize == 0` stretches the whole image to the input size. A preset's
    `resize` holds for inputs of 224 pixels and is scaled for other sizes (256 becomes 183 for an
    input of 160); a `custom` one is taken as it is.

    Args:
        path: The image file, of any format that Pillow reads.
        preprocess: The recipe.
        spec: The input: `[1, C, H, W]`, `[1, H, W, C]`, or the same without the batch axis. C is
            3 for `RGB` and `BGR`, 1 for `L`.

    Returns:
        An array of exactly `spec.shape` and `spec.dtype`.

    Raises:
        UsageError: The file is missing or not an image, the input is not an image of that many
            channels, or its dtype cannot hold what the recipe computes.
    """
    _image_axes(spec, preprocess)  # before the file is read, which is not to blame then
    _check_dtype(spec, preprocess)
    return image_input(_open(path), preprocess, spec)


def image_input(image: Image.Image, preprocess: Preprocess, spec: TensorSpec) -> Array:
    """Makes one network input of a decoded image, see `load_image`.

    Args:
        image: Of any size and mode.
        preprocess: The recipe.
        spec: The input.

    Raises:
        UsageError: The input is not an image of that many channels, or its dtype cannot hold what
            the recipe computes.
    """
    channel_axis, height, width = _image_axes(spec, preprocess)
    _check_dtype(spec, preprocess)
    image = image.convert("L" if preprocess.channels == "L" else "RGB")
    resize = preprocess.resize
    if resize and preprocess in PRESETS:
        resize = round(resize * max(height, width) / PRESET_SIDE)
    if resize and resize < max(height, width):
        raise UsageError(
            f"The image is cropped to {height}x{width} after its short side is resized to {resize}",
            do=f"use a resize of at least {max(height, width)}, or 0 to stretch the image",
        )
    pixels = _resize_and_crop(image, resize, height, width)
    if preprocess.channels == "BGR":
        pixels = pixels[:, :, ::-1]
    mean, std = (np.array(v, dtype=np.float32) for v in (preprocess.mean, preprocess.std))
    values = (pixels - mean) / std
    if channel_axis == 0:
        values = values.transpose(2, 0, 1)
    return np.ascontiguousarray(values.reshape(spec.shape), dtype=spec.dtype)


def image_files(folder: Path) -> tuple[Path, ...]:
    """The image files below a folder, by extension, sorted by path; hidden files are left out.

    Raises:
        UsageError: The folder does not exist or holds no image.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder} is not a folder")
    found = tuple(
        sorted(
            path
            for path in folder.rglob("*")
            if path.suffix.lower() in IMAGE_SUFFIXES
            and path.is_file()
            and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        )
    )
    if not found:
        raise UsageError(
            f"There is no image below {folder}",
            do=f"known extensions: {' '.join(IMAGE_SUFFIXES)}",
        )
    return found


def load_npz(path: Path, inputs: tuple[TensorSpec, ...]) -> dict[str, Array]:
    """Reads the network's inputs from an `.npz` archive.

    Arrays are matched by name; further arrays are ignored, so an archive may hold expected outputs
    too. The array of a one-array archive goes to a one-input network whatever its name. A missing
    batch axis of 1 is added, and dtypes of the same kind are converted (float64 to float32).

    Raises:
        UsageError: The file is missing or not an archive, an input is not in it, or an array has
            the wrong shape or dtype.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise UsageError(
                    f"{path} is not an .npz archive", seen="a single array", do="name it .npy"
                )
            if len(inputs) == 1 and len(archive.files) == 1:
                return {inputs[0].name: _fit(archive[archive.files[0]], inputs[0], path)}
            missing = [spec.name for spec in inputs if spec.name not in archive.files]
            if missing:
                raise UsageError(
                    f"{path} lacks the input {', '.join(missing)}",
                    seen=f"arrays {', '.join(archive.files) or '(none)'}",
                    do="numpy.savez(path, **{input name: array})",
                )
            return {spec.name: _fit(archive[spec.name], spec, path) for spec in inputs}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise UsageError(f"Cannot read {path} as .npz", seen=str(error)) from error


def load_inputs(
    path: Path, inputs: tuple[TensorSpec, ...], preprocess: Preprocess | None
) -> dict[str, Array]:
    """Reads the network's inputs from an `.npz`, `.npy` or image file, by its extension.

    Args:
        path: The file.
        inputs: The inputs of the network; an image or `.npy` needs exactly one.
        preprocess: The recipe for images; without one, an image is refused rather than guessed.

    Raises:
        UsageError: The file cannot be read or does not fit.
    """
    suffix = path.suffix.lower()
    if suffix == ".npz":
        return load_npz(path, inputs)
    if suffix != ".npy" and suffix not in IMAGE_SUFFIXES:
        raise UsageError(
            f"{path} is not a file of inputs",
            seen=f"extension {path.suffix or '(none)'}",
            do=f"give .npz, .npy or an image ({' '.join(IMAGE_SUFFIXES)})",
        )
    if len(inputs) != 1:
        raise UsageError(
            f"{path} holds one input",
            seen=f"a network with {len(inputs)}: {', '.join(map(str, inputs))}",
            do="give an .npz with one array for each input name",
        )
    if suffix == ".npy":
        try:
            return {inputs[0].name: _fit(np.load(path, allow_pickle=False), inputs[0], path)}
        except (OSError, ValueError, EOFError) as error:
            raise UsageError(f"Cannot read {path} as .npy", seen=str(error)) from error
    if preprocess is None:
        raise UsageError(
            f"It is not known how {path.name} becomes the input {inputs[0]}",
            seen="a model without preprocessing in its metadata",
            do=f"name a preprocessing: {', '.join(p.name for p in PRESETS)}",
        )
    return {inputs[0].name: load_image(path, preprocess, inputs[0])}


def read_metadata(model: Any) -> tuple[Preprocess | None, tuple[str, ...]]:
    """The preprocessing and the class names in an `onnx.ModelProto`; `(None, ())` if it has none.

    Raises:
        ModelError: The entries are there but not what `write_metadata` writes.
    """
    entries = {entry.key: entry.value for entry in model.metadata_props}
    preprocess = None
    labels: tuple[str, ...] = ()
    try:
        if PREPROCESS_KEY in entries:
            preprocess = from_json(Preprocess, json.loads(entries[PREPROCESS_KEY]))
            _validate(preprocess)
        if LABELS_KEY in entries:
            names = json.loads(entries[LABELS_KEY])
            if not isinstance(names, list) or not all(isinstance(n, str) for n in names):
                raise IovtError(f"{LABELS_KEY} should be a list of strings")
            labels = tuple(names)
    except (IovtError, ValueError) as error:
        raise ModelError(
            "The model's image metadata is malformed",
            seen=str(error),
            do=f"remove or rewrite the metadata_props {PREPROCESS_KEY} and {LABELS_KEY}",
        ) from error
    return preprocess, labels


def write_metadata(model: Any, preprocess: Preprocess | None, labels: tuple[str, ...] = ()) -> None:
    """Sets the preprocessing and the class names of an `onnx.ModelProto`, in place."""
    kept = [e for e in model.metadata_props if e.key not in (PREPROCESS_KEY, LABELS_KEY)]
    entries = [(entry.key, entry.value) for entry in kept]
    if preprocess is not None:
        entries.append((PREPROCESS_KEY, json.dumps(to_json(preprocess))))
    if labels:
        entries.append((LABELS_KEY, json.dumps(labels, ensure_ascii=False)))
    del model.metadata_props[:]
    for key, value in entries:
        model.metadata_props.add(key=key, value=value)


def _validate(preprocess: Preprocess) -> None:
    if preprocess.channels not in _CHANNEL_COUNT:
        raise UsageError(
            f"Preprocessing {preprocess.name} has channels {preprocess.channels!r}",
            do=f"use one of: {', '.join(_CHANNEL_COUNT)}",
        )
    count = _CHANNEL_COUNT[preprocess.channels]
    if preprocess.resize < 0:
        raise UsageError(f"Preprocessing {preprocess.name} has a negative resize")
    for field, values in (("mean", preprocess.mean), ("std", preprocess.std)):
        if len(values) not in (1, count):
            raise UsageError(
                f"Preprocessing {preprocess.name} has {len(values)} values for {field}",
                do=f"give one, or one for each of the {count} channels",
            )
    if 0.0 in preprocess.std:
        raise UsageError(f"Preprocessing {preprocess.name} divides by a std of 0")


def _image_axes(spec: TensorSpec, preprocess: Preprocess) -> tuple[int, int, int]:
    """Channel axis (0 or 2 of the batch-free shape), height and width of an image input."""
    _validate(preprocess)
    count = _CHANNEL_COUNT[preprocess.channels]
    shape = spec.shape
    if len(shape) == 4:
        if shape[0] != 1:
            raise UsageError(
                "Images are run one at a time",
                seen=f"input {spec}",
                do="fix the batch size of the input to 1",
            )
        shape = shape[1:]
    if len(shape) == 3:
        if shape[0] == count:
            return 0, shape[1], shape[2]
        if shape[2] == count:
            return 2, shape[0], shape[1]
    raise UsageError(
        f"The input does not take an image of {count} channel{'s' if count > 1 else ''}",
        seen=f"input {spec}, preprocessing {preprocess.name} ({preprocess.channels})",
        do=f"use another preprocessing ({', '.join(p.name for p in PRESETS)}), or give an .npz",
    )


def _check_dtype(spec: TensorSpec, preprocess: Preprocess) -> None:
    """Integer inputs are fine as long as every pixel value stays a distinct integer in range."""
    dtype = np.dtype(spec.dtype)
    if dtype.kind == "f":
        return
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        steps_of_one = all(std == 1.0 for std in preprocess.std)
        whole = all(float(mean).is_integer() for mean in preprocess.mean)
        in_range = all(limits.min <= -mean and 255 - mean <= limits.max for mean in preprocess.mean)
        if steps_of_one and whole and in_range:
            return
    raise UsageError(
        f"The input's {spec.dtype} cannot hold what preprocessing {preprocess.name} computes",
        seen=f"input {spec}",
        do="use the preprocessing raw for integer inputs, or give an .npz",
    )


def _open(path: Path) -> Image.Image:
    # Pillow costs more to import than the rest of this module, and arrays do not need it.
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as file:
            file.load()
            image: Image.Image = file
            return image
    except FileNotFoundError as error:
        raise UsageError(f"There is no image {path}") from error
    except UnidentifiedImageError as error:
        raise UsageError(f"{path} is not an image", do="give a JPEG, PNG or similar") from error
    # Pillow's decoders raise these on truncated or broken files.
    except (OSError, ValueError, SyntaxError, MemoryError, Image.DecompressionBombError) as error:
        seen = str(error) or type(error).__name__
        raise UsageError(f"Cannot read the image {path}", seen=seen) from error


def _resize_and_crop(
    image: Image.Image, resize: int, height: int, width: int
) -> npt.NDArray[np.float32]:
    """Pixels 0..255 as float32 `[height, width, channels]`."""
    from PIL import Image

    bilinear = Image.Resampling.BILINEAR
    if resize:
        short = min(image.size)
        resized_width, resized_height = (round(side * resize / short) for side in image.size)
        left, top = (resized_width - width) // 2, (resized_height - height) // 2
        image = image.resize((resized_width, resized_height), bilinear)
        image = image.crop((left, top, left + width, top + height))
    elif image.size != (width, height):
        image = image.resize((width, height), bilinear)
    return np.asarray(image, dtype=np.float32).reshape(height, width, -1)


def _fit(array: Array, spec: TensorSpec, path: Path) -> Array:
    if spec.shape[:1] == (1,) and array.shape == spec.shape[1:]:
        array = array[np.newaxis]
    if array.shape != spec.shape:
        raise UsageError(
            f"An array of {path} has the wrong shape for the input {spec}",
            seen="x".join(map(str, array.shape)) or "scalar",
        )
    if not np.can_cast(array.dtype, spec.dtype, casting="same_kind"):
        raise UsageError(
            f"An array of {path} has the wrong dtype for the input {spec}", seen=str(array.dtype)
        )
    return np.ascontiguousarray(array, dtype=spec.dtype)
