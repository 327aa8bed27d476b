import gzip
import struct

import numpy as np
import pytest
from PIL import Image

from jaxembed.data import ImageSet, load_images, read_objects

RNG = np.random.default_rng(0)
TRAIN, TEST = (RNG.integers(0, 256, (count, 4, 3), np.uint8) for count in (7, 3))


def idx(values):
    header = b"\0\0\x08" + bytes([values.ndim]) + struct.pack(f">{values.ndim}i", *values.shape)
    return header + values.astype(np.uint8).tobytes()


@pytest.fixture
def mnist(tmp_path):
    for name, images in {"train": TRAIN, "t10k": TEST}.items():
        (tmp_path / f"{name}-images-idx3-ubyte").write_bytes(idx(images))
        labels = gzip.compress(idx(np.arange(len(images)) % 10))
        (tmp_path / f"{name}-labels-idx1-ubyte.gz").write_bytes(labels)
    return tmp_path


def save_picture(path, values):
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(values).save(path)


def test_idx_files_come_as_they_were_written(mnist):
    train, test = load_images(ImageSet(str(mnist)))
    np.testing.assert_array_equal(train.pixels, TRAIN.astype(np.float32) / np.float32(255))
    np.testing.assert_array_equal(test.pixels, TEST.astype(np.float32) / np.float32(255))
    assert list(train.labels) == list(range(7)) and list(test.labels) == [0, 1, 2]


def test_digits_are_split_once_for_all():
    train, test = load_images(ImageSet())
    again, _ = load_images(ImageSet())
    assert (len(train), len(test)) == (1438, 359) and train.pixels.shape[1:] == (8, 8)
    assert train.fingerprint() == again.fingerprint() != test.fingerprint()
    rows = {pixels.tobytes() for pixels in train.pixels}
    # Two pairs of the 1,797 drawings are alike.
    assert sum(pixels.tobytes() in rows for pixels in test.pixels) <= 2
    assert set(np.unique(train.pixels)) <= {level / 16 for level in range(17)}


def test_pictures_come_in_order_with_their_folders_as_labels(tmp_path):
    for name, grey in {"b/1.png": 10, "a/2.png": 20, "a/1.png": 30}.items():
        save_picture(tmp_path / name, np.full((2, 5), grey, np.uint8))
    (tmp_path / "notes.txt").write_text("no picture")
    pixels = read_objects(ImageSet(), tmp_path)
    np.testing.assert_allclose(pixels[:, 0, 0] * 255, [30, 20, 10], rtol=1e-6)
    train, test = load_images(ImageSet(str(tmp_path), held_out=0.4))
    assert train.classes == test.classes == ("a", "b")
    found = {
        round(float(p[0, 0] * 255)): int(label)
        for part in (train, test)
        for p, label in zip(part.pixels, part.labels, strict=True)
    }
    assert found == {30: 0, 20: 0, 10: 1}
    scaled = read_objects(ImageSet(size=4, channels=3), tmp_path / "a/1.png")
    assert scaled.shape == (1, 4, 4, 3)


def test_binarization_follows_the_intensities(tmp_path):
    grey = np.tile(np.float32([0.0, 0.2, 0.5, 0.8, 1.0]), (4000, 1, 1))
    np.save(tmp_path / "grey.npy", grey)
    source = str(tmp_path / "grey.npy")
    sharp, _ = load_images(ImageSet(source, binarization="threshold"))
    np.testing.assert_array_equal(sharp.pixels[0, 0], [0, 0, 1, 1, 1])
    drawn, test = load_images(ImageSet(source, binarization="static"))
    assert set(np.unique(drawn.pixels)) == {0.0, 1.0}
    shares = drawn.pixels.mean(axis=(0, 1))
    error = np.sqrt(grey[0, 0] * (1 - grey[0, 0]) / len(drawn))
    assert (np.abs(shares - grey[0, 0]) <= 4 * error).all()
    again, _ = load_images(ImageSet(source, binarization="static"))
    assert again.fingerprint() == drawn.fingerprint()
    train, same_test = load_images(ImageSet(source, binarization="dynamic"))
    np.testing.assert_array_equal(train.pixels[0], grey[0])
    assert same_test.fingerprint() == test.fingerprint()


def test_tfds_images_are_read(tmp_path, monkeypatch):
    class Source(list):
        pass

    def open_named(name):
        if name.endswith(":test"):
            raise KeyError(name)
        return Source([{"image": TRAIN[row][..., None], "label": row} for row in range(7)])

    monkeypatch.setattr("jaxembed.data.images.open_tfds", open_named)
    train, test = load_images(ImageSet("tfds:some", held_out=0.3))
    assert (train.pixels.shape, test.pixels.shape) == ((5, 4, 3), (2, 4, 3))
    for pixels, label in zip(train.pixels, train.labels, strict=True):
        np.testing.assert_allclose(pixels * 255, TRAIN[label], rtol=1e-6)


def write_npy(folder, values):
    np.save(folder / "x.npy", values)
    return folder / "x.npy"


def with_value(value, shape=(3, 2, 2)):
    values = np.full(shape, 0.5)
    values[1] = value
    return values


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (with_value(np.nan), r"x\.npy: image 1 holds NaN or infinity: wanted bytes, or numbers"),
        (with_value(1.5), r"image 1 has values from 1\.5 to 1\.5: wanted bytes, or numbers from 0"),
        (with_value(-0.1), r"image 1 has values from -0\.1"),
        (with_value(np.inf, (3, 2)), "image 1 holds NaN or infinity: wanted finite numbers"),
        (np.arange(5), r"int64 of shape \(5,\): wanted images.*a list of labels is neither"),
        (np.array([["a"]]), "wanted images"),
        (np.zeros((0, 2, 2)), "wanted images"),
        (np.array([{}]), "is no .npy file of numbers"),
    ],
)
def test_wrong_arrays_are_refused_by_row(tmp_path, values, message):
    with pytest.raises(ValueError, match=message):
        load_images(ImageSet(str(write_npy(tmp_path, values))))


def test_labels_in_place_of_images_are_noticed(mnist):
    images = mnist / "train-images-idx3-ubyte"
    images.write_bytes(idx(np.arange(7)))
    with pytest.raises(ValueError, match="train-images.* holds labels, but images are wanted"):
        load_images(ImageSet(str(mnist)))
    images.write_bytes(idx(TRAIN)[:-1])
    with pytest.raises(ValueError, match="cut short"):
        load_images(ImageSet(str(mnist)))
    images.write_bytes(gzip.compress(idx(TRAIN))[:-9])
    with pytest.raises(ValueError, match="damaged"):
        load_images(ImageSet(str(mnist)))
    images.write_bytes(b"text")
    with pytest.raises(ValueError, match=r"no idx file of bytes: it begins with b'text'"):
        load_images(ImageSet(str(mnist)))
    images.write_bytes(idx(TRAIN[:5]))
    with pytest.raises(ValueError, match="7 labels for 5 images"):
        load_images(ImageSet(str(mnist)))


def test_a_damaged_picture_is_named_or_skipped(tmp_path, caplog):
    for number in range(4):
        save_picture(tmp_path / f"{number}.png", np.full((8, 8), number, np.uint8))
    whole = (tmp_path / "2.png").read_bytes()
    for damaged in (whole[:40], b"no picture"):
        (tmp_path / "2.png").write_bytes(damaged)
        with pytest.raises(ValueError, match=r"2\.png cannot be read.*data\.unreadable skip"):
            load_images(ImageSet(str(tmp_path)))
        caplog.clear()
        train, test = load_images(ImageSet(str(tmp_path), unreadable="skip"))
        assert len(train) + len(test) == 3
        assert "1 unreadable pictures skipped" in caplog.text and "2.png" in caplog.text


def test_a_picture_of_another_size_is_named(tmp_path):
    save_picture(tmp_path / "1.png", np.zeros((8, 8), np.uint8))
    save_picture(tmp_path / "2.png", np.zeros((8, 9), np.uint8))
    with pytest.raises(ValueError, match=r"2\.png is 9 x 8 pixels, but .*1\.png 8 x 8: set"):
        load_images(ImageSet(str(tmp_path)))


def test_what_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no file or folder.*digits is one"):
        load_images(ImageSet("digitz"))
    with pytest.raises(FileNotFoundError, match="no file or folder"):
        read_objects(ImageSet(), tmp_path / "nothing")
    with pytest.raises(ValueError, match="has no pictures"):
        load_images(ImageSet(str(tmp_path)))
    (tmp_path / "words.txt").write_text("x")
    with pytest.raises(ValueError, match=r"words\.txt is no \.npy file"):
        load_images(ImageSet(str(tmp_path / "words.txt")))
    with pytest.raises(ValueError, match="holds vectors, which binarization"):
        load_images(ImageSet(str(write_npy(tmp_path, np.ones((9, 2)))), binarization="static"))
    for wrong in ({"held_out": 1.0}, {"channels": 2}, {"size": 0}):
        with pytest.raises(ValueError, match=f"{next(iter(wrong))} is"):
            ImageSet(**wrong)
