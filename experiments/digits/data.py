"""Images of handwritten digits: those that come with scikit-learn, and MNIST from files that the user has.

    data = digits_images()            # 1797 images of 8 × 8 pixels, offline
    data = mnist_images("mnist")      # 70,000 images of 28 × 28 pixels, from four IDX files in a directory

Nothing is downloaded. The former are the test set of E. Alpaydin and C. Kaynak's Optical Recognition of Handwritten
Digits (UCI Machine Learning Repository, 1998, licence CC BY 4.0), which comes with scikit-learn.

IDX is the format of the MNIST files: two bytes 0, one byte 8 for unsigned bytes, one byte for
the number of dimensions, then each dimension as four bytes, the most significant first, then the numbers.
"""

import gzip
import hashlib
import math
import os
import sys
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

MNIST_MD5 = {
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}
"""The four files of MNIST and the MD5 sums of what is in them, unpacked, as secml's CDataLoaderMNIST lists them.

The sums hold however the files were packed: the gzip files of different mirrors need not be the same.
"""


class DataError(ValueError):
    """A file of images or labels is missing, damaged, or not the one expected."""


@dataclass(frozen=True)
class Images:
    """Images and labels to train with and to test with.

    Attributes:
        name: "digits", "mnist", or for another set "idx-" and a number computed from its content.
        train_images, test_images: (N, 1, height, width), float32. The training images have mean 0 and standard
            deviation 1, all pixels together; the test images are shifted and scaled by the same two numbers.
        train_labels, test_labels: (N,), int64, from 0 to 9.
    """

    name: str
    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor


def digits_images() -> Images:
    """Return scikit-learn's digits, a fifth of each class for testing; the split is always the same."""
    from sklearn.datasets import load_digits  # takes a second to import

    digits = load_digits()
    train, test = _stratified(digits.target)
    pixels = digits.images.astype(np.float32)
    return _scaled("digits", pixels[train], digits.target[train], pixels[test], digits.target[test])


def mnist_images(directory: str | os.PathLike) -> Images:
    """Return MNIST: 60,000 images for training, 10,000 for testing; or another set in the same four files.

    A set that is not MNIST, such as Fashion-MNIST or a part of it, is read all the same, but a message says so.

    Args:
        directory: holds the four files of `MNIST_MD5`, under these names or with a dot before "idx", packed by gzip or
            not; or has them in `MNIST/raw`, where torchvision puts them.

    Raises:
        DataError: a file is missing, damaged, or holds something else; the message says which and how.
    """
    directory = Path(directory)
    arrays, found = zip(*(_found(directory, name) for name in MNIST_MD5))
    for images, labels, name in ((*arrays[:2], "train"), (*arrays[2:], "t10k")):
        if images.ndim != 3 or labels.ndim != 1 or len(images) != len(labels):
            got = f"arrays of shape {images.shape} and {labels.shape}"
            raise DataError(f"{directory}: the {name} files must hold images and a label for each, got {got}")
        if labels.max(initial=0) > 9 or not len(labels):
            got = f"{len(labels)} labels up to {labels.max(initial=0)}"
            raise DataError(f"{directory}: the {name} file must hold labels from 0 to 9, got {got}")
    (height, width), others = arrays[0].shape[1:], arrays[2].shape[1:]
    if (height, width) != others or height // 4 != width // 4 or height < 4:  # the network halves them twice
        got = f"{height} by {width} and {others[0]} by {others[1]}"
        raise DataError(f"{directory}: images must be squares of one size, at least 4 by 4, got {got}")
    known = list(found) == list(MNIST_MD5.values())
    return _scaled("mnist" if known else f"idx-{hashlib.md5(''.join(found).encode()).hexdigest()[:8]}", *arrays)


def hold_out(data: Images) -> Images:
    """Return the same with a fifth of the training images in place of the test images, for choosing a recipe.

    Raises:
        DataError: a digit stands there only once, or there are too few images.
    """
    try:
        train, held_out = (torch.from_numpy(part) for part in _stratified(data.train_labels.numpy()))
    except ValueError as error:
        raise DataError(f"a fifth of its training images cannot be held out: {error}") from error
    images, labels = data.train_images, data.train_labels
    return Images(data.name, images[train], labels[train], images[held_out], labels[held_out])


def _found(directory: Path, name: str) -> tuple[np.ndarray, str]:
    names = [spelt + end for spelt in (name, name.replace("-idx", ".idx")) for end in ("", ".gz")]
    folders = directory, directory / "raw", directory / "MNIST" / "raw"
    path = next((path for folder in folders for path in map(folder.joinpath, names) if path.is_file()), None)
    if path is None:
        raise DataError(f"{directory} has no file {name} or {name}.gz: put the four files of MNIST there")
    content = _unpacked(path)
    array = _parse(content, path)
    found = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if found != MNIST_MD5[name]:
        what = f"the MD5 of its content is {found}, expected {MNIST_MD5[name]}"
        print(f"{path} is not MNIST's ({what}): it is used as it is", file=sys.stderr)
    return array, found


def _unpacked(path: Path) -> bytes:
    try:
        content = path.read_bytes()
        return gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path} is damaged or cut off: gzip cannot unpack it ({error})") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error


def _parse(content: bytes, path: Path) -> np.ndarray:
    if len(content) < 4 or content[:3] != b"\x00\x00\x08" or content[3] == 0:
        raise DataError(f"{path} is not an IDX file of bytes: it begins with {content[:4].hex(' ') or 'nothing'}")
    start = 4 + 4 * content[3]
    if len(content) < start or content[3] > 3:
        raise DataError(f"{path} is cut off within its header, or holds no images: it names {content[3]} dimensions")
    shape = tuple(np.frombuffer(content, ">u4", count=content[3], offset=4).tolist())
    if len(content) - start != math.prod(shape):
        raise DataError(
            f"{path} is cut off or too long: an array of shape {shape} takes {math.prod(shape)} bytes, there are "
            f"{len(content) - start}"
        )
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def _stratified(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    from sklearn.model_selection import train_test_split

    return train_test_split(np.arange(len(labels)), test_size=0.2, stratify=labels, random_state=0)


def _scaled(name: str, *arrays: np.ndarray) -> Images:
    train, train_labels, test, test_labels = (torch.from_numpy(array.copy()) for array in arrays)
    mean, std = train.double().mean().item(), train.double().std().item()
    if std == 0:
        raise DataError("all pixels of the training images have the same value")
    images = [((part.float() - mean) / std).unsqueeze(1) for part in (train, test)]  # (N, H, W) -> (N, 1, H, W)
    return Images(name, images[0], train_labels.long(), images[1], test_labels.long())
