"""What CLIP and SigLIP folders of Hugging Face have in common: towers and preprocessing."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Int32

from jaxembed.atomic import write_atomically
from jaxembed.convert.huggingface.files import Entry, PathLike, dense, norm, read_json, write_json
from jaxembed.data.image_processing import (
    ImageProcessing,
    Picture,
    read_image_processing,
    write_image_processing,
)
from jaxembed.data.tokenizer import TextTokenizer, load_tokenizer
from jaxembed.nn import TextTransformer, VisionTransformer

PROCESSORS = ("preprocessor_config.json", "processor_config.json")
SPECIALS = ("bos_token_id", "eos_token_id", "pad_token_id")
PATCHES = "vision_model.embeddings.patch_embedding.weight"


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """From pictures and texts to what the towers of a folder take; host side, without torch.

    Attributes:
        image: What is done to pictures.
        tokenizer: Makes ids of texts; None where the folder has none.
        max_length: Longest text in tokens.
        fills_up: Whether padding counts as tokens up to `max_length`, as in SigLIP.
        special_ids: What their configuration says of `bos_token_id` and the like, by name; CLIP's
            vector of a text is that of the end there.
    """

    image: ImageProcessing
    tokenizer: TextTokenizer | None
    max_length: int
    fills_up: bool
    special_ids: tuple[tuple[str, int | None], ...] = ()

    def images(
        self, pictures: Sequence[Picture]
    ) -> tuple[Float32[np.ndarray, "pictures height width 3"]]:
        """Arrays of `encode_query`; see `ImageProcessing`."""
        return (self.image(pictures),)

    def texts(
        self, texts: Sequence[str]
    ) -> tuple[Int32[np.ndarray, "texts length"], Int32[np.ndarray, "texts"]]:
        """Arrays of `encode_doc`: ids padded behind, and lengths.

        Args:
            texts: Any strings; what is longer than `max_length` is cut.

        Raises:
            ValueError: If the folder had no tokenizer.
        """
        if self.tokenizer is None:
            raise ValueError("the folder has no tokenizer.json: texts cannot be encoded.")
        encoded = self.tokenizer.encode(texts, max_length=self.max_length)
        longest = max((len(one) for one in encoded), default=1)
        shape = (len(encoded), self.max_length if self.fills_up else longest)
        ids = np.full(shape, self.tokenizer.pad_id, np.int32)
        for row, one in zip(ids, encoded, strict=True):
            row[: len(one)] = one.ids
        lengths = [shape[1] if self.fills_up else len(one) for one in encoded]
        return ids, np.array(lengths, np.int32)


def read_preprocessing(
    folder: PathLike,
    text_config: Mapping[str, Any],
    default: ImageProcessing,
    *,
    max_length: int,
    fills_up: bool,
) -> Preprocessing:
    """Reads the image processor's settings and the tokenizer, where there are any."""
    special_ids = tuple((name, text_config[name]) for name in SPECIALS if name in text_config)
    folder, image = Path(folder), default
    for name in PROCESSORS:
        if (folder / name).is_file():
            content = read_json(folder / name)
            image = read_image_processing(content.get("image_processor", content), default)
            break
    has_tokenizer = (folder / "tokenizer.json").is_file()
    tokenizer = load_tokenizer(folder / "tokenizer.json") if has_tokenizer else None
    return Preprocessing(image, tokenizer, max_length, fills_up, special_ids)


def write_preprocessing(folder: PathLike, preprocessing: Preprocessing, kind: str) -> None:
    """Writes what `read_preprocessing` reads; `kind` begins the names of their classes."""
    content = {"image_processor_type": f"{kind}ImageProcessor"}
    write_json(Path(folder) / PROCESSORS[0], content | write_image_processing(preprocessing.image))
    if preprocessing.tokenizer is not None:
        with write_atomically(Path(folder) / "tokenizer.json") as file:
            file.write(preprocessing.tokenizer.to_json().encode())


def layer_entries(tower: VisionTransformer | TextTransformer, path: str, name: str) -> Iterator:
    """The Transformer layers of a tower."""
    width, hidden = tower.width, tower.hidden
    for index in range(tower.layers):
        ours, theirs = f"{path}/blocks_{index}", f"{name}.encoder.layers.{index}"
        yield from norm(f"{ours}/attention_norm", f"{theirs}.layer_norm1", width)
        for part in ("query", "key", "value", "out"):
            short = "out" if part == "out" else part[0]
            projection = f"{theirs}.self_attn.{short}_proj"
            yield from dense(f"{ours}/attention/{part}", projection, width, width)
        yield from norm(f"{ours}/feed_norm", f"{theirs}.layer_norm2", width)
        yield from dense(f"{ours}/widen", f"{theirs}.mlp.fc1", width, hidden)
        yield from dense(f"{ours}/narrow", f"{theirs}.mlp.fc2", hidden, width)


def vision_entries(tower: VisionTransformer) -> Iterator[Entry]:
    """An image tower, without what stands behind its last normalisation."""
    name, width = "vision_model", tower.width
    height, _, channels = tower.image
    grid = (height // tower.patch) * (tower.image[1] // tower.patch)
    yield Entry("query/embedding/kernel", PATCHES, (width, tower.patch**2 * channels), True)
    if tower.patch_bias:
        yield Entry("query/embedding/bias", PATCHES.replace("weight", "bias"), (width,))
    if tower.pool == "class":
        yield Entry("query/class_token", f"{name}.embeddings.class_embedding", (width,))
        grid += 1
    table = f"{name}.embeddings.position_embedding.weight"
    yield Entry("query/positions", table, (grid, width))
    if tower.input_norm:
        yield from norm("query/start_norm", f"{name}.pre_layrnorm", width)  # sic
    yield from layer_entries(tower, "query", name)
    yield from norm("query/norm", f"{name}.post_layernorm", width)


def text_entries(tower: TextTransformer) -> Iterator[Entry]:
    """A text tower."""
    name, width = "text_model", tower.width
    tables = f"{name}.embeddings"
    token_table = f"{tables}.token_embedding.weight"
    yield Entry("doc/embedding/embedding", token_table, (tower.vocab, width))
    shape = (tower.max_length, width)
    yield Entry("doc/positions", f"{tables}.position_embedding.weight", shape)
    yield from layer_entries(tower, "doc", name)
    yield from norm("doc/norm", f"{name}.final_layer_norm", width)


def flatten_patches(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Their convolution of patches as a linear map of pixels in our order."""
    changed = dict(tensors)
    if PATCHES in changed:
        kernel = np.asarray(changed[PATCHES])
        changed[PATCHES] = kernel.transpose(0, 2, 3, 1).reshape(len(kernel), -1)
    return changed


def unflatten_patches(
    tensors: Mapping[str, np.ndarray], tower: VisionTransformer
) -> dict[str, np.ndarray]:
    """The inverse of `flatten_patches`."""
    shape = (tower.width, tower.patch, tower.patch, tower.image[2])
    kernel = tensors[PATCHES].reshape(shape).transpose(0, 3, 1, 2)
    return {**tensors, PATCHES: kernel}


def square_side(config: Mapping[str, Any]) -> tuple[int, int, int]:
    """Height, width and channels of a vision configuration."""
    side = config.get("image_size", 224)
    height, width = side if isinstance(side, list | tuple) else (side, side)
    return int(height), int(width), int(config.get("num_channels", 3))
