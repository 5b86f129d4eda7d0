"""Images of digits: scikit-learn's own, and MNIST from IDX files that the tests write."""

import gzip
import hashlib

import numpy as np
import pytest
import torch

from experiments.digits.data import MNIST_MD5, DataError, digits_images, hold_out, mnist_images

SHAPES = [(30, 6, 5), (30,), (20, 6, 5), (20,)]


def idx(array):
    """The bytes of an IDX file, written down from the description of the format."""
    header = bytes([0, 0, 8, array.ndim]) + b"".join(size.to_bytes(4, "big") for size in array.shape)
    return header + array.astype(np.uint8).tobytes()


def write(directory, arrays):
    """Write arrays to the files of MNIST; return their checksums."""
    for name, array in zip(MNIST_MD5, arrays):
        (directory / name).write_bytes(idx(array))
    return {name: hashlib.md5((directory / name).read_bytes()).hexdigest() for name in MNIST_MD5}


@pytest.fixture
def mnist(tmp_path, monkeypatch):
    """A small data set in the files of MNIST, taken for MNIST: directory and arrays."""
    generator = np.random.default_rng(0)
    arrays = [generator.integers(0, 256 if len(shape) == 3 else 10, shape) for shape in SHAPES]
    monkeypatch.setattr("experiments.digits.data.MNIST_MD5", write(tmp_path, arrays))
    return tmp_path, arrays


def test_digits_are_split_by_class_and_always_alike():
    data = digits_images()
    assert data.train_images.shape == (1437, 1, 8, 8) and data.test_images.shape == (360, 1, 8, 8)
    for labels in (data.train_labels, data.test_labels):
        share = labels.bincount(minlength=10) / len(labels)
        # The classes hold 174 to 183 images, 9.7 % to 10.2 %; in each part up to one image more or less.
        assert share.min() > 0.094 and share.max() < 0.105
    assert torch.equal(data.test_labels, digits_images().test_labels)
    assert data.train_images.mean().abs() < 1e-5 and abs(data.train_images.std() - 1) < 1e-5
    # No image may stand in both parts. A few of the 1797 could be alike, but hardly any.
    train = {tuple(image.flatten().tolist()) for image in data.train_images}
    assert sum(tuple(image.flatten().tolist()) in train for image in data.test_images) == 0


def test_a_recipe_is_chosen_without_the_test_images():
    data = digits_images()
    part = hold_out(data)
    assert len(part.train_labels) == 1149 and len(part.test_labels) == 288
    train = {tuple(image.flatten().tolist()) for image in data.train_images}
    for images in (part.train_images, part.test_images):
        assert all(tuple(image.flatten().tolist()) in train for image in images)


def test_mnist_files(mnist):
    directory, arrays = mnist
    data = mnist_images(directory)
    assert data.train_images.shape == (30, 1, 6, 5) and data.test_images.shape == (20, 1, 6, 5)
    assert data.train_labels.tolist() == arrays[1].tolist() and data.test_labels.tolist() == arrays[3].tolist()
    mean, std = arrays[0].mean(), arrays[0].std(ddof=1)
    # Rounded to float32, at 6e-8 relative to values of about 2.
    np.testing.assert_allclose(data.test_images[:, 0].numpy(), (arrays[2] - mean) / std, atol=1e-6)
    assert (data.train_images.dtype, data.train_labels.dtype) == (torch.float32, torch.int64)


@pytest.mark.parametrize("level", [1, 9])
def test_packed_files_are_the_same(mnist, level):
    directory, _ = mnist
    expected = mnist_images(directory)
    for name in MNIST_MD5:
        path = directory / name
        (directory / f"{name}.gz").write_bytes(gzip.compress(path.read_bytes(), level))
        path.unlink()
    data = mnist_images(directory)
    assert torch.equal(data.train_images, expected.train_images) and torch.equal(data.test_labels, expected.test_labels)


def test_one_changed_byte_makes_another_set(mnist, capsys):
    directory, _ = mnist
    assert mnist_images(directory).name == "mnist" and capsys.readouterr().err == ""
    path = directory / "t10k-labels-idx1-ubyte"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert mnist_images(directory).name.startswith("idx-")
    assert "t10k-labels-idx1-ubyte is not MNIST's" in capsys.readouterr().err


def test_labels_that_are_no_digits_are_refused(mnist):
    directory, _ = mnist
    path = directory / "train-labels-idx1-ubyte"
    content = bytearray(path.read_bytes())
    content[-1] = 99
    path.write_bytes(content)
    with pytest.raises(DataError, match="the train file must hold labels from 0 to 9, got 30 labels up to 99"):
        mnist_images(directory)


@pytest.mark.parametrize("shape", [(1, 1), (3, 8), (4, 9)])
def test_images_that_the_network_cannot_take_are_refused(mnist, shape):
    directory, arrays = mnist
    write(directory, [np.zeros((len(array), *shape)) if array.ndim == 3 else array for array in arrays])
    with pytest.raises(DataError, match="squares of one size, at least 4 by 4"):
        mnist_images(directory)


@pytest.mark.parametrize("folder", [".", "raw", "MNIST/raw"])
def test_files_are_found_under_the_names_and_in_the_folders_that_are_in_use(mnist, tmp_path_factory, folder):
    directory, _ = mnist
    other = tmp_path_factory.mktemp("other")
    (other / folder).mkdir(parents=True, exist_ok=True)
    for name in MNIST_MD5:
        (other / folder / name.replace("-idx", ".idx")).write_bytes((directory / name).read_bytes())
    assert mnist_images(other).name == "mnist"


@pytest.mark.parametrize("name", MNIST_MD5)
def test_a_missing_file_is_named(mnist, name):
    directory, _ = mnist
    (directory / name).unlink()
    with pytest.raises(DataError, match=rf"has no file {name} or {name}\.gz"):
        mnist_images(directory)


def test_files_that_do_not_belong_together(mnist):
    directory, _ = mnist
    (directory / "train-labels-idx1-ubyte").write_bytes(idx(np.zeros(29)))
    with pytest.raises(DataError, match=r"a label for each, got arrays of shape \(30, 6, 5\) and \(29,\)"):
        mnist_images(directory)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda content: content[:-1], r"cut off or too long: an array of shape \(2, 3\) takes 6 bytes, there are 5"),
        (lambda content: content + b"x", r"takes 6 bytes, there are 7"),
        (lambda content: content[:9], "cut off within its header"),
        (lambda content: b"", "is not an IDX file of bytes: it begins with nothing"),
        (lambda content: b"\x00\x00\x0d" + content[3:], "is not an IDX file of bytes: it begins with 00 00 0d 02"),
        (lambda content: b"<!DOCTYPE html>", "is not an IDX file of bytes: it begins with 3c 21 44 4f"),
        (lambda content: gzip.compress(content)[:-3], "is damaged or cut off: gzip cannot unpack it"),
        (lambda content: gzip.compress(content)[:12] + b"\xff" * 9, "is damaged or cut off: gzip cannot unpack it"),
        (lambda content: gzip.compress(content)[:-8] + b"\x00" * 8, "is damaged or cut off: gzip cannot unpack it"),
    ],
    ids=range(9),
)
def test_a_damaged_file_says_how(mnist, change, words):
    path = mnist[0] / "train-images-idx3-ubyte"
    path.write_bytes(change(idx(np.arange(6).reshape(2, 3))))
    with pytest.raises(DataError, match=words) as caught:
        mnist_images(mnist[0])
    assert str(path) in str(caught.value)
