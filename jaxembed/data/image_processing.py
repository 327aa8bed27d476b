"""Pictures as a pretrained image tower wants them: scaled, cropped and normalised."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from jaxtyping import Float32

Resampling = Literal["nearest", "lanczos", "bilinear", "bicubic", "box", "hamming"]
# The numbers of Pillow, which Hugging Face's files use.
_RESAMPLING: tuple[Resampling, ...] = (
    "nearest",
    "lanczos",
    "bilinear",
    "bicubic",
    "box",
    "hamming",
)
Picture = str | os.PathLike[str] | np.ndarray | Any


@dataclasses.dataclass(frozen=True)
class ImageProcessing:
    """What is done to a picture before it enters a tower; the default is CLIP's.

    Attributes:
        size: Height and width to scale to; a single number is the shorter side, and the longer one
            keeps its proportion; empty scales nothing.
        crop: Height and width cut out of the middle, beyond whose edge is black; empty for none.
        resampling: How pixels are interpolated, by Pillow.
        factor: Of the bytes.
        mean: Of the red, green and blue values, to be subtracted.
        std: Likewise, to be divided by.
    """

    size: tuple[int, ...] = (224,)
    crop: tuple[int, ...] = (224, 224)
    resampling: Resampling = "bicubic"
    factor: float = 1 / 255
    mean: tuple[float, ...] = (0.48145466, 0.4578275, 0.40821073)
    std: tuple[float, ...] = (0.26862954, 0.26130258, 0.27577711)

    def __post_init__(self) -> None:
        if len(self.size) > 2 or len(self.crop) not in (0, 2) or min(self.size + self.crop) < 1:
            raise ValueError(
                f"size is {self.size}, crop {self.crop}: give one or two numbers, and two or none."
            )
        if self.resampling not in _RESAMPLING:
            raise ValueError(
                f"resampling is {self.resampling!r}: choose one of {', '.join(_RESAMPLING)}."
            )
        if len(self.mean) != 3 or len(self.std) != 3 or not all(self.std):
            raise ValueError(f"mean is {self.mean}, std {self.std}: give three numbers, std not 0.")

    def __call__(
        self, pictures: Sequence[Picture]
    ) -> Float32[np.ndarray, "pictures height width 3"]:
        """Prepares pictures.

        Args:
            pictures: Paths, Pillow images, or uint8 arrays [height, width, 3] or [height, width].

        Returns:
            What the tower takes.

        Raises:
            ModuleNotFoundError: If Pillow is not installed.
            OSError: If a picture is damaged or none.
            ValueError: If sizes differ at the end, as without a crop they may.
        """
        prepared = [self._prepare(picture) for picture in pictures]
        shapes = {one.shape for one in prepared}
        if len(shapes) > 1:
            raise ValueError(f"pictures end as {sorted(shapes)[:3]}: set crop, or two sizes.")
        return np.stack(prepared) if prepared else np.zeros((0, *self.crop, 3), np.float32)

    def _prepare(self, picture: Picture) -> np.ndarray:
        from PIL import Image

        if isinstance(picture, np.ndarray):
            picture = Image.fromarray(picture)
        elif not isinstance(picture, Image.Image):
            picture = Image.open(picture)
        picture = picture.convert("RGB")
        if self.size:
            height, width = self._scaled(picture.height, picture.width)
            picture = picture.resize((width, height), _RESAMPLING.index(self.resampling))
        pixels = np.asarray(picture)
        if self.crop:
            pixels = _crop(pixels, *self.crop)
        scaled = pixels.astype(np.float32) * np.float32(self.factor)
        return (scaled - np.array(self.mean, np.float32)) / np.array(self.std, np.float32)

    def _scaled(self, height: int, width: int) -> tuple[int, int]:
        if len(self.size) == 2:
            return self.size
        short = self.size[0]
        if width <= height:
            return int(short * height / width), short
        return short, int(short * width / height)


def _crop(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """The middle; what is too small gets a black edge."""
    missing = [
        max(0, wanted - had) for wanted, had in zip((height, width), pixels.shape[:2], strict=True)
    ]
    before = [math.ceil(one / 2) for one in missing]
    padding = [(b, m - b) for b, m in zip(before, missing, strict=True)]
    pixels = np.pad(pixels, [*padding, (0, 0)])
    top, left = (pixels.shape[0] - height) // 2, (pixels.shape[1] - width) // 2
    return pixels[top : top + height, left : left + width]


def read_image_processing(content: Mapping[str, Any], default: ImageProcessing) -> ImageProcessing:
    """Reads the settings of a Hugging Face image processor.

    Args:
        content: Of its `preprocessor_config.json`.
        default: Stands for what it does not say.

    Returns:
        The settings.

    Raises:
        ValueError: If a setting has no counterpart here.
    """
    changes: dict[str, Any] = {}
    if not content.get("do_resize", True):
        changes["size"] = ()
    elif "size" in content:
        changes["size"] = _read_size(content["size"])
    if not content.get("do_center_crop", bool(default.crop)):
        changes["crop"] = ()
    elif content.get("crop_size") is not None:
        size = _read_size(content["crop_size"])
        changes["crop"] = size * 2 if len(size) == 1 else size
    if (number := content.get("resample")) is not None:
        if number not in range(len(_RESAMPLING)):
            raise ValueError(f"resample is {number!r}: it is one of Pillow's numbers, 0 to 5.")
        changes["resampling"] = _RESAMPLING[number]
    if not content.get("do_rescale", True):
        changes["factor"] = 1.0
    elif "rescale_factor" in content:
        changes["factor"] = float(content["rescale_factor"])
    if not content.get("do_normalize", True):
        changes |= {"mean": (0.0,) * 3, "std": (1.0,) * 3}
    for ours, theirs in (("mean", "image_mean"), ("std", "image_std")):
        if ours not in changes and content.get(theirs) is not None:
            changes[ours] = tuple(map(float, content[theirs]))
    return dataclasses.replace(default, **changes)


def write_image_processing(processing: ImageProcessing) -> dict[str, Any]:
    """The settings as a Hugging Face image processor stores them."""
    size = processing.size
    sides = dict(zip(("height", "width"), size, strict=False))
    content: dict[str, Any] = {
        "do_resize": bool(size),
        "size": {"shortest_edge": size[0]} if len(size) == 1 else sides,
        "resample": _RESAMPLING.index(processing.resampling),
        "do_center_crop": bool(processing.crop),
        "do_rescale": True,
        "rescale_factor": processing.factor,
        "do_normalize": True,
        "image_mean": list(processing.mean),
        "image_std": list(processing.std),
        "do_convert_rgb": True,
    }
    if processing.crop:
        content["crop_size"] = dict(zip(("height", "width"), processing.crop, strict=True))
    return content


def _read_size(size: Any) -> tuple[int, ...]:
    """A number, or a dict with the shorter side or both."""
    if isinstance(size, int):
        return (size,)
    if isinstance(size, Mapping) and size.get("shortest_edge") and not size.get("longest_edge"):
        return (int(size["shortest_edge"]),)
    if isinstance(size, Mapping) and size.get("height") and size.get("width"):
        return int(size["height"]), int(size["width"])
    raise ValueError(
        f"the size {size!r} has no counterpart: give height and width, or the shorter."
    )
