"""Every kind of frames, and what is said of those that cannot be read."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tvm_iovt.errors import UsageError
from tvm_iovt.frames import FrameSource, open_frames
from tvm_iovt.frames.video import INSTALL
from tvm_iovt.images import load_image, preset
from tvm_iovt.types import TensorSpec

IMAGE = TensorSpec(name="image", shape=(1, 3, 24, 32), dtype="float32")
VECTOR = TensorSpec(name="vector", shape=(1, 5), dtype="float32")
SCALE = preset("scale")


def opened(source: object, *inputs: TensorSpec, preprocess: Any = SCALE) -> FrameSource:
    return open_frames(str(source), inputs or (IMAGE,), preprocess, {"image": np.ones(1)})


def picture(value: int) -> Image.Image:
    pixels = np.zeros((24, 32, 3), np.uint8)
    pixels[:, :, 0] = value
    pixels[:, :16, 2] = 255 - value
    return Image.fromarray(pixels)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    for index in (3, 1, 0, 2):
        picture(60 * index).save(tmp_path / f"{index}.png")
    (tmp_path / ".hidden.png").write_bytes(b"not for us")
    return tmp_path


def test_a_folder_of_images_in_its_order(pictures: Path) -> None:
    source = opened(pictures)
    assert source.count == 4
    for index, frame in enumerate(source):
        expected = load_image(pictures / f"{index}.png", SCALE, IMAGE)
        np.testing.assert_array_equal(frame["image"], expected)
        assert frame["image"][0, 0].mean() == pytest.approx(60 * index / 255)
    assert index == 3
    assert len(list(source)) == 4, "it can be read again"


def test_one_image_is_one_frame(pictures: Path) -> None:
    (frame,) = opened(pictures / "2.png")
    assert frame["image"].shape == IMAGE.shape


def test_images_are_read_when_they_are_asked_for(pictures: Path) -> None:
    frames = iter(opened(pictures))
    next(frames)
    picture(255).save(pictures / "1.png")
    assert next(frames)["image"][0, 0].mean() == 1


def test_a_broken_image_is_named_with_its_number(pictures: Path) -> None:
    content = (pictures / "2.png").read_bytes()
    (pictures / "2.png").write_bytes(content[: len(content) // 2])
    frames = iter(opened(pictures))
    assert len([next(frames), next(frames)]) == 2
    with pytest.raises(UsageError, match="Frame 2 of") as caught:
        next(frames)
    assert "2.png" in caught.value.seen


@pytest.mark.parametrize("batch", [(), (1,)])
def test_a_stream_of_arrays(tmp_path: Path, batch: tuple[int, ...]) -> None:
    stack = np.random.default_rng(0).standard_normal((6, *batch, 5))  # float64, which is converted
    np.savez(tmp_path / "frames.npz", vector=stack, other=np.ones(3))
    np.save(tmp_path / "frames.npy", stack)
    for name in ("frames.npz", "frames.npy"):
        source = opened(tmp_path / name, VECTOR)
        assert source.count == 6
        found = list(source)
        assert all(frame["vector"].shape == (1, 5) for frame in found)
        assert all(frame["vector"].dtype == np.float32 for frame in found)
        np.testing.assert_allclose(
            np.concatenate([frame["vector"] for frame in found]), stack.reshape(6, 5), rtol=1e-6
        )


def test_a_folder_of_streams_with_several_inputs(tmp_path: Path) -> None:
    scale = TensorSpec(name="scale", shape=(), dtype="float32")
    for part in range(3):
        numbers = np.arange(2 * part, 2 * part + 2, dtype=np.float32)
        vectors = np.repeat(numbers[:, None], 5, axis=1)
        np.savez(tmp_path / f"part-{part}.npz", vector=vectors, scale=numbers)
    source = opened(tmp_path, VECTOR, scale)
    assert source.count is None
    found = list(source)
    assert [float(frame["scale"]) for frame in found] == [0, 1, 2, 3, 4, 5]
    assert [float(frame["vector"][0, 3]) for frame in found] == [0, 1, 2, 3, 4, 5]
    (tmp_path / "part-1.npz").write_bytes(b"PK\x03\x04 broken")
    frames = iter(source)
    assert len([next(frames), next(frames)]) == 2
    with pytest.raises(UsageError, match="Frame 2 of") as caught:
        next(frames)
    assert "part-1.npz" in caught.value.seen


def test_the_sample_is_repeated() -> None:
    source = opened("sample:7")
    assert source.count == 7
    assert len(list(source)) == 7
    for wrong in ("sample:", "sample:0", "sample:-1", "sample:many"):
        with pytest.raises(UsageError, match="number of frames"):
            opened(wrong)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda folder: None, "neither images nor arrays"),
        (
            lambda folder: (picture(1).save(folder / "a.png"), np.save(folder / "b.npy", 1)),
            "both images and arrays",
        ),
    ],
)
def test_folders_that_are_not_clear(tmp_path: Path, make: Callable[[Path], Any], said: str) -> None:
    make(tmp_path)
    with pytest.raises(UsageError) as caught:
        opened(tmp_path)
    assert said in caught.value.seen


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"vector": np.ones((4, 6))}, "wrong shape"),
        ({"vector": np.array(["a"] * 5)}, "wrong dtype"),
        ({"x": np.ones(5), "y": np.ones(5)}, "lacks the input vector"),
        ({"vector": np.ones((0, 5))}, "same frames"),
    ],
)
def test_arrays_that_do_not_fit(tmp_path: Path, content: dict[str, Any], said: str) -> None:
    np.savez(tmp_path / "x.npz", **content)
    with pytest.raises(UsageError, match=said):
        opened(tmp_path / "x.npz", VECTOR)


def test_integers_that_would_wrap(tmp_path: Path) -> None:
    spec = TensorSpec(name="vector", shape=(1, 5), dtype="int8")
    np.savez(tmp_path / "a.npz", vector=np.full((3, 5), 100, np.int32))
    (first, *_) = open_frames(str(tmp_path / "a.npz"), (spec,), None, {})
    assert first["vector"].tolist() == [[100] * 5]
    np.savez(tmp_path / "b.npz", vector=np.full((3, 5), 200, np.int32))
    with pytest.raises(UsageError, match="do not fit the input") as caught:
        list(open_frames(str(tmp_path / "b.npz"), (spec,), None, {}))
    assert "200 to 200" in caught.value.seen


def test_inputs_of_different_length(tmp_path: Path) -> None:
    other = TensorSpec(name="other", shape=(1, 2), dtype="float32")
    np.savez(tmp_path / "x.npz", vector=np.ones((4, 5)), other=np.ones((3, 2)))
    with pytest.raises(UsageError, match="same frames") as caught:
        opened(tmp_path / "x.npz", VECTOR, other)
    assert "vector: 4 frames, other: 3 frames" in caught.value.seen


def test_pictures_need_a_recipe_and_one_input(pictures: Path) -> None:
    with pytest.raises(UsageError, match="not known how") as caught:
        opened(pictures, preprocess=None)
    assert "imagenet" in caught.value.do
    with pytest.raises(UsageError, match="one input"):
        opened(pictures, IMAGE, VECTOR)
    with pytest.raises(UsageError, match="no frames at"):
        opened("nothing.mp4")


# Videos ------------------------------------------------------------------------------------------

FRAMES = 40


@pytest.fixture(params=["avi", "mkv", "mp4"])
def clip(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A bar that moves to the right over a background that becomes red."""
    cv2 = pytest.importorskip("cv2", reason=f"decodes videos: {INSTALL}")
    path = tmp_path / f"clip.{request.param}"
    code = cv2.VideoWriter_fourcc(*("MJPG" if request.param == "avi" else "mp4v"))
    writer = cv2.VideoWriter(str(path), code, 25, (64, 48))
    if not writer.isOpened():
        pytest.skip(f"this OpenCV cannot write {request.param}")
    for index in range(FRAMES):
        pixels = np.zeros((48, 64, 3), np.uint8)
        pixels[..., 2] = 5 * index  # blue, green, red
        pixels[:, index : index + 8, 1] = 255
        writer.write(pixels)
    writer.release()
    yield path


def test_a_video_has_all_frames_in_order(clip: Path) -> None:
    source = opened(clip)
    assert source.count == FRAMES
    red, bar = [], []
    for frame in source:
        image = frame["image"][0]
        assert image.shape == (3, 24, 32)
        red.append(image[0, :, 28:].mean() * 255)
        bar.append(image[1].mean(axis=0).argmax())
    assert len(red) == FRAMES
    assert np.allclose(red, 5 * np.arange(FRAMES), atol=8)
    assert np.all(np.diff(bar) >= 0)
    assert bar[-1] > bar[0] + 15


def test_a_truncated_video_says_where_it_ends(clip: Path) -> None:
    content = clip.read_bytes()
    clip.write_bytes(content[: len(content) // 2])
    if clip.suffix == ".mp4":  # whose index is at its end
        with pytest.raises(UsageError, match="not a video"):
            opened(clip)
        return
    found = 0
    with pytest.raises(UsageError, match="is damaged: frame") as caught:
        for _ in opened(clip):
            found += 1
    assert 5 < found < FRAMES
    assert f"frame {found} does not come" in caught.value.what
    assert f"promises {FRAMES}" in caught.value.seen


@pytest.mark.parametrize("content", [b"", b"no video at all" * 100])
def test_a_file_that_is_no_video(tmp_path: Path, content: bytes, capfd: Any) -> None:
    pytest.importorskip("cv2", reason=f"decodes videos: {INSTALL}")
    path = tmp_path / "clip.mp4"
    path.write_bytes(content)
    with pytest.raises(UsageError, match="not a video") as caught:
        opened(path)
    assert f"{len(content)} bytes" in caught.value.seen


def test_without_opencv_the_command_is_named(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    (tmp_path / "clip.mp4").write_bytes(b"x")
    with pytest.raises(UsageError, match="Nothing here can decode") as caught:
        opened(tmp_path / "clip.mp4")
    assert INSTALL in caught.value.do
