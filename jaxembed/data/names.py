"""The table of embedded data sets, and help for a name that is not in it."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable, Iterable
from typing import Any, Literal

from jaxembed.data import docstrings, glyphs, images, pronunciations


@dataclasses.dataclass(frozen=True)
class EmbeddedSet:
    """A data set that comes out of installed packages, with nothing to download.

    Attributes:
        kind: What `load` returns; "text" is an iterator of sentences, each a list of words;
            "pairs" a dict of sources, each with a list of right targets; "captions" for each font
            images and their names; "text-pairs" an iterator of pairs of texts.
        summary: What the set is, in a line.
        load: Returns the data.
        versions: Returns the versions of the packages the data come from.
    """

    kind: Literal["text", "pairs", "images", "captions", "text-pairs", "graph"]
    summary: str
    load: Callable[[], Any]
    versions: Callable[[], dict[str, str]]


EMBEDDED: dict[str, EmbeddedSet] = {
    "docstrings": EmbeddedSet(
        kind="text",
        summary="English prose of the installed Python libraries' docstrings",
        load=docstrings.read_docstrings,
        versions=docstrings.versions,
    ),
    "docstring-pairs": EmbeddedSet(
        kind="text-pairs",
        summary="what functions of the installed Python libraries do, and how they are called",
        load=docstrings.read_docstring_pairs,
        versions=docstrings.versions,
    ),
    "digits": EmbeddedSet(
        kind="images",
        summary="1,797 handwritten digits, 8 x 8, of scikit-learn",
        load=images.read_digits,
        versions=lambda: images.versions("digits"),
    ),
    "cmudict": EmbeddedSet(
        kind="pairs",
        summary="English spellings and their pronunciations in 39 phones",
        load=pronunciations.read_pronunciations,
        versions=pronunciations.versions,
    ),
    "glyphs": EmbeddedSet(
        kind="captions",
        summary="drawn characters of matplotlib's DejaVu and STIX fonts with their Unicode names",
        load=glyphs.read_glyphs,
        versions=glyphs.versions,
    ),
}


def nearest_spelling(name: str, known: Iterable[str]) -> str:
    """Returns " Did you mean ...?" with the known names closest to `name`, or nothing.

    Args:
        name: What came.
        known: What would have been right.

    Returns:
        A sentence to append to an error message; "" where nothing is close.
    """
    # The matcher is slow: only names of about the same length can be close.
    candidates = [other for other in known if abs(len(other) - len(name)) <= 2]
    close = difflib.get_close_matches(name, candidates, n=3, cutoff=0.7)
    return f" Did you mean {' or '.join(map(repr, close))}?" if close else ""


def find_embedded(name: str, kind: str) -> EmbeddedSet:
    """Looks up an embedded data set.

    Args:
        name: A key of `EMBEDDED`.
        kind: The kind of data the caller can use.

    Returns:
        The data set.

    Raises:
        KeyError: If there is no set of that name.
        ValueError: If the set is of another kind.
    """
    if name not in EMBEDDED:
        known = ", ".join(sorted(EMBEDDED))
        raise KeyError(
            f"no embedded data set {name!r}; there are: {known}.{nearest_spelling(name, EMBEDDED)}"
        )
    found = EMBEDDED[name]
    if found.kind != kind:
        usable = sorted(key for key, value in EMBEDDED.items() if value.kind == kind)
        raise ValueError(
            f"data set {name!r} is of kind {found.kind!r}, but {kind!r} is wanted: {usable} are."
        )
    return found
