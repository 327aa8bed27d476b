"""Images with captions, for training and retrieval: embedded, in archives, folders or from TFDS."""

from __future__ import annotations

import dataclasses
import hashlib
import html
import json
import pathlib
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, Literal

import numpy as np

from jaxembed.data import glyphs
from jaxembed.data.captioned_files import Captioned, read_captioned_folder
from jaxembed.data.faults import Faults, check_text
from jaxembed.data.images import convert_pixels
from jaxembed.data.names import nearest_spelling
from jaxembed.data.retrieval_set import RetrievalSet, make_retrieval_set
from jaxembed.data.shards import find_shards, read_shards
from jaxembed.data.tfds_source import PREFIX, open_tfds

STYLES = ("google", "openmoji", "fluent")
LANGUAGES = ("en", "de", "fr")
NEW_CHARACTERS = "new characters"


@dataclasses.dataclass(frozen=True)
class ImageCaptions:
    """Images with captions to train on and to retrieve.

    Attributes:
        source: "glyphs" (embedded); PATH of the folder of emoji in several styles, of clip art
            (images64.npz with meta.json), of pictures with a table of captions (captions.csv or
            .tsv), or of tar shards (a folder of .tar files, or one), in which KEY.png or the like
            stands beside KEY.txt or KEY.json; or tfds:NAME.
        held_out: Families of fonts or styles of emoji that are only tested on; empty for DejaVu
            Sans Mono and STIX, or fluent.
        held_out_share: Share of the images (of the characters, of `glyphs`) that is only tested on
            where the source has no test set of its own, by a hash of their names.
        size: Side of a square that images are scaled to; None leaves them, glyphs 32.
        channels: 1 makes images grey, 3 coloured.
        languages: Of the captions, where there are several; each but the first is tested apart.
        image_field: Name of the column or feature of images.
        caption_field: Name of the column, feature or JSON field of captions.
        longest: Most characters a caption may have.
        on_bad: Whether what is missing, unreadable, empty, too long or without a partner is
            refused, or skipped and counted.
    """

    source: str = "glyphs"
    held_out: tuple[str, ...] = ()
    held_out_share: float = 0.05
    size: int | None = None
    channels: int = 1
    languages: tuple[str, ...] = ("en",)
    image_field: str = "image"
    caption_field: str = "caption"
    longest: int = 1000
    on_bad: Literal["refuse", "skip"] = "refuse"

    def __post_init__(self) -> None:
        if not 0 < self.held_out_share < 1:
            raise ValueError(f"held_out_share is {self.held_out_share}; give one between 0 and 1.")
        if self.size is not None and self.size < 8:
            raise ValueError(f"size is {self.size}; give 8 or more pixels, or none.")
        if self.channels not in (1, 3):
            raise ValueError(f"channels is {self.channels}; give 1 (grey) or 3 (red, green, blue).")
        if self.longest < 1:
            raise ValueError(f"longest is {self.longest}; give 1 or more characters.")
        unknown = [name for name in self.languages if name not in LANGUAGES]
        if unknown or not self.languages:
            raise ValueError(f"languages are {self.languages}; give some of {LANGUAGES}.")


@dataclasses.dataclass(frozen=True)
class CaptionedImages:
    """Images with their captions, in memory.

    Attributes:
        pixels: uint8 [n, height, width, channels].
        captions: One or more of each; any of them is right, the first is the one retrieved.
        ids: int32 [n]; images of equal id show the same, so they are no negatives of one another.
    """

    pixels: np.ndarray
    captions: tuple[tuple[str, ...], ...]
    ids: np.ndarray

    def __len__(self) -> int:
        """The number of images."""
        return len(self.pixels)

    def take(self, rows: np.ndarray) -> CaptionedImages:
        """Those of some rows."""
        captions = tuple(self.captions[row] for row in rows)
        return CaptionedImages(self.pixels[rows], captions, self.ids[rows])

    def fingerprint(self) -> str:
        """A hash of all pixels and captions."""
        digest = hashlib.sha256(repr(self.pixels.shape).encode())
        digest.update(np.ascontiguousarray(self.pixels))
        digest.update(json.dumps(self.captions).encode())
        digest.update(np.ascontiguousarray(self.ids))
        return digest.hexdigest()


@dataclasses.dataclass(frozen=True)
class CaptionSplits:
    """What to train on and what to test on.

    Attributes:
        train: The training pairs.
        tests: Test pairs by name, such as "STIX" and "new characters".
        names: For each test the caption of each id, in its language.
        skipped: How many bad items of each kind were left out.
    """

    train: CaptionedImages
    tests: dict[str, CaptionedImages]
    names: dict[str, tuple[str, ...]]
    skipped: dict[str, int]

    def retrieval(self, test: str, *, among: Literal["all", "test"] = "all") -> RetrievalSet:
        """Makes the retrieval of captions for a test's images.

        Args:
            test: A key of `tests`.
            among: Whether the candidates are the captions of all ids, or of those in the test.

        Returns:
            Images as queries, distinct captions as candidates in the order of the alphabet.

        Raises:
            KeyError: If there is no such test.
        """
        if test not in self.tests:
            raise KeyError(f"there is no test {test!r}: {', '.join(self.tests)} are.")
        ids, names = self.tests[test].ids.tolist(), self.names[test]
        candidates = sorted(set(names) if among == "all" else {names[number] for number in ids})
        places = {caption: place for place, caption in enumerate(candidates)}
        right = [[places[names[number]]] for number in ids]
        return make_retrieval_set(self.tests[test].pixels, candidates, right)


def load_captions(data: ImageCaptions) -> CaptionSplits:
    """Reads what to train on and what to test on.

    Args:
        data: Which, and how.

    Returns:
        Training and test pairs.

    Raises:
        FileNotFoundError: If `source` is neither a known name nor an existing path.
        KeyError: If a held-out font or style, a column or a feature is not there.
        ModuleNotFoundError: If the package that holds the data is not installed.
        ValueError: If something is bad, and bad data are refused; the message names it.
    """
    if data.source == "glyphs":
        return _load_glyphs(data)
    if data.source.startswith(PREFIX):
        return _load_tfds(data)
    path = pathlib.Path(data.source)
    if not path.exists():
        raise FileNotFoundError(
            f"there is no file or folder {path}, and no embedded set of images with captions of "
            f"that name: glyphs is one.{nearest_spelling(data.source, ['glyphs'])}"
        )
    if (path / "annotations.json").is_file():
        return _load_emoji(data, path)
    faults = Faults(data.source, data.on_bad)
    if (path / "meta.json").is_file():
        found = _read_clip_art(path, data, faults)
    elif find_shards(path):
        found = read_shards(path, data, faults)
    else:
        found = read_captioned_folder(path, data, faults)
    return _split(list(found), data, faults)


def versions(source: str) -> dict[str, str]:
    """Versions of the packages that a source comes out of."""
    if source == "glyphs":
        return glyphs.versions()
    if source.startswith(PREFIX):
        import importlib.metadata

        return {"tensorflow-datasets": importlib.metadata.version("tensorflow-datasets")}
    return {}


def _load_glyphs(data: ImageCaptions) -> CaptionSplits:
    held_out = _check_held_out(data.held_out or ("DejaVu Sans Mono", "STIX"), glyphs.FAMILIES)
    drawn = glyphs.read_glyphs(data.size or 32)
    known = tuple(sorted({name for _, names in drawn.values() for name in names}))
    ids = {name: number for number, name in enumerate(known)}

    def pack(parts: list[tuple[np.ndarray, Iterable[str]]]) -> CaptionedImages:
        names = [name for _, part in parts for name in part]
        pixels = convert_pixels(np.concatenate([p for p, _ in parts]), None, data.channels)
        numbers = np.array([ids[name] for name in names], np.int32)
        return CaptionedImages(pixels, tuple((name,) for name in names), numbers)

    train = pack([part for font, part in drawn.items() if glyphs.FONTS[font] not in held_out])
    new = new_combinations([c for (c,) in train.captions], data.held_out_share)
    is_new = np.array([captions[0] in new for captions in train.captions])
    tests = {family: pack([drawn[glyphs.REGULAR[family]]]) for family in held_out}
    if is_new.any():
        tests[NEW_CHARACTERS] = train.take(np.flatnonzero(is_new))
    train = train.take(np.flatnonzero(~is_new))
    return CaptionSplits(train, tests, dict.fromkeys(tests, known), {})


def new_combinations(names: Iterable[str], share: float) -> set[str]:
    """Chooses names to hold out, all of whose words stay in others.

    Args:
        names: Names, with repetitions.
        share: Of the distinct names, chosen by a hash; fewer are held out where words would go.

    Returns:
        The names held out.
    """
    distinct = sorted(set(names), key=lambda name: hashlib.sha256(name.encode()).digest())
    words = Counter(word for name in distinct for word in set(_words(name)))
    held_out: set[str] = set()
    for name in distinct:
        if len(held_out) >= share * len(distinct):
            break
        mine = set(_words(name))
        if all(words[word] > 1 for word in mine):
            words.subtract(mine)
            held_out.add(name)
    return held_out


def _words(name: str) -> list[str]:
    return name.replace("-", " ").split()


def _check_held_out(held_out: tuple[str, ...], known: tuple[str, ...]) -> tuple[str, ...]:
    for name in held_out:
        if name not in known:
            near = nearest_spelling(name, known)
            raise KeyError(f"held_out names {name!r}: there are {', '.join(known)}.{near}")
    if set(held_out) >= set(known):
        raise ValueError(f"held_out names all of {', '.join(known)}: leave some to train on.")
    return held_out


def _load_emoji(data: ImageCaptions, folder: pathlib.Path) -> CaptionSplits:
    """Styles of one emoji set; an emoji's id is its row in annotations.json."""
    held_out = _check_held_out(data.held_out or ("fluent",), STYLES)
    faults = Faults(data.source, data.on_bad)
    rows = json.loads((folder / "annotations.json").read_text("utf-8"))

    def pack(style: str, languages: tuple[str, ...]) -> CaptionedImages:
        images, numbers = _read_npz(folder / f"{style}.npz", "images", "row")
        if len(images) != len(numbers) or numbers.min() < 0 or numbers.max() >= len(rows):
            raise ValueError(f"{folder / style}.npz does not fit annotations.json: fetch it again.")
        kept, captions = [], []
        for place, number in enumerate(numbers.tolist()):
            where = f"{style}, emoji {rows[number].get('hexcode')}"
            found = [
                check_text(
                    rows[number].get(f"label_{language}") or "",
                    data.longest,
                    "caption",
                    f"{where}, {language}",
                    faults,
                )
                for language in languages
            ]
            if all(found):
                kept.append(place)
                captions.append(tuple(dict.fromkeys(found)))
        pixels = convert_pixels(images[kept], data.size, data.channels)
        return CaptionedImages(pixels, tuple(captions), numbers[kept].astype(np.int32))

    train = _concatenate([pack(s, data.languages) for s in STYLES if s not in held_out])
    tests, names = {}, {}
    for place, language in enumerate(data.languages):
        labels = tuple(" ".join((row.get(f"label_{language}") or "").split()) for row in rows)
        for style in held_out:
            test = f"{style} ({language})" if place else style
            tests[test], names[test] = pack(style, (language,)), labels
    return CaptionSplits(train, tests, names, faults.finish(len(train)))


def _concatenate(parts: list[CaptionedImages]) -> CaptionedImages:
    return CaptionedImages(
        np.concatenate([part.pixels for part in parts]),
        tuple(captions for part in parts for captions in part.captions),
        np.concatenate([part.ids for part in parts]),
    )


def _read_clip_art(
    folder: pathlib.Path, data: ImageCaptions, faults: Faults
) -> Iterator[Captioned]:
    """Names, images and captions (title, description, keywords) of the usable clip art."""
    (images,) = _read_npz(folder / "images64.npz", "images")
    described = json.loads((folder / "meta.json").read_text("utf-8"))
    if len(images) != len(described):
        raise ValueError(f"{folder} has {len(images)} images, but {len(described)} descriptions.")
    for pixels, one in zip(images, described, strict=True):
        if not one["usable"]:
            continue
        title = check_text(
            html.unescape(one["title"]), data.longest, "caption", one["path"], faults
        )
        if title:
            keywords = ", ".join(word for word in one["keywords"] if word != "unsorted")
            others = (" ".join(html.unescape(text).split()) for text in (one["desc"], keywords))
            fitting = [text for text in others if text and len(text) <= data.longest]
            yield (
                one["path"],
                convert_pixels(pixels[None], data.size, data.channels)[0],
                tuple(dict.fromkeys([title, *fitting])),
            )


def _read_npz(path: pathlib.Path, *names: str) -> list[np.ndarray]:
    if not path.is_file():
        raise FileNotFoundError(f"there is no {path}.")
    try:
        with np.load(path) as archive:
            return [archive[name] for name in names]
    except Exception as error:  # zip, zlib and numpy each raise their own
        raise ValueError(
            f"{path} is damaged or lacks {names} ({error}): fetch it again."
        ) from error


def _load_tfds(data: ImageCaptions) -> CaptionSplits:
    faults = Faults(data.source, data.on_bad)

    def read(name: str) -> list[Captioned]:
        source = open_tfds(name)
        return [
            found
            for index in range(len(source))
            if (found := _read_element(source[index], f"{name}, {index}", data, faults))
        ]

    if data.source.count(":") > 1:  # a split is named, so the rest of the data are not asked for
        return _split(read(data.source), data, faults)
    train = read(f"{data.source}:train")
    for split in ("test", "validation"):
        try:
            test = read(f"{data.source}:{split}")
        except KeyError:
            continue
        skipped = faults.finish(min(len(train), len(test)))
        return _part(
            [*train, *test], np.arange(len(train) + len(test)) >= len(train), split, skipped
        )
    return _split(train, data, faults)


def _read_element(
    element: dict[str, Any], where: str, data: ImageCaptions, faults: Faults
) -> Captioned | None:
    """The name, image and captions of an element of TFDS; None if something is bad."""
    field = data.caption_field
    if field not in element and f"{field}s" in element:  # of COCO
        field = f"{field}s"
    for name in (data.image_field, field):
        if name not in element:
            raise KeyError(f"{data.source} has no {name!r}: its features are {sorted(element)}.")
    texts = element[field]
    texts = texts.get("text", ()) if isinstance(texts, dict) else texts
    texts = [texts] if isinstance(texts, (bytes, str)) else list(texts)
    texts = [text.decode("utf-8", "replace") if isinstance(text, bytes) else text for text in texts]
    if not texts:
        faults.report("images without captions", f"{where}: the image has no caption")
        return None
    captions = [check_text(text, data.longest, "caption", where, faults) for text in texts]
    kept = tuple(dict.fromkeys(text for text in captions if text))
    if not kept:
        return None
    pixels = np.asarray(element[data.image_field])
    if pixels.dtype != np.uint8 or pixels.ndim != 3:
        raise ValueError(f"{where}: the image is {pixels.dtype} {pixels.shape}, wanted bytes.")
    return where, convert_pixels(pixels[None], data.size, data.channels)[0], kept


def _part(
    found: list[Captioned], is_test: np.ndarray, test: str, skipped: dict[str, int]
) -> CaptionSplits:
    """Items as arrays, in two parts; equal first captions have equal ids."""
    shape = found[0][1].shape
    for name, pixels, _ in found:
        if pixels.shape != shape:
            raise ValueError(
                f"{name} is {pixels.shape[1]} x {pixels.shape[0]} pixels, but {found[0][0]} "
                f"{shape[1]} x {shape[0]}: set data.size to scale all alike."
            )
    firsts = [captions[0] for _, _, captions in found]
    names = tuple(sorted(set(firsts)))
    ids = {caption: number for number, caption in enumerate(names)}
    everything = CaptionedImages(
        np.stack([pixels for _, pixels, _ in found]),
        tuple(captions for _, _, captions in found),
        np.array([ids[caption] for caption in firsts], np.int32),
    )
    train, tested = (everything.take(np.flatnonzero(mask)) for mask in (~is_test, is_test))
    return CaptionSplits(train, {test: tested}, {test: names}, skipped)


def _split(found: list[Captioned], data: ImageCaptions, faults: Faults) -> CaptionSplits:
    """Holds out a share by the hash of the names, for ever the same."""
    skipped = faults.finish(len(found))
    if len(found) < 2:
        raise ValueError(f"{data.source} has {len(found)} pairs: too few to hold some out.")
    places = [
        int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") / 2**64
        for name, _, _ in found
    ]
    is_test = np.array(places) < data.held_out_share
    if is_test.all() or not is_test.any():  # of few, one is held out
        is_test = np.arange(len(found)) == int(np.argmin(places))
    return _part(found, is_test, "test", skipped)
