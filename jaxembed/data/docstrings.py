"""The embedded sets `docstrings` and `docstring-pairs`, of the installed Python libraries.

The first is the prose of their docstrings, the second functions with what theirs begin with.
The sources are read and parsed, never imported or run.
"""

from __future__ import annotations

import ast
import gc
import hashlib
import importlib.metadata
import importlib.util
import inspect
import os
import pathlib
import platform
import re
import sysconfig
import warnings
from collections.abc import Iterator, Sequence

# Import name -> distribution; "stdlib" is the standard library of the running Python. All are
# wanted by this package or its experiments; those that only tests want would make the text
# depend on which extras are installed.
PACKAGES: dict[str, str] = {
    "PIL": "pillow",
    "absl": "absl-py",
    "etils": "etils",
    "flax": "flax",
    "fontTools": "fonttools",
    "fsspec": "fsspec",
    "grain": "grain",
    "huggingface_hub": "huggingface-hub",
    "jax": "jax",
    "joblib": "joblib",
    "matplotlib": "matplotlib",
    "narwhals": "narwhals",
    "networkx": "networkx",
    "numpy": "numpy",
    "optax": "optax",
    "orbax": "orbax-checkpoint",
    "pyparsing": "pyparsing",
    "rich": "rich",
    "scipy": "scipy",
    "sklearn": "scikit-learn",
    "stdlib": "python",
    "tensorflow_datasets": "tensorflow-datasets",
    "treescope": "treescope",
    "tyro": "tyro",
}
_SKIPPED_FOLDERS = frozenset(
    "test tests testing testdata idle_test site-packages dist-packages __pycache__ "
    "lib2to3 turtledemo pydoc_data ensurepip idlelib distutils msilib encodings "
    "_vendor vendored externals mosaic triton".split()
)
_SKIPPED_FILE = re.compile(r"(^|_)tests?(_|\.py$)|^conftest\.py$|^_?libdocs|_pb2\.py$")
_SKIPPED_SECTIONS = frozenset(("references", "reference", "methods", "index"))
# Directives whose content is prose; the content of all others is dropped.
_PROSE_DIRECTIVES = frozenset(
    "note warning tip important caution hint attention seealso deprecated versionadded "
    "versionchanged admonition topic rubric".split()
)
_UNDERLINE = re.compile(r"^[=\-~^\"'*+#`]{3,}$")
_DIRECTIVE = re.compile(r"^\.\.\s+([\w:-]+?)::\s*(.*)$")
_PARAMETER_LINE = re.compile(r"^[*\w][\w*, .'\[\]]*\s:(\s.*)?$")
_PARAMETER_PREFIX = re.compile(r"^[*`]*\w+[*`]*(\s*\([^()]*\))?\s?:\s+|^:\w+[^:]*:\s*")
_SEE_ALSO_LINE = re.compile(r"^[\w.,` ]+?\s?:\s+([A-Z].*)$")
_INLINE_MATH = re.compile(r":math:`[^`]*`|\$[^$]*\$")
_HEADING = re.compile(
    r"^(args?|arguments?|returns?|raises?|yields?|examples?|attributes?|parameters?|notes?|usage"
    r"|keyword args?|other parameters|references?)\s*:\s*$",
    re.IGNORECASE,
)
_MARKUP = (
    (re.compile(r"`([^`<]+?)\s*<[^`>]*>`_{0,2}"), r"\1"),  # `text <target>`_
    (_INLINE_MATH, " "),
    (re.compile(r":[\w:+-]+:`~?([^`]*)`"), r" \1 "),
    (re.compile(r"``([^`]*)``|`([^`]*)`_{0,2}"), r" \1\2 "),
    (re.compile(r"\b(https?|ftp)://\S+|\bwww\.\S+|\S+@\S+"), " "),
    (re.compile(r"\[[^\]\s]*\]_?|\|[^|\s]*\||<[^<>\s]*>"), " "),  # [1]_, |name|, <tag>
    (re.compile(r"\b(e\.g|i\.e|cf|etc|vs|resp|fig|eq|al)\.", re.IGNORECASE), r"\1"),
    (re.compile(r"\*+"), ""),
)
_ANY_MARKUP = re.compile(
    r"[`$@\[|<*]|://|www\.|\b(?:g|e|cf|etc|vs|resp|fig|eq|al)\.", re.IGNORECASE
)
_SENTENCE_END = re.compile(r"[.!?]+(?=[\s)\"']|$)")
_WORD = re.compile(r"[a-z]+")
_TRIM = "\"'(),;:[]{}<>“”‘’…-–—"
_SHORTEST_SENTENCE = 3
_LONGEST_SUMMARY = 300  # characters; longer ones are tables or forgot their full stops


def versions() -> dict[str, str]:
    """Returns the version of each package that the text comes from.

    Returns:
        Distribution name to version, for those of `PACKAGES` that are installed.
    """
    found = {}
    for name, distribution in PACKAGES.items():
        if name == "stdlib":
            found[distribution] = platform.python_version()
        elif _package_folder(name) is not None:
            found[distribution] = importlib.metadata.version(distribution)
    return found


def read_docstrings(packages: Sequence[str] | None = None) -> Iterator[list[str]]:
    """Reads the sentences of the docstrings of installed packages.

    The order is fixed: packages by name, files by path, docstrings as they stand. A docstring
    that stands in several places comes once.

    Args:
        packages: Keys of `PACKAGES`; those that are not installed are left out. None is all.

    Yields:
        A sentence: lower-case words of the letters a to z, three or more.

    Raises:
        KeyError: If a package is not in the table.
    """
    seen: set[bytes] = set()
    for path in _paths_of(packages):
        for docstring in _docstrings_of(path):
            digest = hashlib.blake2b(docstring.encode(), digest_size=16).digest()
            if digest not in seen:
                seen.add(digest)
                yield from clean_docstring(docstring)


def read_docstring_pairs(packages: Sequence[str] | None = None) -> Iterator[tuple[str, str]]:
    """Reads what functions do and how they are called, from the docstrings of installed packages.

    The order is that of `read_docstrings`. Left out are dunder methods, docstrings that begin with
    fewer than three words or with a signature or code, and a pair of which either text came before.

    Args:
        packages: As for `read_docstrings`.

    Yields:
        The first sentence of a docstring, or its first paragraph where that is none, and the
        function with its parameters, such as "Counter.most_common(n=None)"; defaults that are no
        constants stand as "...", and the object or class itself is not among the parameters.

    Raises:
        KeyError: If a package is not in the table.
    """
    seen: set[str] = set()
    for path in _paths_of(packages):
        for node, owner in _functions_of(path):
            summary = _summary(ast.get_docstring(node) or "")
            if summary is None or node.name.startswith("__") or summary in seen:
                continue
            signature = _signature(node, owner)
            if signature not in seen:
                seen |= {summary, signature}
                yield summary, signature


def clean_docstring(docstring: str) -> list[list[str]]:
    """Reduces a docstring to the words of its prose.

    Code, doctests, tables, headings, parameter names, mathematics, references and markup go.

    Args:
        docstring: The docstring, without its common indentation.

    Returns:
        Sentences of three or more lower-case words; none if there is no prose.
    """
    sentences = []
    for paragraph in _paragraphs(docstring):
        if _ANY_MARKUP.search(paragraph):
            for pattern, replacement in _MARKUP:
                paragraph = pattern.sub(replacement, paragraph)
        for sentence in _SENTENCE_END.split(paragraph):
            words = _words(sentence)
            if len(words) >= _SHORTEST_SENTENCE:
                sentences.append(words)
    return sentences


def _paths_of(packages: Sequence[str] | None) -> Iterator[str]:
    """The source files of packages in their fixed order."""
    unknown = sorted(set(packages or ()) - set(PACKAGES))
    if unknown:
        raise KeyError(f"{unknown} are not packages to read: {sorted(PACKAGES)} are.")
    for name in sorted(PACKAGES if packages is None else packages):
        folder = _package_folder(name)
        yield from _source_files(folder) if folder is not None else ()


def _functions_of(path: str) -> Iterator[tuple[ast.FunctionDef | ast.AsyncFunctionDef, str]]:
    """The functions of a file and of its classes with the name of the class, as they stand."""
    try:
        with open(path, "rb") as file:
            tree = _parse(file.read())
    except (OSError, SyntaxError, ValueError):
        return
    pending: list[tuple[ast.AST, str]] = [(tree, "")]
    while pending:
        node, owner = pending.pop()
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node, owner
            continue  # what is defined inside cannot be called from outside
        inner = [*getattr(node, "body", ()), *getattr(node, "orelse", ())]
        owner = node.name if isinstance(node, ast.ClassDef) else owner
        pending.extend((child, owner) for child in reversed(inner) if hasattr(child, "body"))


def _signature(node: ast.FunctionDef | ast.AsyncFunctionDef, owner: str) -> str:
    """The name of a function with its parameters."""
    parameters = node.args
    positional = [*parameters.posonlyargs, *parameters.args]
    for one in (*positional, *parameters.kwonlyargs, parameters.vararg, parameters.kwarg):
        if one is not None:
            one.annotation = None
    is_static = any(isinstance(d, ast.Name) and d.id == "staticmethod" for d in node.decorator_list)
    if owner and positional and not is_static:
        (parameters.posonlyargs or parameters.args).pop(0)
        parameters.defaults = parameters.defaults[-len(positional) + 1 :] if positional[1:] else []
    for defaults in (parameters.defaults, parameters.kw_defaults):
        for place, default in enumerate(defaults):
            if default is not None and not isinstance(default, ast.Constant):
                defaults[place] = ast.Constant(...)
    return f"{owner}.{node.name}({ast.unparse(parameters)})".removeprefix(".")


def _summary(docstring: str) -> str | None:
    """The first sentence of a docstring's first paragraph; None if that is no prose."""
    paragraph = " ".join(_plain(docstring).partition("\n\n")[0].split())
    sentence = re.split(r"(?<=[.!?])\s+(?=[A-Z])", paragraph, maxsplit=1)[0]
    is_code = paragraph.startswith((">>>", "..", "@")) or re.match(r"[\w.]+\(", paragraph)
    if is_code or len(sentence.split()) < _SHORTEST_SENTENCE or len(sentence) > _LONGEST_SUMMARY:
        return None
    return sentence


def _words(sentence: str) -> list[str]:
    """The plain words of a sentence; none if much of it is something else."""
    words: list[str] = []
    others = 0
    for token in sentence.split():
        if _WORD.fullmatch(token):
            words.append(token)
            continue
        token = token.strip(_TRIM)
        parts = token.lower().replace("'", "").replace("-", "/").split("/")
        if all(map(_WORD.fullmatch, parts)) and (token[1:].islower() or len(token) == 1):
            words.extend(parts)
        else:
            others += bool(token)
    return words if others <= len(words) / 3 else []


def _paragraphs(docstring: str) -> Iterator[str]:
    """The prose of a docstring, a paragraph or list item at a time."""
    paragraph: list[str] = []
    lines = docstring.splitlines()
    skipped_indent: int | None = None  # a block that is indented deeper than this is dropped
    in_doctest = in_fence = in_section = in_see_also = False
    for number, line in enumerate(lines):
        text = line.strip()
        indent = len(line) - len(line.lstrip())
        next_line = lines[number + 1] if number + 1 < len(lines) else ""
        following = next_line.strip()
        # The name or type that a definition under it explains.
        is_term = len(text.split()) <= 4 and next_line[: indent + 1].isspace() and bool(following)
        is_title = bool(text) and _UNDERLINE.match(following) is not None
        if text.startswith(("```", "~~~")):
            in_fence = not in_fence
            text = ""
        in_doctest = (in_doctest or text.startswith(">>>")) and bool(text)
        if skipped_indent is not None and text and indent <= skipped_indent:
            skipped_indent = None
        if is_title:
            in_section = text.lower() in _SKIPPED_SECTIONS
            in_see_also = text.lower() == "see also"
        if in_see_also and (described := _SEE_ALSO_LINE.match(text)):
            text = f"- {described[1]}"
        if "\\" in text:
            text = _INLINE_MATH.sub(" ", text)
        keep = not (in_fence or in_doctest or in_section or skipped_indent is not None)
        directive = _DIRECTIVE.match(text)
        if keep and directive:
            if directive[1] not in _PROSE_DIRECTIVES:
                skipped_indent = indent
            keep = False
        elif keep and text.endswith("::"):
            skipped_indent = indent
        if keep and _is_prose(text) and not is_title and (text.endswith(":") or not is_term):
            item = _PARAMETER_PREFIX.sub("", text)
            if (item != text or text.startswith(("- ", "* ", "+ "))) and paragraph:
                yield " ".join(paragraph)
                paragraph = []
            paragraph.append(item.lstrip("-*+ "))
        elif paragraph:
            yield " ".join(paragraph)
            paragraph = []
    if paragraph:
        yield " ".join(paragraph)


def _is_prose(text: str) -> bool:
    """Whether a line may be part of a sentence."""
    return not (
        not text
        or text.startswith(("..", "$ ", "% ", "@", "|", "+-", "#", "In [", "Out["))
        or _UNDERLINE.match(text)
        or _HEADING.match(text)
        or _PARAMETER_LINE.match(text)
        or "   " in text  # columns
        or "\\" in text  # mathematics
        or " = " in text
    )


def _docstrings_of(path: str) -> Iterator[str]:
    """The docstrings of a source file in the order they stand there."""
    try:
        with open(path, "rb") as file:
            source = file.read()
        tree = _parse(source)
    except (OSError, SyntaxError, ValueError):
        return
    pending: list[ast.AST] = [tree]
    while pending:
        node = pending.pop()
        body = getattr(node, "body", [])
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            first = body[0] if body else None
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                if isinstance(first.value.value, str):
                    yield _plain(first.value.value)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            yield from _added_docstrings(node.value)
        # Statements only: other expressions, most of the tree, hold no docstring.
        if isinstance(body, list):
            inner = [*body, *getattr(node, "orelse", [])]
            pending.extend(
                child
                for child in reversed(inner)
                if hasattr(child, "body") or type(child) is ast.Expr
            )


def _parse(source: bytes) -> ast.Module:
    """The syntax tree of a source, without the warnings that are for its authors."""
    was_collecting = gc.isenabled()
    gc.disable()  # a tree has no cycles, and looking for them takes 40% of the time
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.parse(source)
    finally:
        if was_collecting:
            gc.enable()


def _added_docstrings(call: ast.Call) -> Iterator[str]:
    """The docstrings of compiled functions, which numpy and scipy give in calls."""
    if not ast.unparse(call.func).endswith(("add_newdoc", "add_docstring")):
        return
    for argument in call.args:
        for part in argument.elts if isinstance(argument, ast.Tuple) else (argument,):
            if isinstance(part, ast.Constant) and isinstance(part.value, str):
                yield _plain(part.value)


def _plain(docstring: str) -> str:
    """The docstring without its indentation and without what UTF-8 cannot hold."""
    return inspect.cleandoc(docstring).encode("utf-8", "ignore").decode()


def _source_files(folder: pathlib.Path) -> Iterator[str]:
    """The Python files under a folder without its tests, in a fixed order."""
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if name not in _SKIPPED_FOLDERS)
        for name in sorted(files):
            if name.endswith(".py") and not _SKIPPED_FILE.search(name):
                yield os.path.join(parent, name)


def _package_folder(name: str) -> pathlib.Path | None:
    """Where a package's sources lie; None if it is not installed."""
    if name == "stdlib":
        return pathlib.Path(sysconfig.get_paths()["stdlib"])
    specification = importlib.util.find_spec(name)
    if specification is None or not specification.submodule_search_locations:
        return None
    return pathlib.Path(next(iter(specification.submodule_search_locations)))
