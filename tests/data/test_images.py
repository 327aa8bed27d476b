"""Images from every kind of source, and bad input that is refused by file or row."""

import gzip
import struct

import numpy as np
import pytest
from PIL import Image

from jaxembed.data import Images, binarize_at, binarize_once, check_images, find_embedded
from jaxembed.data.images import read_digits, read_idx, read_images

NAMES = {3: "train-images-idx3-ubyte", 1: "train-labels-idx1-ubyte"}


def pixels(seed, *shape):
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)


def write_idx(folder, array, *, is_packed, name=None, cut=0):
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    content = (header + array.tobytes())[: -cut or None]
    name = (name or NAMES[array.ndim]) + (".gz" if is_packed else "")
    (folder / name).write_bytes(gzip.compress(content) if is_packed else content)


def write_pictures(folder, count, *, size=(4, 3), mode="L"):
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        shape = size if mode == "L" else (*size, 3)
        Image.fromarray(pixels(number, *shape)).save(folder / f"{number:04}.png")


def test_digits_are_split_without_overlap():
    train, test = read_images("digits"), read_images("digits", split="test")
    assert len(train) == 1437 and len(test) == 360 and train.images.shape[1:] == (8, 8)
    assert train.images.max() == 1 and set(train.labels) == set(range(10))
    assert train.fingerprint != test.fingerprint == read_digits("test").fingerprint
    assert list(find_embedded("digits", "images").versions()) == ["scikit-learn"]


@pytest.mark.parametrize("is_packed", [False, True])
def test_idx_files_are_read_as_written(tmp_path, is_packed):
    images, labels = pixels(0, 5, 4, 3), pixels(1, 5) % 10
    write_idx(tmp_path, images, is_packed=is_packed)
    write_idx(tmp_path, labels, is_packed=is_packed)
    found = read_images(tmp_path, size=(4, 3))
    np.testing.assert_array_equal(found.images, np.float32(images) / np.float32(255))
    np.testing.assert_array_equal(found.labels, labels)


def test_broken_idx_files_are_refused_by_name(tmp_path):
    write_idx(tmp_path, pixels(0, 5, 4, 3), is_packed=False, cut=1)
    with pytest.raises(ValueError, match="train-images.*60 bytes, but has 59"):
        read_images(tmp_path)
    packed = tmp_path / "packed.gz"
    packed.write_bytes(gzip.compress(b"\0\0\x08\x01" + b"\0" * 99)[:-12])
    with pytest.raises(ValueError, match="packed.gz is a damaged gzip"):
        read_idx(packed)
    (tmp_path / "text").write_text("no idx")
    with pytest.raises(ValueError, match="text is no idx file"):
        read_idx(tmp_path / "text")


def test_labels_where_images_are_wanted_are_refused(tmp_path):
    write_idx(tmp_path, pixels(0, 5), is_packed=False, name=NAMES[3])
    with pytest.raises(ValueError, match="file of the labels"):
        read_images(tmp_path)
    with pytest.raises(ValueError, match="look like labels"):
        check_images(np.zeros(5, np.float32))


def test_idx_labels_of_another_number_are_refused(tmp_path):
    write_idx(tmp_path, pixels(0, 5, 4, 3), is_packed=False)
    write_idx(tmp_path, pixels(1, 4), is_packed=False)
    with pytest.raises(ValueError, match=r"labels of shape \(4,\) for 5 images"):
        read_images(tmp_path)
    with pytest.raises(FileNotFoundError, match="t10k-images"):
        read_images(tmp_path, split="test")


def test_folder_of_files_has_labels_by_sub_folder(tmp_path):
    write_pictures(tmp_path / "train" / "cat", 2)
    write_pictures(tmp_path / "train" / "dog", 3)
    found = read_images(tmp_path)
    assert found.classes == ("cat", "dog") and found.labels.tolist() == [0, 0, 1, 1, 1]
    np.testing.assert_array_equal(found.images[1], np.float32(pixels(1, 4, 3)) / np.float32(255))
    with pytest.raises(FileNotFoundError, match="no part 'test'"):
        read_images(tmp_path, split="test")


def test_grey_files_join_coloured_ones(tmp_path):
    write_pictures(tmp_path / "a", 1)
    write_pictures(tmp_path / "b", 1, mode="RGB")
    images = read_images(tmp_path).images
    assert images.shape == (2, 4, 3, 3)
    np.testing.assert_array_equal(images[0, ..., 0], images[0, ..., 2])


def test_one_unreadable_image_is_refused_by_name_or_skipped_and_listed(tmp_path):
    write_pictures(tmp_path, 20)
    whole = (tmp_path / "0007.png").read_bytes()
    (tmp_path / "0007.png").write_bytes(whole[:-25])
    with pytest.raises(ValueError, match=r"0007\.png cannot be read"):
        read_images(tmp_path)
    found = read_images(tmp_path, unreadable="skip")
    assert len(found) == 19 and found.skipped == ("0007.png",)
    for file in tmp_path.iterdir():
        file.write_bytes(b"")
    with pytest.raises(ValueError, match="none of the 20 files"):
        read_images(tmp_path, unreadable="skip")


def test_wrong_sizes_and_empty_folders_are_refused(tmp_path):
    with pytest.raises(ValueError, match="has no files that end in"):
        read_images(tmp_path)
    write_pictures(tmp_path, 2)
    with pytest.raises(ValueError, match=r"0000\.png is 4 x 3 pixels, but 8 x 8"):
        read_images(tmp_path, size=(8, 8))
    Image.fromarray(pixels(0, 5, 3)).save(tmp_path / "0009.png")
    with pytest.raises(ValueError, match=r"0009\.png is 5 x 3 pixels, but 4 x 3"):
        read_images(tmp_path)
    with pytest.raises(ValueError, match=r"\(8, 8\), but \(28, 28\)"):
        read_images("digits", size=(28, 28))
    with pytest.raises(FileNotFoundError, match="no such folder"):
        read_images(tmp_path / "none")


@pytest.mark.parametrize("bad", [np.nan, -0.1, 1.5, np.inf])
def test_bad_pixels_are_refused_by_row(bad):
    images = np.full((4, 2, 2), 0.5, np.float32)
    images[2, 1, 0] = bad
    with pytest.raises(ValueError, match="row 2 of the images"):
        Images(images)
    with pytest.raises(ValueError, match="uint8: scale"):
        check_images(np.zeros((1, 2, 2), np.uint8))


def test_binarisation_is_a_threshold_or_drawn_once():
    images = np.full((200, 8, 8), 0.3, np.float32)
    images[0] = 0.5
    assert not binarize_at(images).any() and binarize_at(images, 0.4)[0].all()
    drawn = binarize_once(images, seed=1)
    np.testing.assert_array_equal(drawn, binarize_once(images, seed=1))
    # 12,736 draws: five standard errors are 0.02.
    assert drawn[1:].mean() == pytest.approx(0.3, abs=0.02)
    assert not binarize_once(np.zeros_like(images), seed=0).any()
