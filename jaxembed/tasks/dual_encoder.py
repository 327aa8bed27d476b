"""Dual encoders of images with captions and of pairs of texts as a task."""

import dataclasses
import functools
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, PyTree

from jaxembed.convert.export import export_encoder
from jaxembed.data import (
    ImageCaptions,
    ImageSet,
    RetrievalSet,
    TextTokenizer,
    load_captions,
    load_text_pairs,
    load_tokenizer,
    read_lines,
    read_objects,
    train_wordpiece,
)
from jaxembed.data import captions as caption_data
from jaxembed.data import text_pairs as pair_data
from jaxembed.metrics import BM25, best_rank
from jaxembed.models import SentenceBert, make_contrastive_loss
from jaxembed.models.dual_encoder import LARGEST_SCALE, side_inputs
from jaxembed.nn import BagOfWords, TextTransformer, VisionTransformer
from jaxembed.tasks import dual_encoder_figures
from jaxembed.tasks.encoding import encode_objects, pad_texts
from jaxembed.tasks.gradient import check_batch, train_streamed
from jaxembed.tasks.pair_rows import PairRows, RowsWithNegatives, known_negatives
from jaxembed.tasks.pretrained import begin_with, load_start
from jaxembed.tasks.task import Metric, Prepared, Training
from jaxembed.train.mesh import whole_tree_axes
from jaxembed.vectors import KeyedVectors

LOGGER = logging.getLogger("jaxembed")
BOUNDS = {"log_scale": (0.0, float(np.log(LARGEST_SCALE)))}
SMALLEST_VOCAB = 64
DEFAULT_VOCAB = 8000
TEXT_TOWERS = (TextTransformer, BagOfWords, SentenceBert)
TOKENIZER = "tokenizer.json"


def prepare(recipe: Any, cache: Path, texts: Iterable | None = None) -> Prepared:
    """Reads the pairs and learns their tokenizer; see `Task`."""
    del texts
    check_batch(recipe)
    has_images = isinstance(recipe.data, ImageCaptions)
    _check_towers(recipe.model, has_images)
    splits = load_captions(recipe.data) if has_images else load_text_pairs(recipe.data)
    train, tests = splits.train, _test_sets(splits, has_images)
    if has_images:
        rows = [row for row, captions in enumerate(train.captions) for _ in captions]
        sides = {"doc": [caption for captions in train.captions for caption in captions]}
        ids, images = train.ids[rows], train.pixels
    else:
        rows, images, ids = [], None, train.ids
        sides = {"query": train.queries, "doc": train.documents}
    wrong = _find_negatives(recipe, train)
    fingerprint = train.fingerprint()
    if recipe.start is None:
        every = [*(text for side in sides.values() for text in side), *wrong]
        tokenizer = train_wordpiece(every, _wanted_vocab(recipe.model))
    else:
        start = load_start(recipe)
        tokenizer, fingerprint = start.tokenizer, f"{fingerprint} {start.fingerprint()}"
    fields: dict[str, np.ndarray] = {"ids": ids}
    resolved: dict[str, Any] = {}
    for side, found in sides.items():
        fields |= _encode_side_texts(recipe.model, side, tokenizer, found, resolved)
    if recipe.loss.kind == "candidates":
        fields["targets"] = _number(zip(ids.tolist(), sides["doc"], strict=True))
        resolved["candidates"] = int(fields["targets"].max()) + 1
    source: Any = PairRows(fields, images, np.array(rows, np.int32))
    if wrong:
        padded, lengths, _ = pad_texts(tokenizer, wrong, _tower(recipe.model, "doc").max_length)
        places = {text: place for place, text in enumerate(wrong)}
        known = [
            np.array([places[text] for text in texts], np.int32)
            for texts in known_negatives(train, wrong)
        ]
        count = recipe.loss.hard_negatives
        source = RowsWithNegatives(source, padded, lengths, known, count, recipe.seed)
        resolved["negatives"] = len(wrong)
    files = {TOKENIZER: tokenizer.to_json().encode()}
    kept = cache / "eval.npz"
    for name, test in tests.items():
        test.save(kept)
        files[f"eval/{name}.npz"] = kept.read_bytes()
    kept.unlink()
    resolved |= {
        "pairs": len(ids),
        "tests": {name: [len(test), len(test.candidates)] for name, test in tests.items()},
        "skipped": splits.skipped,
        "fingerprint": fingerprint,
        "versions": (caption_data if has_images else pair_data).versions(recipe.data.source),
    }
    if has_images:
        resolved["pixels"] = list(images.shape[1:])
        if isinstance(recipe.model.query, VisionTransformer):
            resolved["query.image"] = list(images.shape[1:])
    abstract_params(recipe.with_sizes(resolved), resolved)
    return Prepared(source, resolved, files)


def _encode_side_texts(
    model: Any,
    side: str,
    tokenizer: TextTokenizer,
    texts: Sequence[str],
    resolved: dict[str, Any],
) -> dict[str, np.ndarray]:
    """A side's fields of a batch; what they decide is added to `resolved`."""
    tower = _tower(model, side)
    padded, lengths, cut = pad_texts(tokenizer, texts, tower.max_length)
    if not isinstance(tower, SentenceBert):
        resolved[f"{side}.vocab"] = tokenizer.vocab_size
    elif tower.vocab == 0:
        resolved[f"{side}.bert.vocab_size"] = tokenizer.vocab_size
    resolved[f"{side}_texts_cut"] = cut
    if cut:
        LOGGER.warning(
            "%d of %d texts are longer than %d tokens, and cut: raise model.%s.max_length.",
            cut,
            len(texts),
            tower.max_length,
            side,
        )
    return {f"{side}_ids": padded, f"{side}_lengths": lengths}


def _number(values: Iterable[Any]) -> np.ndarray:
    """Numbers of the distinct values, as they come."""
    places: dict[Any, int] = {}
    return np.array([places.setdefault(value, len(places)) for value in values], np.int32)


def training(recipe: Any, prepared: Prepared, mesh: Mesh) -> Training:
    """Makes state, step and batches; see `Task`."""
    model, source = recipe.model, prepared.data
    is_spread, candidates = mesh.shape["data"] > 1, None
    if recipe.loss.kind == "candidates":
        fields = source.fields
        _, firsts = np.unique(fields["targets"], return_index=True)
        candidates = {name: fields[name][firsts] for name in ("ids", "doc_ids", "doc_lengths")}
    loss_fn = make_contrastive_loss(
        model, recipe.loss, mesh=mesh if is_spread else None, candidates=candidates
    )
    example = jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], source[0])

    def init_fn(key: Array) -> PyTree:
        sides = side_inputs(example, "query"), side_inputs(example, "doc")
        return model.init(key, *sides)["params"]

    axes = whole_tree_axes(jax.eval_shape(init_fn, jax.random.key(0)), mesh)
    made = train_streamed(recipe, mesh, source, init_fn, loss_fn, axes=axes, bounds=BOUNDS)
    if recipe.start is None:
        return made
    return dataclasses.replace(made, start=lambda: begin_with(load_start(recipe), made.start()))


def abstract_params(recipe: Any, resolved: dict[str, Any]) -> PyTree:
    """Says shape and dtype of the parameters; see `Task`."""
    model = recipe.model

    def example(side: str) -> tuple:
        if isinstance(_tower(model, side), TEXT_TOWERS):
            return jnp.zeros((1, 1), jnp.int32), jnp.ones(1, jnp.int32)
        return (jnp.zeros((1, *resolved["pixels"])),)

    def init(key: Array) -> PyTree:
        return model.init(key, example("query"), example("doc"))["params"]

    return jax.eval_shape(init, jax.random.key(0))


def judged_by_stored_files(recipe: Any, folder: Path) -> Any:
    """Returns the recipe itself: it names no files to be judged by; see `Task`."""
    del folder
    return recipe


def evaluate(recipe: Any, params: PyTree, folder: Path) -> dict[str, Metric]:
    """Recall and reciprocal rank of each test both ways, beside BM25 on texts; see `Task`."""
    results = {}
    k = recipe.evaluation.k
    for name, test in load_tests(folder).items():
        queries, docs = encode_test(recipe.model, params, folder, test)
        scores = queries @ docs.T
        results |= _judge(name, best_rank(scores, test.relevant, pools=test.pools), k)
        if test.pools is None:
            asked = np.unique(test.relevant[test.relevant >= 0])
            ranks = best_rank(scores.T[asked], test.reversed().relevant)
            results |= _judge(f"{name}/back", ranks, k)
        if isinstance(test.queries, tuple):
            words = BM25.build(test.candidates).scores(test.queries)
            ranks = best_rank(words, test.relevant, pools=test.pools)
            results |= _judge(f"{name}/bm25", ranks, k)
    return results


def _judge(name: str, ranks: np.ndarray, k: int) -> dict[str, Metric]:
    """Recall at 1 and k, of queries with any right candidate among them, and MRR."""
    count, is_found = len(ranks), ranks > 0
    values = {
        "recall@1": np.mean(ranks == 1),
        f"recall@{k}": np.mean(is_found & (ranks <= k)),
        "mrr": np.mean(is_found / np.maximum(ranks, 1)),
    }
    # Candidates of the same words are apart by rounding alone, which other compilers do otherwise.
    tolerance = max(3.0, 0.002 * count) / count
    return {
        f"{metric}/{name}": Metric(float(value), count, tolerance)
        for metric, value in values.items()
    }


def vectors(recipe: Any, params: PyTree, folder: Path) -> KeyedVectors:
    """Returns the vectors of the first test's candidates; see `Task`."""
    test = next(iter(load_tests(folder).values()))
    _, docs = encode_test(recipe.model, params, folder, test)
    return KeyedVectors(test.candidates, docs)


def embed(run: Any, source: Any, tower: str | None = None) -> np.ndarray:
    """Vectors of texts, one a line, or of images. See `Run.embed`."""
    tower = "query" if tower is None else tower
    objects = read_side(run, source, tower)
    return encode_side(run.model, run.params, run.path, tower, objects)


def read_side(run: Any, source: Any, tower: str) -> list[str] | np.ndarray:
    """Reads what a tower embeds.

    Args:
        run: The run.
        source: A file of texts, one a line; or a picture, a folder of them or a .npy file.
        tower: "query" or "doc".

    Returns:
        The texts, or images uint8 [n, height, width, channels].

    Raises:
        FileNotFoundError: If there is nothing at the path.
        ValueError: If there is no such tower, or nothing that it embeds.
    """
    _check_side(tower)
    if isinstance(_tower(run.model, tower), TEXT_TOWERS):
        texts = read_lines(Path(source))
        if not texts:
            raise ValueError(f"{source} has no lines: give one text a line.")
        return texts
    height, _, channels = run.resolved["pixels"]
    found = read_objects(ImageSet(f"{source}", size=height, channels=channels), source)
    found = found[..., None] if found.ndim == 3 else found
    return np.rint(255 * found).astype(np.uint8)


def export(run: Any, tower: str, path: Any, length: int | None = None) -> int:
    """Writes a tower into a file that runs without its code, see `export_encoder`.

    Args:
        run: The run.
        tower: "query" or "doc".
        path: The file.
        length: Tokens of the texts that it takes; None for the most that the tower reads. Images
            are bytes of the size of the run's.

    Returns:
        Bytes written.

    Raises:
        ValueError: If there is no such tower, or it reads no texts of that length.
    """
    _check_side(tower)
    module = _tower(run.model, tower)
    inputs = [jax.ShapeDtypeStruct((1, *run.resolved.get("pixels", ())), np.uint8)]
    if isinstance(module, TEXT_TOWERS):
        length = module.max_length if length is None else length
        if not 1 <= length <= module.max_length:
            raise ValueError(f"length is {length}: give 1 to {module.max_length} tokens.")
        inputs = [jax.ShapeDtypeStruct((1, length)[:rank], np.int32) for rank in (2, 1)]
    elif length is not None:
        raise ValueError(f"length is {length}, but the {tower} tower reads images: leave it out.")

    def encode(params: PyTree, *arrays: Array) -> Array:
        return run.model.apply({"params": params}, *arrays, method=f"encode_{tower}")

    return export_encoder(path, encode, run.params, inputs)


def figures(recipe: Any, params: PyTree, folder: Path) -> dict[str, Any]:
    """Similarities, what is retrieved, a map of both towers, loss and scale; see `Task`."""
    name, test = next(iter(load_tests(folder).items()))
    queries, docs = encode_test(recipe.model, params, folder, test)
    return dual_encoder_figures.figures(name, test, queries, docs, folder)


def _check_side(tower: str) -> None:
    if tower not in ("query", "doc"):
        raise ValueError(f"tower is {tower!r}: choose query or doc.")


def load_tests(folder: Path) -> dict[str, RetrievalSet]:
    """The retrievals that a run holds to be judged by, by name."""
    return {path.stem: RetrievalSet.load(path) for path in sorted((folder / "eval").glob("*.npz"))}


def encode_test(
    model: Any, params: PyTree, folder: Path, test: RetrievalSet
) -> tuple[np.ndarray, np.ndarray]:
    """Vectors of a test's queries and candidates."""
    return (
        encode_side(model, params, folder, "query", test.queries),
        encode_side(model, params, folder, "doc", test.candidates),
    )


def encode_side(
    model: Any, params: PyTree, folder: Path, side: str, objects: Sequence[str] | np.ndarray
) -> np.ndarray:
    """Vectors of texts or images by one tower."""
    tower = _tower(model, side)
    tokenizer = _read_tokenizer(folder) if isinstance(tower, TEXT_TOWERS) else None
    encode = functools.partial(_encode, model, params, side)
    return encode_objects(encode, objects, tokenizer, getattr(tower, "max_length", 0))


def _read_tokenizer(folder: Path) -> TextTokenizer:
    return load_tokenizer(folder / TOKENIZER)


@functools.partial(jax.jit, static_argnames=("model", "side"))
def _encode(model: Any, params: PyTree, side: str, *inputs: Array) -> Array:
    return model.apply({"params": params}, *inputs, method=f"encode_{side}")


def _tower(model: Any, side: str) -> Any:
    """The module of a side; queries' where both share it."""
    return model.query if side == "query" or model.doc is None else model.doc


def _wanted_vocab(model: Any) -> int:
    """The largest vocabulary that a text tower asks for."""
    towers = [_tower(model, side) for side in ("query", "doc")]
    return max(tower.vocab for tower in towers if isinstance(tower, TEXT_TOWERS)) or DEFAULT_VOCAB


def _check_towers(model: Any, has_images: bool) -> None:
    """Raises unless the towers are of what the data hold."""
    is_text = [isinstance(_tower(model, side), TEXT_TOWERS) for side in ("query", "doc")]
    if is_text != [not has_images, True]:
        wanted = "an image tower and a text tower" if has_images else "two text towers"
        raise ValueError(
            f"the model has {type(model.query).__name__} and {type(model.doc).__name__}, but the "
            f"data ask for {wanted}."
        )
    if 0 < _wanted_vocab(model) < SMALLEST_VOCAB:
        raise ValueError(f"vocab is {_wanted_vocab(model)}: give {SMALLEST_VOCAB} or more, or 0.")


def _find_negatives(recipe: Any, train: Any) -> list[str]:
    """The distinct known negatives, if the loss asks for any."""
    if not recipe.loss.hard_negatives:
        return []
    wrong = [text for texts in getattr(train, "negatives", ()) for text in texts]
    if not wrong:
        raise ValueError(
            f"hard_negatives is {recipe.loss.hard_negatives}, but {recipe.data.source} has no "
            "documents that are known to be wrong: give 0."
        )
    return list(dict.fromkeys(wrong))


def _test_sets(splits: Any, has_images: bool) -> dict[str, RetrievalSet]:
    if has_images:
        return {name: splits.retrieval(name) for name in splits.tests}
    return splits.tests
