"""Data sets as they lie on disk: for classification and for detection.

    from pathlib import Path
    from tvm_iovt import datasets

    train = datasets.read_labelled_images(Path("MNIST"), "train")
    train.images  # [60000, 28, 28, 1] uint8
    val = datasets.read_coco(Path("instances_val2017.json"), Path("val2017"))
    val.images[0].boxes  # [M, 4] float32

Files are not trusted: whatever is wrong with one ends in a `UsageError` that names it.
"""

from tvm_iovt.datasets.boxes import BoxedImage, BoxedImages
from tvm_iovt.datasets.cifar import read_cifar10, read_cifar100
from tvm_iovt.datasets.coco import read_coco
from tvm_iovt.datasets.image_folder import ImageFolder, open_image_folder, read_image_folder
from tvm_iovt.datasets.labelled_images import LabelledImages
from tvm_iovt.datasets.pixels import read_pixels
from tvm_iovt.datasets.read import read_labelled_images
from tvm_iovt.datasets.yolo import read_yolo

__all__ = [
    "BoxedImage",
    "BoxedImages",
    "ImageFolder",
    "LabelledImages",
    "open_image_folder",
    "read_cifar10",
    "read_cifar100",
    "read_coco",
    "read_image_folder",
    "read_labelled_images",
    "read_pixels",
    "read_yolo",
]
