"""Holds the arrows of DESIGN.md by reading the imports of every file."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# Importer above imported. Whatever an imported layer may import is allowed as well.
ARROWS = {
    "atomic": set(),
    "environment": set(),
    "losses": set(),
    "decoding": set(),
    "search": set(),
    "nn": set(),
    "metrics": {"losses"},
    "models": {"nn", "losses", "decoding"},
    "train": set(),
    "data": {"atomic"},
    "convert.word2vec": {"atomic"},
    "vectors": {"search", "metrics", "convert.word2vec", "atomic"},
    "convert": {"models", "data", "vectors", "search", "atomic", "convert.word2vec"},
    "recipe": {"models", "data", "train"},
    "tasks": {"models", "data", "train", "vectors", "metrics", "convert"},
    "run": {"recipe", "tasks", "atomic", "environment"},
    "encoder": {"run", "convert", "models", "data"},
    "candidates": {"search", "atomic"},
    "cli_towers": {"candidates", "run", "metrics"},
    "cli": {"cli_towers", "run", "convert", "vectors", "encoder", "search", "metrics"},
    "experiments": {"cli"},
}
PURE = {"losses", "decoding", "search"}
PURE_MAY_IMPORT = {"jax", "numpy", "optax", "jaxtyping"} | sys.stdlib_module_names
FORBIDDEN = {"tensorflow", "torch", "pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
FORBIDDEN_CALLS = {"eval", "exec", "__import__", "import_module"}
PACKAGE = "__init__.py"  # of jaxembed itself: a fixed table of names that are imported on first use


def below(layer):
    """All layers that a layer may import, directly or through another."""
    found, rest = set(), [*ARROWS[layer]]
    while rest:
        if (new := rest.pop()) not in found:
            found.add(new)
            rest += ARROWS[new]
    return found


def layer_of(dotted):
    """The layer of a module named from inside the package, "losses.sampled" for example."""
    parts = dotted.split(".")
    names = [".".join(parts[:length]) for length in range(len(parts), 0, -1)]
    return next((name for name in names if name in ARROWS), None)


def imports_of(path, tree):
    """Absolute names of all that a file imports, wherever in the file."""
    parents = path.removesuffix(".py").split("/")[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = []
            if node.level:
                start = ["jaxembed", *parents[: len(parents) + 1 - node.level]]
            start += [node.module] if node.module else []
            yield from (".".join([*start, alias.name]) for alias in node.names)


def violations(path, source):
    """What a file, at a path inside the package, does against the picture."""
    tree = ast.parse(source)
    here = "" if path == PACKAGE else layer_of(path.removesuffix(".py").replace("/", "."))
    if here is None:
        return [f"{path} is in no layer"]
    found = []
    for name in imports_of(path, tree):
        top = name.split(".")[0]
        if top == "jaxembed":
            there = layer_of(name.partition(".")[2])
            if there is None:
                found.append(f"{name}: import from the file that defines it")
            elif here != there and (here == "" or there not in below(here)):
                found.append(f"{here or PACKAGE} -> {there}")
        if top in FORBIDDEN or top in ("experiments", "tests"):
            found.append(f"imports {name}")
        if top == "flax" and here not in ("nn", "models"):
            found.append(f"{here} imports {name}")
        if top == "orbax" and path != "train/checkpoint.py":
            found.append(f"{path} imports {name}")
        if here in PURE and top != "jaxembed" and top not in PURE_MAY_IMPORT:
            found.append(f"{here} imports {name}")
        if name.endswith("import_module") and path != PACKAGE:
            found.append(f"imports {name}")
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            called = node.func
            is_method = isinstance(called, ast.Attribute)
            name = called.attr if is_method else getattr(called, "id", "")
            named = not is_method or name == "import_module"
            if named and name in FORBIDDEN_CALLS and path != PACKAGE:
                found.append(f"calls {name}")
            if any(word.arg == "allow_pickle" for word in node.keywords):
                found.append("allow_pickle")
    return found


FILES = sorted(file.relative_to(ROOT / "jaxembed") for file in (ROOT / "jaxembed").rglob("*.py"))


@pytest.mark.parametrize("file", FILES, ids=str)
def test_file_keeps_to_the_arrows(file):
    assert violations(file.as_posix(), (ROOT / "jaxembed" / file).read_text()) == []


def test_no_arrow_leads_back():
    assert all(layer not in below(layer) for layer in ARROWS)


def test_lazy_names_are_a_fixed_table():
    tree = ast.parse((ROOT / "jaxembed" / PACKAGE).read_text())
    (table,) = [
        node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and node.targets[0].id == "_HOMES"
    ]
    homes = ast.literal_eval(table)
    assert all(home.startswith("jaxembed.") for home in homes.values())
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    imported = [call for call in calls if getattr(call.func, "attr", "") == "import_module"]
    assert [ast.unparse(call) for call in imported] == ["importlib.import_module(_HOMES[name])"]


@pytest.mark.parametrize(
    ("path", "source", "found"),
    [
        ("train/loop.py", "from jaxembed.models import SkipGram", "train -> models"),
        ("train/loop.py", "def f():\n    import jaxembed.nn.attention", "train -> nn"),
        ("losses/sampled.py", "from ..search import exact_top_k", "losses -> search"),
        ("losses/sampled.py", "from . import contrastive", None),
        ("losses/sampled.py", "import scipy.stats", "losses imports scipy.stats"),
        ("losses/sampled.py", "import functools, optax\nfrom jax import lax", None),
        ("convert/word2vec.py", "from jaxembed.vectors import K", "convert.word2vec -> vectors"),
        ("convert/faiss.py", "from jaxembed.vectors import K", None),
        ("vectors.py", "from jaxembed.convert import glove", "vectors -> convert"),
        ("vectors.py", "from jaxembed.convert import word2vec", None),
        ("recipe.py", "from jaxembed import run", "recipe -> run"),
        ("tasks/word2vec.py", "from jaxembed.recipe import Recipe", "tasks -> recipe"),
        ("run.py", "from jaxembed.train import train", None),
        ("run.py", "from jaxembed import load_run", "jaxembed.load_run: import from the file"),
        ("run.py", "import experiments.word2vec", "imports experiments.word2vec"),
        ("run.py", "import flax", "run imports flax"),
        ("train/loop.py", "from orbax.checkpoint import v1", "train/loop.py imports orbax"),
        ("data/text.py", "import pickle", "imports pickle"),
        ("data/text.py", "from torch import nn", "imports torch.nn"),
        ("data/text.py", "import importlib\nimportlib.import_module('x')", "calls import_module"),
        ("data/text.py", "from importlib import import_module as f", "import_module"),
        ("data/text.py", "eval('1')", "calls eval"),
        ("data/text.py", "import numpy as np\nnp.load('x', allow_pickle=True)", "allow_pickle"),
        ("helpers.py", "", "helpers.py is in no layer"),
        (PACKAGE, "from jaxembed.run import load_run", "__init__.py -> run"),
    ],
)
def test_checker_finds_violations(path, source, found):
    seen = violations(path, source)
    assert seen == [] if found is None else len(seen) == 1 and found in seen[0], seen


PROBE = """
import json, sys
import jaxembed
from jaxembed.losses import negative_sampling
print(json.dumps(sorted(sys.modules)))
"""


def test_a_loss_costs_no_more_than_jax():
    done = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, check=True)
    loaded = set(json.loads(done.stdout))
    heavy = {"grain", "orbax", "tensorflow_datasets", "matplotlib", "sklearn", "flax", "tensorflow"}
    assert loaded & heavy == set()
    ours = {name for name in loaded if name.startswith("jaxembed.")}
    assert all(name.startswith("jaxembed.losses") for name in ours)
