"""The command `jaxembed VERB ...`, and how experiments start a recipe."""

import argparse
import codecs
import contextlib
import ctypes
import dataclasses
import logging
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from jaxembed import cli_towers
from jaxembed.atomic import write_atomically
from jaxembed.convert.word2vec import (
    write_glove_text,
    write_word2vec_binary,
    write_word2vec_text,
)
from jaxembed.encoder import load_encoder
from jaxembed.environment import keep_compiled
from jaxembed.metrics.words import (
    evaluate_analogies,
    evaluate_word_pairs,
    neighbour_table,
    read_analogies,
    read_word_pairs,
)
from jaxembed.recipe import Recipe
from jaxembed.run import (
    CorpusChangedError,
    Run,
    load_run,
    plot_run,
    reproduce,
    ship_run,
    train_recipe,
)
from jaxembed.search import (
    BallTreeIndex,
    BinaryIndex,
    ExactIndex,
    Int4Index,
    Int8Index,
    IVFIndex,
    IVFPQIndex,
    LSHIndex,
    PQIndex,
    RabitqIndex,
    ScannIndex,
    load_index,
)
from jaxembed.tasks.autoencoder_figures import draw_grid
from jaxembed.train import Interrupted
from jaxembed.vectors import KeyedVectors

FAILED, MISUSED = 1, 2
INDICES = {
    "exact": ExactIndex,
    "ivf": IVFIndex,
    "pq": PQIndex,
    "ivfpq": IVFPQIndex,
    "scann": ScannIndex,
    "int8": Int8Index,
    "int4": Int4Index,
    "binary": BinaryIndex,
    "rabitq": RabitqIndex,
    "lsh": LSHIndex,
    "tree": BallTreeIndex,
}
# A search with one shape of queries is compiled once.
QUERIES_AT_ONCE = 1024


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one verb.

    Args:
        arguments: Words of the command line, by default those of the process.

    Returns:
        Exit code: 0, 1 where `reproduce` finds a mismatch, 2 for bad input.
    """
    options = _parser().parse_args(arguments)
    keep_compiled()
    return run_guarded(lambda: options.verb(options), "jaxembed")


def run_guarded(action: Callable[[], int | None], name: str) -> int:
    """Runs an action and turns what a user can cause into a message and an exit code."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    logging.getLogger("absl").setLevel(logging.WARNING)
    try:
        return action() or 0
    except Interrupted as stop:
        print(f"{name}: {stop}", file=sys.stderr)
        return stop.exit_code
    except KeyboardInterrupt:
        print(f"{name}: stopped at once; the same command resumes.", file=sys.stderr)
        return 130
    except BrokenPipeError:
        sys.stderr.close()
        return 141
    except (ValueError, KeyError, TypeError, OSError, ModuleNotFoundError) as error:
        text = error.args[0] if isinstance(error, KeyError) and error.args else error
        print(f"{name}: {text}", file=sys.stderr)
        return MISUSED


def _return_freed_memory() -> None:
    """Makes glibc give large freed blocks back to the system at once.

    Otherwise it keeps tables that were freed, and a run on 17 million words peaked at 736 MB over
    its imports instead of 443. A program may decide so for its process, a library may not.
    """
    if sys.platform == "linux":
        largest_kept, threshold = 1 << 20, -3  # M_MMAP_THRESHOLD of malloc.h
        with contextlib.suppress(OSError, AttributeError):  # another C library
            ctypes.CDLL("libc.so.6").mallopt(threshold, largest_kept)


def run_experiment(
    make_recipe: Callable[[Any], Recipe],
    config_type: type,
    *,
    smoke: dict[str, Any],
    report: Callable[[Run], None],
    description: str,
    arguments: Sequence[str] | None = None,
    returns_memory: bool = False,
) -> int:
    """Parses an experiment's flags, trains its recipe and prints its results.

    Args:
        make_recipe: Makes the recipe from the config.
        config_type: The script's flat flags, a dataclass with `workdir` and `smoke`.
        smoke: Fields that `--smoke` replaces where they have their defaults, so that the script
            ends in seconds.
        report: Prints what a reader wants to see first.
        description: Help text.
        arguments: Words of the command line, by default those of the process.
        returns_memory: Give large freed blocks back to the system at once: for a model of large
            tables, as each step of others would ask for its blocks anew.

    Returns:
        Exit code.
    """
    import tyro

    if returns_memory:
        _return_freed_memory()

    words = list(sys.argv[1:] if arguments is None else arguments)
    config, rest = tyro.cli(
        config_type, description=description, args=words, return_unknown_args=True
    )

    def action() -> None:
        chosen = shrink(config, smoke) if config.smoke else config
        recipe = make_recipe(chosen).override(_overrides(rest, config_type))
        started = time.monotonic()
        run = train_recipe(recipe, chosen.workdir, checkpoint_seconds=chosen.checkpoint_seconds)
        for name, metric in run.results.items():
            print(f"{name:24} {metric.value:.4f}  ({metric.count:,} items)")
        report(run)
        print(f"{run.path} holds the run; {time.monotonic() - started:.0f} s in all.")

    return run_guarded(action, Path(sys.argv[0]).stem)


def shrink(config: Any, smoke: dict[str, Any]) -> Any:
    """Replaces the fields of a config that nobody chose otherwise."""
    defaults = {field.name: field.default for field in dataclasses.fields(config)}
    kept = {name: value for name, value in smoke.items() if getattr(config, name) == defaults[name]}
    return dataclasses.replace(config, **kept)


def _overrides(words: Sequence[str], config_type: type) -> dict[str, str]:
    """Reads `--a.b VALUE` and `--a.b=VALUE`; anything else is refused by name."""
    from jaxembed.recipe import nearest

    changes, rest = {}, list(words)
    while rest:
        word = rest.pop(0)
        if not word.startswith("--"):
            raise ValueError(f"there is a stray {word!r}; options begin with --.")
        name, equals, value = word[2:].partition("=")
        if "." not in name:
            known = [field.name.replace("_", "-") for field in dataclasses.fields(config_type)]
            raise ValueError(f"there is no option --{name}." + nearest(name, known))
        if not equals:
            if not rest or rest[0].startswith("--"):
                raise ValueError(f"--{name} needs a value.")
            value = rest.pop(0)
        changes[name] = value
    return changes


def load_vectors(path: str, limit: int | None = None) -> KeyedVectors:
    """Opens a run's embeddings or a file of vectors.

    Raises:
        FileNotFoundError: If there is neither.
    """
    if Path(path).is_dir():
        vectors = load_run(path).vectors
        if limit is None:
            return vectors
        if limit < 1:
            raise ValueError(f"limit is {limit}: it must be at least 1.")
        return KeyedVectors(vectors.keys[:limit], vectors.matrix[:limit], vectors.counts[:limit])
    if not Path(path).exists():
        raise FileNotFoundError(f"no run and no file of vectors at {path}.")
    return KeyedVectors.load(path, limit)


def _nearest(options: argparse.Namespace) -> None:
    vectors = load_vectors(options.vectors)
    _print_scores(vectors.nearest(options.word, options.k))


def _analogy(options: argparse.Namespace) -> None:
    vectors = load_vectors(options.vectors)
    print(f"{options.a} is to {options.b} as {options.c} is to")
    _print_scores(vectors.analogy(options.a, options.b, options.c, options.k))


def _print_scores(scores: list[tuple[str, float]]) -> None:
    width = max((len(key) for key, _ in scores), default=0)
    for key, score in scores:
        print(f"  {key:{width}}  {score:.4f}")


def _convert(options: argparse.Namespace) -> None:
    vectors = load_vectors(options.vectors, options.limit)
    out = options.out
    if out.endswith(".safetensors"):
        vectors.save(out)
    elif out.endswith((".bin", ".bin.gz")):
        write_word2vec_binary(out, vectors.keys, vectors.matrix, space=options.space)
    elif out.endswith((".glove", ".glove.txt", ".glove.txt.gz")):
        write_glove_text(out, vectors.keys, vectors.matrix, space=options.space)
    elif out.endswith((".txt", ".vec", ".txt.gz", ".vec.gz")):
        write_word2vec_text(out, vectors.keys, vectors.matrix, space=options.space)
    else:
        raise ValueError(
            f"{out} does not say a format: end it in .safetensors, .bin (word2vec), .txt or .vec "
            "(word2vec) or .glove.txt."
        )
    print(f"{len(vectors):,} vectors of {vectors.dim} numbers in {out}")


def _evaluate(options: argparse.Namespace) -> None:
    if not options.analogies and not options.pairs and not options.neighbours:
        raise ValueError(
            "nothing to evaluate: give --analogies FILE, --pairs FILE or --neighbours."
        )
    vectors = load_vectors(options.vectors)
    if options.analogies:
        scores = evaluate_analogies(
            vectors.keys,
            vectors.matrix,
            read_analogies(options.analogies),
            restrict_vocab=options.restrict_vocab,
            method=options.method,
        )
        print(f"analogies ({scores.known:,} of {scores.asked:,} questions are of known words)")
        for section in (*scores.sections, scores.semantic, scores.syntactic, scores.overall):
            print(f"  {section.name:30} {section.correct:6} of {section.total:6}", end="")
            print(f"  {section.accuracy:.4f}" if section.total else "")
    for path in options.pairs or []:
        scores = evaluate_word_pairs(vectors.keys, vectors.matrix, read_word_pairs(path))
        print(
            f"{Path(path).name}: Spearman {scores.spearman:.4f}, Pearson {scores.pearson:.4f}, "
            f"{scores.count} pairs, {scores.unknown:.1%} unknown"
        )
    if options.neighbours:
        count = min(options.k, len(vectors) - 1)
        print(neighbour_table(vectors.keys, vectors.matrix, options.neighbours, count))


def _embed(options: argparse.Namespace) -> None:
    import numpy as np

    _check_ending(options.out, ".npy")
    is_run = (Path(options.run) / "recipe.json").is_file()
    if is_run and hasattr(load_run(options.run).task, "embed"):
        vectors = load_run(options.run).embed(options.input, tower=options.tower)
    else:
        show = {"progress": True} if sys.stderr.isatty() else {}
        vectors = load_encoder(options.run).encode(_read_lines(options.input), **show)
    with write_atomically(options.out) as file:
        np.save(file, vectors)
    print(f"{len(vectors):,} vectors of {vectors.shape[1]} numbers in {options.out}")


def _read_lines(path: str) -> Iterator[str]:
    """The lines of a text, empty ones too: line n becomes row n."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no file {path}.")
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            try:
                yield line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
            except UnicodeDecodeError as error:
                raise ValueError(
                    f"line {number} of {path} is not UTF-8 (byte {line[error.start]:#x} at "
                    f"{error.start}): convert it first, nothing was written."
                ) from error


def _sample(options: argparse.Namespace) -> None:
    import jax
    import numpy as np

    _check_ending(options.out, ".npy", ".png")
    objects = load_run(options.run).sample(jax.random.key(options.seed), options.n)
    with write_atomically(options.out) as file:
        if options.out.endswith(".npy"):
            np.save(file, objects)
        else:
            _draw_pictures(objects).savefig(file, format="png")
    print(f"{len(objects):,} samples of shape {objects.shape[1:]} in {options.out}")


def _translate(options: argparse.Namespace) -> None:
    translated = load_run(options.run).translate(
        _read_input_lines(),
        beam_size=options.beam,
        n_best=options.n_best,
        length_penalty=options.length_penalty,
    )
    out = codecs.getwriter("utf-8")(sys.stdout.buffer)
    for number, (found, problems) in enumerate(translated, 1):
        for problem in problems:
            print(f"jaxembed: {problem}", file=sys.stderr)
        for place in range(options.n_best):
            text, score = found[place] if place < len(found) else ("", None)
            fields = [str(number)] if options.n_best > 1 else []
            fields += ["" if score is None else f"{score:.4f}"] if options.scores else []
            out.write("\t".join([*fields, text]) + "\n")
    out.flush()


def _read_input_lines() -> Iterator[str]:
    """The lines of standard input; one that is no UTF-8 is said so and taken as empty."""
    for number, line in enumerate(sys.stdin.buffer, 1):
        try:
            yield line.decode("utf-8").rstrip("\r\n")
        except UnicodeDecodeError as error:
            print(f"jaxembed: line {number} is not UTF-8 ({error}).", file=sys.stderr)
            yield ""


def _draw_pictures(objects: Any) -> Any:
    """A figure with all of them."""
    from matplotlib.figure import Figure

    if objects.ndim not in (3, 4):
        raise ValueError("the samples are no pictures: write them to a --out that ends in .npy.")
    columns = math.ceil(math.sqrt(len(objects)))
    figure = Figure(figsize=(8, 8), dpi=130, layout="constrained")
    draw_grid(figure, objects, columns, {})
    return figure


def _check_ending(path: str, *endings: str) -> None:
    if not path.endswith(endings):
        raise ValueError(f"--out {path}: it must end in {' or '.join(endings)}.")


def _reproduce(options: argparse.Namespace) -> int:
    try:
        rows = reproduce(options.run, retrain=options.retrain)
    except CorpusChangedError as error:
        print(f"jaxembed: {error}", file=sys.stderr)
        return MISUSED
    print(f"{'metric':24} {'stored':>10} {'now':>10} {'tolerance':>10}")
    for name, stored, value, agrees in rows:
        verdict = "equal" if agrees else "DIFFERS"
        print(f"{name:24} {stored.value:10.5f} {value:10.5f} {stored.tolerance:10.5f}  {verdict}")
    return 0 if all(agrees for *_, agrees in rows) else FAILED


def _plot(options: argparse.Namespace) -> None:
    for file in plot_run(options.run):
        print(file)


def _ship(options: argparse.Namespace) -> None:
    print(f"{ship_run(options.run, options.out)} holds what is needed to load and reproduce.")


def _index(options: argparse.Namespace) -> None:
    import jax

    rows = _read_matrix(options.vectors)
    ids = None if options.ids is None else _read_array(options.ids)
    started = time.monotonic()
    index = INDICES[options.kind].build(
        rows, metric=options.metric, key=jax.random.key(options.seed), ids=ids
    )
    index.save(options.out)
    print(
        f"{index.size:,} vectors of {index.dim} numbers in {options.out}: {options.kind}, "
        f"{options.metric}, {index.memory_bytes():,} bytes, {time.monotonic() - started:.1f} s"
    )


def _search(options: argparse.Namespace) -> None:
    import numpy as np

    if options.k < 1:
        raise ValueError(f"k is {options.k}: it must be at least 1.")
    index, queries = load_index(options.index), _read_matrix(options.queries)
    if queries.shape[1] != index.dim:
        raise ValueError(
            f"{options.queries} has vectors of {queries.shape[1]} numbers, but the index of "
            f"{index.dim}: both must come from the same model."
        )
    found = []
    for start in range(0, len(queries), QUERIES_AT_ONCE):
        part = queries[start : start + QUERIES_AT_ONCE]
        padding = min(len(queries), QUERIES_AT_ONCE) - len(part)
        results = index.search(np.pad(part, ((0, padding), (0, 0))), options.k)
        found.append([np.asarray(result)[: len(part)] for result in results])
    scores, ids = map(np.concatenate, zip(*found, strict=True))
    if options.out:
        with write_atomically(options.out) as file:
            np.savez(file, scores=scores, ids=ids)
        print(f"ids and scores of {len(ids):,} queries in {options.out}")
        return
    for row, (query_ids, query_scores) in enumerate(zip(ids, scores, strict=True)):
        pairs = zip(query_ids, query_scores, strict=True)
        print(row, *(f"{i}:{score:.6g}" for i, score in pairs if i >= 0), sep="\t")


def _read_array(path: str) -> Any:
    """Opens a .npy file without pickle, mapped rather than read."""
    import numpy as np

    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no file {path}.")
    try:
        return np.lib.format.open_memmap(path, mode="r")
    except ValueError as error:
        raise ValueError(f"{path} is not a .npy file of numbers ({error}).") from error


def _read_matrix(path: str) -> Any:
    """Opens a .npy file that holds rows of numbers."""
    rows = _read_array(path)
    if rows.ndim != 2 or rows.dtype.kind not in "fiu" or len(rows) == 0:
        raise ValueError(
            f"{path} holds {rows.dtype} of shape {rows.shape}: wanted numbers of shape "
            "[count, dim], and at least one row."
        )
    return rows


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="jaxembed", description="Embeddings in JAX.")
    verbs = parser.add_subparsers(required=True, metavar="VERB")

    def add(name: str, verb: Callable, text: str, *positional: str) -> argparse.ArgumentParser:
        sub = verbs.add_parser(name, help=text, description=text)
        for argument in positional:
            kind = "a run directory" if argument == "run" else None
            if argument == "index":
                kind = "a directory that `jaxembed index` wrote"
            if name == "embed":
                kind += ", or a folder of Hugging Face or sentence-transformers"
            if argument == "vectors":
                kind = "a run directory or a file of vectors"
            sub.add_argument(argument, help=kind)
        sub.set_defaults(verb=verb)
        return sub

    near = add("nearest", _nearest, "the words nearest to a word", "vectors", "word")
    analogy = add("analogy", _analogy, "a is to b as c is to ...", "vectors", "a", "b", "c")
    for sub, count in ((near, 10), (analogy, 5)):
        sub.add_argument("-k", "--k", type=int, default=count, help="how many answers")
    convert = add("convert", _convert, "write vectors in another format", "vectors", "out")
    convert.add_argument("--limit", type=int, help="only the first N vectors")
    convert.add_argument("--space", help="what to write for a space inside a key, for example _")
    evaluate = add("evaluate", _evaluate, "analogies and word similarity", "vectors")
    evaluate.add_argument("--analogies", metavar="FILE")
    evaluate.add_argument("--pairs", metavar="FILE", action="append")
    evaluate.add_argument("--neighbours", metavar="WORD", nargs="+")
    evaluate.add_argument("--restrict-vocab", type=int, default=30_000)
    evaluate.add_argument("--method", choices=("3CosAdd", "3CosMul"), default="3CosAdd")
    evaluate.add_argument("-k", "--k", type=int, default=8)
    index = add("index", _index, "prepare a .npy file of vectors for search")
    index.add_argument("vectors", metavar="VECTORS.npy", help="vectors by row")
    index.add_argument("--kind", choices=tuple(INDICES), default="exact")
    index.add_argument("--metric", choices=("dot", "cosine", "euclidean"), default="dot")
    index.add_argument("--ids", metavar="IDS.npy", help="a distinct integer for each row")
    index.add_argument("--seed", type=int, default=0, help="of what the index draws at random")
    index.add_argument("--out", metavar="DIR", required=True)
    search = add("search", _search, "find the nearest vectors in an index", "index")
    search.add_argument("--queries", metavar="Q.npy", required=True, help="vectors by row")
    search.add_argument("-k", "--k", type=int, default=10, help="how many a query")
    search.add_argument("--out", metavar="FILE.npz", help="write ids and scores, not print them")
    embed = add("embed", _embed, "vectors of new objects", "run")
    embed.add_argument(
        "--input", metavar="PATH", required=True, help="sentences by line, images or rows"
    )
    embed.add_argument(
        "--tower", choices=("query", "doc"), help="of a dual encoder; query by default"
    )
    embed.add_argument("--out", metavar="FILE.npy", required=True)
    cli_towers.add_verbs(add)
    sample = add("sample", _sample, "new objects from a generative model", "run")
    sample.add_argument("--n", type=int, default=64, help="how many")
    sample.add_argument("--seed", type=int, default=0)
    sample.add_argument("--out", metavar="FILE", default="samples.png", help=".png or .npy")
    translate = add("translate", _translate, "translate standard input, a line a line", "run")
    translate.add_argument("--beam", type=int, default=5, help="1 is greedy search")
    translate.add_argument(
        "--n-best", type=int, default=1, help="translations a line, each behind its line's number"
    )
    translate.add_argument("--scores", action="store_true", help="log-probabilities in front")
    translate.add_argument(
        "--length-penalty", metavar="NAME", help="none, length^A or gnmt^A; else the recipe's"
    )
    again = add("reproduce", _reproduce, "recompute a run's metrics", "run")
    again.add_argument("--retrain", action="store_true", help="train it anew first")
    add("plot", _plot, "draw a run's figures again", "run")
    add("ship", _ship, "copy a run without its optimizer state", "run", "out")
    return parser


if __name__ == "__main__":
    sys.exit(main())
