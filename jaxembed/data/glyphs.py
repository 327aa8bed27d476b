"""The embedded set `glyphs`: characters of matplotlib's fonts, drawn, with their Unicode names.

The general fonts DejaVu Sans, Sans Mono and Serif and STIX, four styles of each; not the
last-resort, Computer Modern and size-variant ones.
"""

from __future__ import annotations

import importlib.metadata
import pathlib
import platform
import unicodedata

import numpy as np

# Font -> family; what is held out are families, as styles of one have much the same shapes.
FONTS: dict[str, str] = {
    "DejaVuSans": "DejaVu Sans",
    "DejaVuSans-Bold": "DejaVu Sans",
    "DejaVuSans-BoldOblique": "DejaVu Sans",
    "DejaVuSans-Oblique": "DejaVu Sans",
    "DejaVuSansMono": "DejaVu Sans Mono",
    "DejaVuSansMono-Bold": "DejaVu Sans Mono",
    "DejaVuSansMono-BoldOblique": "DejaVu Sans Mono",
    "DejaVuSansMono-Oblique": "DejaVu Sans Mono",
    "DejaVuSerif": "DejaVu Serif",
    "DejaVuSerif-Bold": "DejaVu Serif",
    "DejaVuSerif-BoldItalic": "DejaVu Serif",
    "DejaVuSerif-Italic": "DejaVu Serif",
    "STIXGeneral": "STIX",
    "STIXGeneralBol": "STIX",
    "STIXGeneralBolIta": "STIX",
    "STIXGeneralItalic": "STIX",
}
FAMILIES = tuple(dict.fromkeys(FONTS.values()))
# The font that a family is tested in: the upright one of regular weight.
REGULAR = {family: font for font, family in reversed(FONTS.items())}
# Sizes of the font to the side of the image; a glyph too large for one is drawn in the next.
_SCALES = (0.8, 0.6, 0.4, 0.2)
_BASELINE = 0.76  # of the height, from the top


def versions() -> dict[str, str]:
    """Returns versions of what the set comes out of, the Unicode tables' among them."""
    found = {name: importlib.metadata.version(name) for name in ("matplotlib", "pillow")}
    return found | {"python": platform.python_version(), "unicode": unicodedata.unidata_version}


def read_glyphs(size: int = 32) -> dict[str, tuple[np.ndarray, tuple[str, ...]]]:
    """Draws all characters that have a name and leave ink.

    Args:
        size: Side of an image in pixels.

    Returns:
        For each font of `FONTS` white-on-black images, uint8 [glyphs, size, size], in the order of
        their code points, and their names, such as "GREEK SMALL LETTER ALPHA WITH TONOS".

    Raises:
        ModuleNotFoundError: If matplotlib is not installed.
        ValueError: If size is below 8.
    """
    if size < 8:
        raise ValueError(f"size is {size}: glyphs need 8 pixels or more.")
    try:
        import matplotlib
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "the set `glyphs` comes with matplotlib: pip install 'jaxembed[experiments]'."
        ) from error
    folder = pathlib.Path(matplotlib.get_data_path(), "fonts", "ttf")
    return {font: _draw_font(folder / f"{font}.ttf", size) for font in FONTS}


def _draw_font(path: pathlib.Path, size: int) -> tuple[np.ndarray, tuple[str, ...]]:
    from matplotlib.ft2font import FT2Font
    from PIL import ImageFont

    named = {point: unicodedata.name(chr(point), "") for point in FT2Font(path).get_charmap()}
    fonts = [
        ImageFont.truetype(path, max(1, round(scale * size)), layout_engine=ImageFont.Layout.BASIC)
        for scale in _SCALES
    ]
    images, names = [], []
    for point in sorted(named):
        image = _draw(fonts, chr(point), size) if named[point] else None
        if image is not None:
            images.append(image)
            names.append(named[point])
    return np.stack(images), tuple(names)


def _draw(fonts: list, character: str, size: int) -> np.ndarray | None:
    """Draws a character on the common baseline, its ink in the middle; None without ink."""
    for font in fonts:
        ink, (_, top) = font.getmask2(character, mode="L", anchor="ls")
        width, height = ink.size
        if width <= size and height <= size:
            break
    else:
        return None
    pixels = np.frombuffer(bytes(ink), np.uint8)
    if not pixels.any():
        return None
    image = np.zeros((size, size), np.uint8)
    left = (size - width) // 2
    top = min(max(0, round(_BASELINE * size) + top), size - height)
    image[top : top + height, left : left + width] = pixels.reshape(height, width)
    return image
