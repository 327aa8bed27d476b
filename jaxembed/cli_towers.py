"""Verbs of dual encoders: classes by name, documents encoded once, questions answered, a tower."""

import argparse
import hashlib
from collections.abc import Callable
from typing import Any

from jaxembed.candidates import answer, encode_candidates, index_candidates, read_maker
from jaxembed.metrics import class_vectors, classify
from jaxembed.run import Run, load_run
from jaxembed.tasks import dual_encoder
from jaxembed.tasks.pretrained import hash_params

AT_ONCE = 4096


def add_verbs(add: Callable[..., argparse.ArgumentParser]) -> None:
    """Adds the verbs of this file to the command's."""
    named = add("classify", _classify, "classes of images or texts by the classes' names", "run")
    named.add_argument("--input", metavar="PATH", required=True, help="images, or texts by line")
    named.add_argument("--classes", metavar="FILE", required=True, help="a name a line")
    named.add_argument(
        "--template",
        metavar="TEXT",
        action="append",
        help="a sentence with {} for the name; several are averaged",
    )
    named.add_argument("-k", "--k", type=int, default=1, help="how many classes an object")
    candidates = add("candidates", _candidates, "encode documents; the same again resumes", "run")
    candidates.add_argument("--input", metavar="PATH", required=True, help="texts by line")
    candidates.add_argument("--out", metavar="DIR", required=True)
    candidates.add_argument("--shard-size", type=int, default=65_536, help="vectors a file")
    asked = add("answer", _answer, "the documents that are nearest to queries", "run")
    asked.add_argument("candidates", help="a directory that `jaxembed candidates` wrote")
    asked.add_argument("--input", metavar="PATH", required=True, help="images, or texts by line")
    asked.add_argument("-k", "--k", type=int, default=5, help="how many a query")
    export = add("export", _export, "write a tower to a file that runs without its code", "run")
    export.add_argument("--tower", choices=("query", "doc"), default="query")
    export.add_argument("--length", type=int, help="tokens of its texts; else the tower's longest")
    export.add_argument("--out", metavar="FILE", required=True)


def _classify(options: argparse.Namespace) -> None:
    run = _open(options.run)
    names = dual_encoder.read_side(run, options.classes, "doc")
    classes = class_vectors(_encoder(run, "doc"), names, options.template or ["{}"])
    found = classify(run.embed(options.input), classes, options.k)
    for row, places in enumerate(found.tolist()):
        print(row, *(names[place] for place in places), sep="\t")


def _candidates(options: argparse.Namespace) -> None:
    run = _open(options.run)
    texts = dual_encoder.read_side(run, options.input, "doc")
    of_texts = hashlib.sha256("\n".join(texts).encode()).hexdigest()
    done = encode_candidates(
        _encoder(run, "doc"),
        texts,
        options.out,
        made_by=f"{hash_params(run.params)} of {of_texts}",
        batch_size=min(len(texts), options.shard_size, AT_ONCE),
        shard_size=options.shard_size,
    )
    print(f"{done:,} of {len(texts):,} vectors were made now; {options.out} holds all.")


def _answer(options: argparse.Namespace) -> None:
    run = _open(options.run)
    if read_maker(options.candidates).split()[0] != hash_params(run.params):
        raise ValueError(
            f"{options.candidates} was encoded with other parameters than those of {options.run}: "
            "give that run, or encode the documents again."
        )
    index = index_candidates(options.candidates, metric="dot")  # as the run is evaluated
    queries = dual_encoder.read_side(run, options.input, "query")
    scores, ids = answer(index, _encoder(run, "query"), queries, min(options.k, index.size))
    for row, pair in enumerate(zip(ids.tolist(), scores.tolist(), strict=True)):
        print(row, *(f"{i}:{score:.6g}" for i, score in zip(*pair, strict=True)), sep="\t")


def _export(options: argparse.Namespace) -> None:
    size = dual_encoder.export(_open(options.run), options.tower, options.out, options.length)
    print(f"the {options.tower} tower, {size:,} bytes, in {options.out}")


def _open(path: str) -> Run:
    run = load_run(path)
    if run.task is not dual_encoder:
        raise ValueError(
            f"{path} is a run of {type(run.recipe.model).__name__}, which has no towers: give one "
            "of a DualEncoder."
        )
    return run


def _encoder(run: Run, side: str) -> Callable[[Any], Any]:
    """From texts or images to vectors by one tower."""
    return lambda objects: dual_encoder.encode_side(run.model, run.params, run.path, side, objects)
