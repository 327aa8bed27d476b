"""Images with their labels, from an embedded set, idx files, TFDS or a folder; host side."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import importlib.metadata
import os
import pathlib
import struct
import zlib
from typing import Any, Literal

import numpy as np

from jaxembed.data.tfds_source import PREFIX, open_tfds

Split = Literal["train", "test"]
_ENDINGS = (".png", ".jpg", ".jpeg")
# Of the digits in scikit-learn's order, the last ones are the test set: other writers.
_DIGITS_TRAIN = 1437
_IDX = {
    ("train", "images"): "train-images-idx3-ubyte",
    ("train", "labels"): "train-labels-idx1-ubyte",
    ("test", "images"): "t10k-images-idx3-ubyte",
    ("test", "labels"): "t10k-labels-idx1-ubyte",
}


@dataclasses.dataclass(frozen=True)
class Images:
    """A set of images of one size.

    Attributes:
        images: float32 [n, height, width] or [n, height, width, channels], from 0 to 1.
        labels: int32 [n], or None.
        classes: Names of the labels, or empty.
        skipped: Files that could not be read.
        versions: Versions of the packages the data come from.
    """

    images: np.ndarray
    labels: np.ndarray | None = None
    classes: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()
    versions: dict[str, str] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        check_images(self.images)
        if self.labels is not None and np.shape(self.labels) != (len(self.images),):
            raise ValueError(
                f"{len(self.images)} images but labels {np.shape(self.labels)}: give one each."
            )

    def __len__(self) -> int:
        return len(self.images)

    @property
    def fingerprint(self) -> str:
        """sha256 of the pixels, labels and their shapes, in hexadecimal."""
        digest = hashlib.sha256()
        for array, kind in ((self.images, "<f4"), (self.labels, "<i4")):
            if array is not None:
                digest.update(repr(array.shape).encode())
                digest.update(np.ascontiguousarray(array, kind).tobytes())
        return digest.hexdigest()


def read_images(
    source: str | os.PathLike[str],
    *,
    split: Split = "train",
    size: tuple[int, int] | None = None,
    unreadable: Literal["refuse", "skip"] = "refuse",
) -> Images:
    """Reads images.

    Args:
        source: `digits`; a folder with the idx files of MNIST or its kin, plain or .gz; a folder of
            png and jpeg files, whose sub-folders, if any, are the labels; or `tfds:NAME`.
        split: Which part. A folder of files has a part if it has a sub-folder of that name, and
            otherwise is all `train`. A split named in `tfds:NAME:SPLIT` goes before.
        size: Height and width that the images must have; None takes those of the first.
        unreadable: What to do with a file that is no image: refuse by name, or skip and list it.

    Returns:
        The images.

    Raises:
        FileNotFoundError: If there is no such source, or no part of it of that name.
        ValueError: If there are no images, one cannot be read or is of another size, or pixels are
            out of range; the message names the file or row.
        ModuleNotFoundError: If a package that the source needs is missing.
    """
    if split not in ("train", "test"):
        raise ValueError(f"split {split!r}; wanted 'train' or 'test'.")
    if unreadable not in ("refuse", "skip"):
        raise ValueError(f"unreadable {unreadable!r}; wanted 'refuse' or 'skip'.")
    name = os.fspath(source)
    if name == "digits":
        found = read_digits(split)
    elif name.startswith(PREFIX):
        found = _read_tfds(name, split)
    else:
        found = _read_path(pathlib.Path(name), split, size, unreadable)
    if size is not None and found.images.shape[1:3] != tuple(size):
        raise ValueError(
            f"{name} has images of {found.images.shape[1:3]}, but {tuple(size)} is wanted: set the "
            "model's shape to theirs, or scale the files."
        )
    return found


def read_digits(split: Split = "train") -> Images:
    """The 1,797 handwritten digits that come with scikit-learn, 8 x 8, 0 to 16 scaled to 0 to 1.

    Args:
        split: The first 1,437 or the last 360.

    Returns:
        The images.

    Raises:
        ModuleNotFoundError: If scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "the data set 'digits' comes with scikit-learn, which is not installed: "
            "pip install jaxembed[experiments]."
        ) from error
    data = load_digits()
    part = slice(_DIGITS_TRAIN) if split == "train" else slice(_DIGITS_TRAIN, None)
    return Images(
        images=(data.images[part] / 16.0).astype(np.float32),
        labels=data.target[part].astype(np.int32),
        classes=tuple(map(str, range(10))),
        versions=digits_versions(),
    )


def digits_versions() -> dict[str, str]:
    """The version of the package that `digits` comes from."""
    return {"scikit-learn": importlib.metadata.version("scikit-learn")}


def read_idx(path: str | os.PathLike[str]) -> np.ndarray:
    """Reads an idx file of unsigned bytes, as MNIST's, plain or gzip.

    Args:
        path: The file.

    Returns:
        uint8, of the shape that the file states.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not such a file, or is cut short.
    """
    path = pathlib.Path(path)
    content = path.read_bytes()
    if content[:2] == b"\x1f\x8b":
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError, zlib.error) as error:
            raise ValueError(f"{path} is a damaged gzip file ({error}): fetch it again.") from error
    if len(content) < 4 or content[:3] != b"\0\0\x08" or len(content) < 4 + 4 * content[3]:
        raise ValueError(f"{path} is no idx file of unsigned bytes: give MNIST's or its kin's.")
    dimensions = content[3]
    shape = struct.unpack(f">{dimensions}I", content[4 : 4 + 4 * dimensions])
    values = np.frombuffer(content, np.uint8, offset=4 + 4 * dimensions)
    wanted = int(np.prod(shape, dtype=np.int64))
    if values.size != wanted:
        raise ValueError(
            f"{path} states the shape {shape}, which is {wanted:,} bytes, but has {values.size:,}: "
            "fetch it again."
        )
    return values.reshape(shape)


def check_images(images: np.ndarray, name: str = "images") -> None:
    """Complains about what cannot be trained on as images.

    Args:
        images: What came.
        name: What messages call it.

    Raises:
        ValueError: If it is not [n, height, width(, channels)] with n over 0, or a pixel is not in
            0..1; the row is named.
    """
    images = np.asarray(images)
    if images.ndim not in (3, 4) or not images.size:
        hint = "; these look like labels" if images.ndim == 1 else ""
        raise ValueError(
            f"{name} have the shape {images.shape}{hint}: give [n, height, width] or "
            "[n, height, width, channels], one image or more."
        )
    if not np.issubdtype(images.dtype, np.floating):
        raise ValueError(f"{name} are {images.dtype}: scale them to floats from 0 to 1.")
    # Written so that NaN is out of range too.
    is_good = ((images >= 0.0) & (images <= 1.0)).reshape(len(images), -1).all(axis=1)
    if not is_good.all():
        row = int(np.argmin(is_good))
        lowest, highest = images[row].min(), images[row].max()
        raise ValueError(
            f"row {row} of the {name} has pixels from {lowest} to {highest}, and "
            f"{np.count_nonzero(~is_good)} of {len(images)} rows are bad: pixels are numbers "
            "from 0 to 1."
        )


def binarize_at(images: np.ndarray, threshold: float = 0.5) -> np.ndarray:
    """Binarises statically: 1 where a pixel is above a threshold.

    Args:
        images: From 0 to 1.
        threshold: From 0, below 1.

    Returns:
        float32 of 0 and 1.

    Raises:
        ValueError: If the threshold is out of range.
    """
    if not 0.0 <= threshold < 1.0:
        raise ValueError(f"threshold is {threshold}: give 0 or more, below 1.")
    return (images > threshold).astype(np.float32)


def binarize_once(images: np.ndarray, *, seed: int) -> np.ndarray:
    """Binarises statically: each pixel drawn once, with its intensity as the chance of 1.

    This is how the usual binary MNIST was made. Dynamic binarisation draws anew each epoch and is
    the losses' (`binarization="dynamic"`).

    Args:
        images: From 0 to 1.
        seed: Of the draws.

    Returns:
        float32 of 0 and 1.
    """
    draws = np.random.default_rng(seed).random(images.shape, np.float32)
    return (draws < images).astype(np.float32)


def _read_path(
    path: pathlib.Path, split: Split, size: tuple[int, int] | None, unreadable: str
) -> Images:
    """Reads idx files or picture files from a folder."""
    if not path.is_dir():
        hint = " is a file: give its folder." if path.is_file() else ": no such folder."
        raise FileNotFoundError(f"{path}{hint} Or name an embedded set, 'digits', or tfds:NAME.")
    idx = _find_idx(path, split, "images")
    if idx is not None:
        return _read_idx_pair(idx, _find_idx(path, split, "labels"))
    others = [other for other in ("train", "test") if _find_idx(path, other, "images")]
    if others:
        raise FileNotFoundError(
            f"{path} has idx images of {others[0]!r} but no {_IDX[split, 'images']}(.gz)."
        )
    has_parts = (path / "train").is_dir() or (path / "test").is_dir()
    folder = path / split if has_parts else path
    if (has_parts and not folder.is_dir()) or (not has_parts and split != "train"):
        raise FileNotFoundError(f"{path} has no part {split!r}: make a sub-folder of that name.")
    return _read_folder(folder, size, unreadable)


def _find_idx(path: pathlib.Path, split: str, what: str) -> pathlib.Path | None:
    names = (_IDX[split, what], _IDX[split, what] + ".gz")
    return next((path / name for name in names if (path / name).is_file()), None)


def _read_idx_pair(images: pathlib.Path, labels: pathlib.Path | None) -> Images:
    pixels = read_idx(images)
    if pixels.ndim != 3 or not len(pixels):
        raise ValueError(
            f"{images} holds an array of shape {pixels.shape}, not images [n, height, width]: is "
            "it the file of the labels?"
        )
    numbers = None if labels is None else read_idx(labels)
    if numbers is not None and numbers.shape != (len(pixels),):
        raise ValueError(
            f"{labels} holds labels of shape {numbers.shape} for {len(pixels)} images: they must "
            "be of the same set."
        )
    return Images(
        images=pixels.astype(np.float32) / 255.0,
        labels=None if numbers is None else numbers.astype(np.int32),
    )


def _read_folder(folder: pathlib.Path, size: tuple[int, int] | None, unreadable: str) -> Images:
    files = sorted(
        file
        for file in folder.rglob("*")
        if file.suffix.lower() in _ENDINGS and not file.name.startswith(".") and file.is_file()
    )
    if not files:
        raise ValueError(
            f"{folder} has no files that end in {', '.join(_ENDINGS)}: put some there."
        )
    kept: list[pathlib.Path] = []
    arrays: list[np.ndarray] = []
    skipped: list[str] = []
    for file in files:
        try:
            pixels = _read_picture(file)
        except ValueError:
            if unreadable == "refuse":
                raise
            skipped.append(str(file.relative_to(folder)))
            continue
        wanted = tuple(size) if size is not None else arrays[0].shape[:2] if arrays else None
        if wanted is not None and pixels.shape[:2] != wanted:
            raise ValueError(
                f"{file} is {pixels.shape[0]} x {pixels.shape[1]} pixels, but {wanted[0]} x "
                f"{wanted[1]} is wanted: all images must be of one size."
            )
        kept.append(file)
        arrays.append(pixels)
    if not arrays:
        raise ValueError(f"none of the {len(files)} files in {folder} could be read as an image.")
    if len({array.ndim for array in arrays}) > 1:
        # Grey files among coloured ones.
        arrays = [
            array if array.ndim == 3 else np.repeat(array[..., None], 3, axis=2) for array in arrays
        ]
    labels, classes = _folder_labels(kept, folder)
    images = np.stack(arrays).astype(np.float32) / 255.0
    versions = {"pillow": importlib.metadata.version("pillow")}
    return Images(images, labels, classes, tuple(skipped), versions)


def _read_picture(file: pathlib.Path) -> np.ndarray:
    """uint8 [height, width] of a grey file, [height, width, 3] of another."""
    try:
        from PIL import Image
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "picture files are read by Pillow, which is not installed: "
            "pip install jaxembed[experiments]."
        ) from error
    try:
        with Image.open(file) as picture:
            is_grey = picture.mode in ("1", "L", "LA")
            return np.asarray(picture.convert("L" if is_grey else "RGB"))
    except Exception as error:  # its decoders raise anything on damaged files
        raise ValueError(
            f"{file} cannot be read as an image ({type(error).__name__}: {error}): mend or remove "
            "it, or pass unreadable='skip'."
        ) from error


def _folder_labels(
    files: list[pathlib.Path], folder: pathlib.Path
) -> tuple[np.ndarray | None, tuple[str, ...]]:
    """Labels by first sub-folder; none where files lie beside the sub-folders or without any."""
    names = [file.relative_to(folder).parts for file in files]
    if any(len(parts) < 2 for parts in names):
        return None, ()
    classes = tuple(sorted({parts[0] for parts in names}))
    numbers = {name: number for number, name in enumerate(classes)}
    return np.array([numbers[parts[0]] for parts in names], np.int32), classes


def _read_tfds(name: str, split: Split) -> Images:
    """Reads the features `image` and `label` of a TFDS data set."""
    # tfds:NAME[:VERSION][:SPLIT]: only a last part that is no version is a split.
    last = name.removeprefix(PREFIX).split(":")[1:][-1:]
    has_split = bool(last) and not last[0][:1].isdigit()
    source: Any = open_tfds(name if has_split else f"{name}:{split}")
    images, labels = [], []
    for row in range(len(source)):
        example = source[row]
        if "image" not in example:
            raise ValueError(f"{name} has no feature `image`: its features are {sorted(example)}.")
        pixels = np.asarray(example["image"])
        if pixels.dtype != np.uint8 or (images and pixels.shape != images[0].shape):
            raise ValueError(
                f"{name}: image {row} is {pixels.dtype} {pixels.shape}; wanted uint8, all of one "
                "size."
            )
        images.append(pixels)
        if "label" in example:
            labels.append(int(example["label"]))
    if not images:
        raise ValueError(f"{name} has no images.")
    stacked = np.stack(images).astype(np.float32) / 255.0
    if stacked.shape[-1] == 1:
        stacked = stacked[..., 0]
    return Images(stacked, np.array(labels, np.int32) if labels else None)
