import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

from tvm_iovt.errors import ModelError, UsageError
from tvm_iovt.images import (
    LABELS_KEY,
    PREPROCESS_KEY,
    PRESETS,
    image_files,
    load_image,
    load_inputs,
    load_npz,
    preset,
    read_metadata,
    write_metadata,
)
from tvm_iovt.types import Preprocess, TensorSpec


def _spec(*shape: int, dtype: str = "float32") -> TensorSpec:
    return TensorSpec(name="input", shape=shape, dtype=dtype)


def _save(path: Path, pixels: np.ndarray) -> Path:
    Image.fromarray(pixels).save(path)
    return path


def _solid(path: Path, rgb: tuple[int, int, int], width: int = 300, height: int = 260) -> Path:
    return _save(path, np.full((height, width, 3), rgb, dtype=np.uint8))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("imagenet", [(255 * v - m) / s for v, m, s in
                      zip((1, 0, 0.2), (123.675, 116.28, 103.53), (58.395, 57.12, 57.375),
                          strict=True)]),
        ("efficientnet-lite", [1.0, -127 / 128, (51 - 127) / 128]),
        ("scale", [1.0, 0.0, 0.2]),
        ("centred", [127.5 / 128, -127.5 / 128, (51 - 127.5) / 128]),
        ("raw", [255, 0, 51]),
    ],
)  # fmt: skip
def test_preset_values_of_a_solid_image(tmp_path, name, expected):
    path = _solid(tmp_path / "a.png", (255, 0, 51))
    array = load_image(path, preset(name), _spec(1, 3, 224, 224))
    assert array.shape == (1, 3, 224, 224)
    assert array.dtype == np.float32
    assert array.flags.c_contiguous
    np.testing.assert_allclose(array[0, :, 100, 100], expected, rtol=1e-6)
    np.testing.assert_array_equal(array, np.broadcast_to(array[:, :, :1, :1], array.shape))


def test_unknown_preset_names_the_known_ones():
    with pytest.raises(UsageError, match="efficientnet-lite") as info:
        preset("imagnet")
    assert all(p.name in info.value.do for p in PRESETS)


def test_nhwc_is_the_transpose_of_nchw(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8)
    path = _save(tmp_path / "a.png", pixels)
    nchw = load_image(path, preset("imagenet"), _spec(1, 3, 224, 224))
    nhwc = load_image(path, preset("imagenet"), _spec(1, 224, 224, 3))
    chw = load_image(path, preset("imagenet"), _spec(3, 224, 224))
    np.testing.assert_array_equal(nhwc.transpose(0, 3, 1, 2), nchw)
    np.testing.assert_array_equal(chw, nchw[0])


def test_crop_takes_the_centre(tmp_path):
    pixels = np.zeros((256, 512, 3), dtype=np.uint8)
    pixels[16:240, 144:368] = 200  # exactly the centre 224x224
    path = _save(tmp_path / "a.png", pixels)
    array = load_image(path, preset("raw"), _spec(1, 3, 256, 512))
    assert array.min() == 0
    literal = Preprocess(name="custom", resize=256, mean=(0.0,), std=(1.0,), channels="RGB")
    cropped = load_image(path, literal, _spec(1, 3, 224, 224))
    np.testing.assert_array_equal(cropped, np.full((1, 3, 224, 224), 200, np.float32))


@pytest.mark.parametrize(("side", "resized"), [(160, 183), (224, 256), (320, 366)])
def test_preset_resize_scales_with_the_input(tmp_path, side, resized):
    pixels = np.random.default_rng(1).integers(0, 256, (400, 500, 3), dtype=np.uint8)
    path = _save(tmp_path / "a.png", pixels)
    by_preset = load_image(path, preset("imagenet"), _spec(1, 3, side, side))
    recipe = preset("imagenet")
    literal = Preprocess(
        name="custom", resize=resized, mean=recipe.mean, std=recipe.std, channels="RGB"
    )
    np.testing.assert_array_equal(load_image(path, literal, _spec(1, 3, side, side)), by_preset)


def test_custom_resize_smaller_than_the_crop_is_refused(tmp_path):
    path = _solid(tmp_path / "a.png", (1, 2, 3))
    recipe = Preprocess(name="custom", resize=200, mean=(0.0,), std=(1.0,), channels="RGB")
    with pytest.raises(UsageError, match="at least 224"):
        load_image(path, recipe, _spec(1, 3, 224, 224))


def test_small_images_are_enlarged(tmp_path):
    path = _solid(tmp_path / "a.png", (9, 9, 9), width=20, height=31)
    array = load_image(path, preset("imagenet"), _spec(1, 3, 224, 224))
    assert array.shape == (1, 3, 224, 224)


def test_bgr_and_grey(tmp_path):
    path = _solid(tmp_path / "a.png", (255, 0, 51))
    bgr = Preprocess(name="custom", resize=0, mean=(0.0,), std=(1.0,), channels="BGR")
    assert load_image(path, bgr, _spec(1, 3, 8, 8))[0, :, 0, 0].tolist() == [51, 0, 255]
    grey = load_image(path, preset("digits"), _spec(1, 1, 28, 28))
    assert grey.shape == (1, 1, 28, 28)
    assert 0 < grey.min() == grey.max() < 1


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK", "1"])
def test_every_image_mode_becomes_rgb(tmp_path, mode):
    path = tmp_path / "a.tif"
    Image.new("RGB", (40, 40), (255, 255, 255)).convert(mode).save(path)
    array = load_image(path, preset("raw"), _spec(1, 3, 8, 8))
    np.testing.assert_array_equal(array, np.full((1, 3, 8, 8), 255, np.float32))


def test_integer_inputs_take_raw_pixels_only(tmp_path):
    path = _solid(tmp_path / "a.png", (255, 0, 51))
    spec = _spec(1, 8, 8, 3, dtype="uint8")
    array = load_image(path, preset("raw"), spec)
    assert array.dtype == np.uint8
    assert array[0, 0, 0].tolist() == [255, 0, 51]
    for name in ("scale", "imagenet"):
        with pytest.raises(UsageError, match="cannot hold"):
            load_image(path, preset(name), spec)
    with pytest.raises(UsageError, match="cannot hold"):
        load_image(path, preset("raw"), _spec(1, 8, 8, 3, dtype="int8"))
    shifted = Preprocess(name="custom", resize=0, mean=(128.0,), std=(1.0,), channels="RGB")
    signed = load_image(path, shifted, _spec(1, 8, 8, 3, dtype="int8"))
    assert signed[0, 0, 0].tolist() == [127, -128, -77]


@pytest.mark.parametrize("shape", [(1, 10), (1, 4, 8, 8), (1, 1, 8, 8), (3,), (1, 1, 3, 8, 8)])
def test_inputs_that_are_no_colour_image_are_refused(tmp_path, shape):
    path = _solid(tmp_path / "a.png", (1, 2, 3))
    with pytest.raises(UsageError, match="3 channels"):
        load_image(path, preset("scale"), _spec(*shape))


def test_batches_are_refused(tmp_path):
    with pytest.raises(UsageError, match="one at a time"):
        load_image(_solid(tmp_path / "a.png", (1, 2, 3)), preset("scale"), _spec(4, 3, 8, 8))


@pytest.mark.parametrize("content", [b"", b"not an image", None])
def test_broken_image_names_the_file(tmp_path, content):
    path = tmp_path / "broken.png"
    if content is None:  # a real image that ends early
        whole = _solid(tmp_path / "whole.png", (1, 2, 3)).read_bytes()
        content = whole[: len(whole) // 2]
    path.write_bytes(content)
    with pytest.raises(UsageError, match=r"broken\.png"):
        load_image(path, preset("scale"), _spec(1, 3, 8, 8))


def test_missing_image_and_folder_in_place_of_an_image(tmp_path):
    with pytest.raises(UsageError, match=r"gone\.png"):
        load_image(tmp_path / "gone.png", preset("scale"), _spec(1, 3, 8, 8))
    with pytest.raises(UsageError, match="Cannot read"):
        load_image(tmp_path, preset("scale"), _spec(1, 3, 8, 8))


def test_image_files_are_sorted_recursive_and_not_hidden(tmp_path):
    for name in ("b.PNG", "a/c.jpg", "a/b.txt", ".hidden/d.jpg", "._e.jpg"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"")
    found = image_files(tmp_path)
    assert [p.relative_to(tmp_path).as_posix() for p in found] == ["a/c.jpg", "b.PNG"]
    with pytest.raises(UsageError, match="no image"):
        image_files(_empty(tmp_path))
    with pytest.raises(UsageError, match="not a folder"):
        image_files(tmp_path / "gone")


def _empty(tmp_path: Path) -> Path:
    folder = tmp_path / "empty"
    folder.mkdir()
    return folder


def test_npz_by_name_with_extra_arrays(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, input=np.ones((1, 2)), mask=np.ones((3,), np.int32), expected=np.ones(9))
    specs = (_spec(1, 2), TensorSpec(name="mask", shape=(1, 3), dtype="int64"))
    arrays = load_npz(path, specs)
    assert {name: (a.shape, str(a.dtype)) for name, a in arrays.items()} == {
        "input": ((1, 2), "float32"),
        "mask": ((1, 3), "int64"),  # the batch axis was added
    }


def test_single_npz_array_needs_no_name(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, np.ones((1, 2), np.float32))
    assert list(load_npz(path, (_spec(1, 2),))) == ["input"]


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"other": np.ones((1, 2)), "more": np.ones(1)}, "lacks the input input"),
        ({"input": np.ones((2, 2))}, "wrong shape"),
        ({"input": np.ones((1, 2), np.complex64)}, "wrong dtype"),
        ({"input": np.array([["a", "b"]])}, "wrong dtype"),
        ({"input": np.array([[None, None]], dtype=object)}, "Cannot read"),
    ],
)
def test_npz_that_does_not_fit(tmp_path, arrays, message):
    path = tmp_path / "a.npz"
    np.savez(path, **arrays)
    with pytest.raises(UsageError, match=message):
        load_npz(path, (_spec(1, 2),))


def test_fractions_do_not_become_integers_silently(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, input=np.full((1, 2), 0.5))
    with pytest.raises(UsageError, match="wrong dtype"):
        load_npz(path, (_spec(1, 2, dtype="uint8"),))


@pytest.mark.parametrize("content", [None, b"", b"PK\x03\x04 truncated", b"text"])
def test_broken_npz(tmp_path, content):
    path = tmp_path / "a.npz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError, match=r"a\.npz"):
        load_npz(path, (_spec(1, 2),))


def test_load_inputs_goes_by_extension(tmp_path):
    spec = _spec(1, 3, 8, 8)
    array = np.zeros((1, 3, 8, 8), np.float32)
    np.save(tmp_path / "a.npy", array)
    np.savez(tmp_path / "a.npz", input=array)
    _solid(tmp_path / "a.png", (0, 0, 0))
    for name in ("a.npy", "a.npz", "a.png"):
        loaded = load_inputs(tmp_path / name, (spec,), preset("scale"))
        np.testing.assert_array_equal(loaded["input"], array)


def test_load_inputs_refuses(tmp_path):
    spec = _spec(1, 3, 8, 8)
    (tmp_path / "a.npy").write_bytes(b"x")
    with pytest.raises(UsageError, match="Cannot read"):
        load_inputs(tmp_path / "a.npy", (spec,), None)
    with pytest.raises(UsageError, match="extension"):
        load_inputs(tmp_path / "a.bin", (spec,), None)
    with pytest.raises(UsageError, match="name a preprocessing"):
        load_inputs(_solid(tmp_path / "a.png", (0, 0, 0)), (spec,), None)
    with pytest.raises(UsageError, match="with 2"):
        load_inputs(tmp_path / "a.png", (spec, _spec(1, 2)), preset("scale"))


def _model() -> onnx.ModelProto:
    value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    result = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])
    node = onnx.helper.make_node("Relu", ["x"], ["y"])
    return onnx.helper.make_model(onnx.helper.make_graph([node], "g", [value], [result]))


@pytest.mark.parametrize("recipe", [*PRESETS, None])
@pytest.mark.parametrize("labels", [(), ("cat", "çhien")])
def test_metadata_round_trip(recipe, labels):
    model = _model()
    model.metadata_props.add(key="author", value="someone")
    write_metadata(model, preset("raw"), ("old",))
    write_metadata(model, recipe, labels)
    again = onnx.load_from_string(model.SerializeToString())
    assert read_metadata(again) == (recipe, labels)
    assert ("author", "someone") in [(e.key, e.value) for e in again.metadata_props]


def test_model_without_metadata():
    assert read_metadata(_model()) == (None, ())


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (PREPROCESS_KEY, "not json"),
        (PREPROCESS_KEY, '{"name": "x"}'),
        (
            PREPROCESS_KEY,
            json.dumps({"name": "x", "resize": 0, "mean": [0], "std": [0], "channels": "RGB"}),
        ),
        (
            PREPROCESS_KEY,
            json.dumps({"name": "x", "resize": 0, "mean": [0, 1], "std": [1], "channels": "RGB"}),
        ),
        (
            PREPROCESS_KEY,
            json.dumps({"name": "x", "resize": 0, "mean": [0], "std": [1], "channels": "YUV"}),
        ),
        (LABELS_KEY, '{"0": "cat"}'),
        (LABELS_KEY, "[1, 2]"),
    ],
)
def test_malformed_metadata_is_a_model_error(key, value):
    model = _model()
    model.metadata_props.add(key=key, value=value)
    with pytest.raises(ModelError, match="malformed"):
        read_metadata(model)
