"""Images and vectors for training: embedded, in idx or .npy files, in folders, or from TFDS."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import importlib.metadata
import io
import logging
import os
import pathlib
import zlib
from typing import Literal

import numpy as np

from jaxembed.data.tfds_source import PREFIX, open_tfds

LOGGER = logging.getLogger("jaxembed")
PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp")
_IDX = {"train": ("train-images", "train-labels"), "test": ("t10k-images", "t10k-labels")}
_SPLIT_SEED = 0  # of what is held out, and of what is drawn once


@dataclasses.dataclass(frozen=True)
class ImageSet:
    """Images, or other vectors, to train on.

    Attributes:
        source: "digits" (embedded); PATH of a folder with the idx files of MNIST or Fashion-MNIST,
            of a folder of pictures (sub-folders are labels), or of a .npy file: uint8 or values
            from 0 to 1 of shape [n, height, width] or [n, height, width, channels], or any numbers
            of shape [n, dim]; or tfds:NAME.
        held_out: Share that is kept for testing where the source has no test set of its own.
        binarization: "threshold" makes a pixel 1 from .5 on; "static" draws it once, with its
            intensity as the chance of 1, and "dynamic" anew whenever it is trained on. A test set
            of "dynamic" is drawn once.
        size: Side of a square that pictures of a folder are scaled to; None wants them alike.
        channels: 1 makes the pictures of a folder grey, 3 keeps their colours.
        unreadable: Whether a damaged picture in a folder is refused, or skipped and counted.
    """

    source: str = "digits"
    held_out: float = 0.2
    binarization: Literal["none", "threshold", "static", "dynamic"] = "none"
    size: int | None = None
    channels: int = 1
    unreadable: Literal["refuse", "skip"] = "refuse"

    def __post_init__(self) -> None:
        if not 0 < self.held_out < 1:
            raise ValueError(f"held_out is {self.held_out}; give a share between 0 and 1.")
        if self.channels not in (1, 3):
            raise ValueError(f"channels is {self.channels}; give 1 (grey) or 3 (red, green, blue).")
        if self.size is not None and self.size < 1:
            raise ValueError(f"size is {self.size}; give 1 or more pixels.")


@dataclasses.dataclass(frozen=True)
class Images:
    """Images in memory.

    Attributes:
        pixels: float32 from 0 to 1, [n, height, width] or [n, height, width, channels]; for vectors
            any finite values, [n, dim].
        labels: int32 [n], or None.
        classes: Names of the labels, in order; empty where they have none.
    """

    pixels: np.ndarray
    labels: np.ndarray | None = None
    classes: tuple[str, ...] = ()

    def __len__(self) -> int:
        """The number of images."""
        return len(self.pixels)

    def take(self, rows: np.ndarray) -> Images:
        """The images of some rows."""
        labels = None if self.labels is None else self.labels[rows]
        return Images(self.pixels[rows], labels, self.classes)

    def fingerprint(self) -> str:
        """A hash of all pixels and labels."""
        digest = hashlib.sha256(repr((self.pixels.shape, self.classes)).encode())
        digest.update(np.ascontiguousarray(self.pixels))
        digest.update(b"" if self.labels is None else np.ascontiguousarray(self.labels))
        return digest.hexdigest()


def load_images(images: ImageSet) -> tuple[Images, Images]:
    """Reads what to train on and what to test on.

    Args:
        images: Which, and how.

    Returns:
        The training set, still grey where `binarization` is "dynamic", and the test set.

    Raises:
        FileNotFoundError: If `source` is neither a known name nor an existing path.
        ValueError: If something read is no image, of another size, or out of range; the message
            names the file or row.
        ModuleNotFoundError: If the package that holds the data is not installed.
    """
    train, test = _read(images)
    for part in (train, test):
        if part is not None:
            _check(part, images.source)
    if test is None:
        order = np.random.default_rng(_SPLIT_SEED).permutation(len(train))
        count = max(1, round(images.held_out * len(train)))
        if count >= len(train):
            raise ValueError(f"{images.source} has {len(train)} images: too few to hold some out.")
        train, test = train.take(order[count:]), train.take(order[:count])
    if images.binarization == "none":
        return train, test
    if train.pixels.ndim == 2:
        raise ValueError(
            f"{images.source} holds vectors, which binarization {images.binarization!r} is not for."
        )
    keeps_grey = images.binarization == "dynamic"
    return train if keeps_grey else _binarize(train, images, 1), _binarize(test, images, 2)


def read_objects(images: ImageSet, source: str | os.PathLike[str]) -> np.ndarray:
    """Reads objects to embed: a picture, a folder of them, or a .npy file.

    Args:
        images: How the run's own images were read.
        source: The path.

    Returns:
        float32 pixels or vectors, [n, ...], in the order of the rows or of the file names; of a
        dynamic binarization grey, which stands for its mean.

    Raises:
        FileNotFoundError: If there is nothing at the path.
        ValueError: As for `load_images`.
    """
    path = pathlib.Path(source)
    if path.is_file() and path.suffix.lower() in PICTURES:
        found = Images(np.stack([_read_picture(path, images)]))
    else:
        again = dataclasses.replace(images, source=f"{path}")
        if not path.exists():
            raise FileNotFoundError(f"there is no file or folder {path}.")
        found, _ = _read_path(again)
    _check(found, str(source))
    if images.binarization in ("threshold", "static") and found.pixels.ndim > 2:
        found = _binarize(found, images, 3)
    return found.pixels


def versions(source: str) -> dict[str, str]:
    """Versions of the packages that a source comes out of."""
    if source == "digits":
        return {"scikit-learn": importlib.metadata.version("scikit-learn")}
    if source.startswith(PREFIX):
        return {"tensorflow-datasets": importlib.metadata.version("tensorflow-datasets")}
    return {}


def _read(images: ImageSet) -> tuple[Images, Images | None]:
    if images.source == "digits":
        return read_digits(), None
    if images.source.startswith(PREFIX):
        return _read_tfds(images.source)
    if not pathlib.Path(images.source).exists():
        raise FileNotFoundError(
            f"there is no file or folder {images.source}, and no embedded set of images of that "
            "name: digits is one."
        )
    return _read_path(images)


def _read_path(images: ImageSet) -> tuple[Images, Images | None]:
    path = pathlib.Path(images.source)
    if path.is_file():
        return _read_npy(path), None
    if _find_idx(path, _IDX["train"][0]):
        return _read_idx(path, "train"), _read_idx(path, "test")
    return _read_folder(path, images), None


def read_digits() -> Images:
    """The 1,797 handwritten digits of scikit-learn, 8 x 8, labelled."""
    try:
        from sklearn.datasets import load_digits
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "the set `digits` comes with scikit-learn: pip install 'jaxembed[experiments]'."
        ) from error
    digits = load_digits()
    pixels = (digits.images / 16).astype(np.float32)
    return Images(pixels, digits.target.astype(np.int32), tuple("0123456789"))


def _read_tfds(name: str) -> tuple[Images, Images | None]:
    def read(named: str) -> Images:
        source = open_tfds(named)
        elements = [source[index] for index in range(len(source))]
        if not elements or "image" not in elements[0]:
            fields = sorted(elements[0]) if elements else []
            raise ValueError(f"{named} has no images: its features are {fields}.")
        shapes = {element["image"].shape for element in elements}
        if len(shapes) > 1:
            raise ValueError(f"{named} has images of {sorted(shapes)[:3]}: all must be alike.")
        pixels = _scale(np.stack([element["image"] for element in elements]))
        labels = None
        if "label" in elements[0]:
            labels = np.array([element["label"] for element in elements], np.int32)
        return Images(pixels[..., 0] if pixels.shape[-1] == 1 else pixels, labels)

    if name.count(":") > 1:  # a split is named, so the rest of the data are not asked for
        return read(name), None
    try:
        return read(f"{name}:train"), read(f"{name}:test")
    except KeyError:  # no test split
        return read(name), None


def _find_idx(folder: pathlib.Path, start: str) -> pathlib.Path | None:
    return next((path for path in sorted(folder.glob(f"{start}*")) if path.is_file()), None)


def _read_idx(folder: pathlib.Path, split: str) -> Images:
    """Images and labels in the format of MNIST."""
    image_path, label_path = (_find_idx(folder, start) for start in _IDX[split])
    if image_path is None:
        raise ValueError(f"{folder} has no file {_IDX[split][0]}*: it needs all four of MNIST's.")
    pixels = _read_idx_file(image_path, "images", 3)
    labels = None
    if label_path is not None:
        labels = _read_idx_file(label_path, "labels", 1).astype(np.int32)
        if len(labels) != len(pixels):
            raise ValueError(f"{label_path} has {len(labels)} labels for {len(pixels)} images.")
    return Images(_scale(pixels), labels)


def _read_idx_file(path: pathlib.Path, what: str, ndim: int) -> np.ndarray:
    """Reads an idx file of bytes: two zeros, type 8, number of axes, big-endian sizes, values."""
    content = path.read_bytes()
    if content[:2] == b"\x1f\x8b":
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError, zlib.error) as error:
            raise ValueError(f"{path} is damaged ({error}): fetch it again.") from error
    if content[:3] != b"\0\0\x08" or len(content) < 4:
        raise ValueError(f"{path} is no idx file of bytes: it begins with {content[:4]!r}.")
    if content[3] != ndim:
        names = {1: "labels", 3: "images"}
        held = names.get(content[3], f"values of {content[3]} axes")
        raise ValueError(f"{path} holds {held}, but {what} are wanted: is it misnamed?")
    shape = tuple(np.frombuffer(content, ">i4", ndim, 4))
    if len(content) != 4 + 4 * ndim + np.prod(shape, dtype=np.int64):
        raise ValueError(f"{path} is cut short or too long for {shape}: fetch it again.")
    return np.frombuffer(content, np.uint8, offset=4 + 4 * ndim).reshape(shape)


def _read_npy(path: pathlib.Path) -> Images:
    if path.suffix != ".npy":
        raise ValueError(f"{path} is no .npy file: give one, or a folder of pictures or idx files.")
    try:
        values = np.load(path)
    except ValueError as error:  # damaged, or objects, which numpy refuses
        raise ValueError(f"{path} is no .npy file of numbers ({error}).") from error
    if values.ndim not in (2, 3, 4) or values.dtype.kind not in "fiu" or not values.size:
        raise ValueError(
            f"{path} holds {values.dtype} of shape {values.shape}: wanted images, [n, height, "
            "width] or [n, height, width, channels], or vectors, [n, dim]; a list of labels is "
            "neither."
        )
    return Images(values.astype(np.float32) if values.ndim == 2 else _scale(values))


def _read_folder(folder: pathlib.Path, images: ImageSet) -> Images:
    """All pictures in the order of their paths; the first folder below names the label."""
    paths = sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in PICTURES and path.is_file() and not path.name.startswith(".")
    )
    if not paths:
        raise ValueError(f"{folder} has no pictures ({', '.join(PICTURES)}) and no idx files.")
    pixels, kept, damaged = [], [], []
    for path in paths:
        try:
            picture = _read_picture(path, images)
        except OSError as error:
            if images.unreadable == "refuse":
                raise ValueError(
                    f"{path} cannot be read ({error}): mend or remove it, or skip such files with "
                    "data.unreadable skip."
                ) from error
            damaged.append(path)
            continue
        if pixels and picture.shape != pixels[0].shape:
            raise ValueError(
                f"{path} is {picture.shape[1]} x {picture.shape[0]} pixels, but {kept[0]} "
                f"{pixels[0].shape[1]} x {pixels[0].shape[0]}: set data.size to scale all alike."
            )
        pixels.append(picture)
        kept.append(path)
    if damaged:
        LOGGER.warning("%d unreadable pictures skipped, the first is %s.", len(damaged), damaged[0])
    if not pixels:
        raise ValueError(f"none of the {len(damaged)} pictures in {folder} can be read.")
    below = [path.relative_to(folder).parts[0] for path in kept]
    classes = tuple(sorted(set(below)))
    if any(path.parent == folder for path in kept):
        return Images(np.stack(pixels))
    labels = np.array([classes.index(name) for name in below], np.int32)
    return Images(np.stack(pixels), labels, classes)


def decode_picture(
    source: str | os.PathLike[str] | bytes, *, size: int | None, channels: int
) -> np.ndarray:
    """Reads one picture.

    Args:
        source: Path, or content of a file.
        size: Side of a square to scale it to; None leaves it.
        channels: 1 for grey, 3 for colours.

    Returns:
        uint8 [height, width, channels].

    Raises:
        ModuleNotFoundError: If Pillow is not installed.
        OSError: If it is damaged or no picture.
    """
    try:
        from PIL import Image
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "pictures are read with Pillow: pip install 'jaxembed[experiments]'."
        ) from error
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as picture:
            picture = picture.convert("L" if channels == 1 else "RGB")
            if size is not None:
                picture = picture.resize((size, size), Image.Resampling.BILINEAR)
            pixels = np.asarray(picture)
            return pixels[..., None] if channels == 1 else pixels
    except (SyntaxError, Image.DecompressionBombError) as error:  # Pillow's for damaged files
        raise OSError(str(error)) from error


def convert_pixels(pixels: np.ndarray, size: int | None, channels: int) -> np.ndarray:
    """Scales images to a square, and makes them grey or coloured.

    Args:
        pixels: uint8 [n, height, width] or [n, height, width, 1 or 3].
        size: Side of the square; None leaves them.
        channels: 1 or 3.

    Returns:
        uint8 [n, height, width, channels].
    """
    pixels = pixels[..., None] if pixels.ndim == 3 else pixels
    if size is not None and pixels.shape[1:3] != (size, size):
        from PIL import Image

        scaled = [
            Image.fromarray(one[..., 0] if one.shape[-1] == 1 else one).resize(
                (size, size), Image.Resampling.BILINEAR
            )
            for one in pixels
        ]
        pixels = np.stack([np.asarray(one) for one in scaled]).reshape(
            len(pixels), size, size, pixels.shape[-1]
        )
    if channels == 1 and pixels.shape[-1] == 3:
        weights = np.array([0.299, 0.587, 0.114], np.float32)  # of ITU-R BT.601, as Pillow's
        return np.rint(pixels @ weights).astype(np.uint8)[..., None]
    return np.repeat(pixels, 3, axis=-1) if channels > pixels.shape[-1] else pixels


def _read_picture(path: pathlib.Path, images: ImageSet) -> np.ndarray:
    pixels = decode_picture(path, size=images.size, channels=images.channels)
    return _scale(pixels[..., 0] if images.channels == 1 else pixels)


def _scale(values: np.ndarray) -> np.ndarray:
    """Bytes to shares of 255; other numbers as they are."""
    if values.dtype == np.uint8:
        return values.astype(np.float32) / np.float32(255)
    return values.astype(np.float32)


def _check(images: Images, source: str) -> None:
    """Refuses what is not finite, and pixels outside 0 to 1, by row."""
    flat = images.pixels.reshape(len(images), -1)
    is_wrong = ~np.isfinite(flat).all(axis=1)
    wanted = "finite numbers"
    if images.pixels.ndim > 2:
        is_wrong |= (flat < 0).any(axis=1) | (flat > 1).any(axis=1)
        wanted = "bytes, or numbers from 0 to 1"
    if is_wrong.any():
        row = int(np.argmax(is_wrong))
        low, high = flat[row].min(), flat[row].max()
        raise ValueError(
            f"{source}: image {row} has values from {low} to {high}: wanted {wanted}."
            if np.isfinite(low + high)
            else f"{source}: image {row} holds NaN or infinity: wanted {wanted}."
        )


def _binarize(images: Images, how: ImageSet, part: int) -> Images:
    chances = images.pixels
    if how.binarization == "threshold":
        drawn = chances >= 0.5
    else:
        # One row after another: the same picture gets the same draw however many there are.
        generator = np.random.default_rng([_SPLIT_SEED, part])
        drawn = generator.random(chances.shape, np.float32) < chances
    return dataclasses.replace(images, pixels=drawn.astype(np.float32))
