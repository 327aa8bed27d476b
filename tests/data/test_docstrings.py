import re
import sys

import pytest

from jaxembed.data import docstrings

EXAMPLE = """Compute the *weighted* mean of an array.

The mean of ``values`` is the sum, divided by :math:`n_x^2`; see `this page
<https://example.org>`_ [1]_. It isn't the same as :func:`~numpy.median`, e.g. for
well-known data!

.. code-block:: python

    this code should not be there at all

.. note::
    The notes are kept as prose too.

Parameters
----------
values : array_like, optional
    Numbers to average over the given axis.
axis, other : int

Returns
-------
float
    The mean of all the numbers.

See Also
--------
median : Compute the median of an array.

Examples
--------
Use it in the following way::

    mean(of some, other code here)

>>> mean([1, 2])
this output is not prose either

+-----+-----+
| one | two |
+-----+-----+

References
----------
.. [1] Somebody wrote a book about it.
"""


def test_only_prose_is_left():
    sentences = [" ".join(words) for words in docstrings.clean_docstring(EXAMPLE)]
    assert sentences == [
        "compute the weighted mean of an array",
        "the mean of values is the sum divided by see this page",
        "it isnt the same as for well known data",
        "the notes are kept as prose too",
        "numbers to average over the given axis",
        "the mean of all the numbers",
        "compute the median of an array",
        "use it in the following way",
    ]


def test_google_style_arguments_lose_their_names():
    text = "Args:\n  x_value (int): The value to be used.\n  y: Another value to use.\n"
    assert docstrings.clean_docstring(text) == [
        "the value to be used".split(),
        "another value to use".split(),
    ]


def test_sources_are_read_and_never_run(tmp_path, monkeypatch):
    package = tmp_path / "trap"
    (package / "tests").mkdir(parents=True)
    source = '"""The first of all sentences."""\nraise SystemExit\nx = "\\d"\n'
    (package / "__init__.py").write_text(
        source + 'class A:\n  """The second of all sentences."""\n'
        '  if x:\n    async def f():\n      """The third of all sentences."""\n'
    )
    (package / "copy.py").write_text(source)
    (package / "broken.py").write_text('"""Not seen by anybody here."""\n(')
    (package / "tests" / "inner.py").write_text('"""Tests are not to be read."""')
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(docstrings.PACKAGES, "trap", "trap")
    found = [" ".join(words) for words in docstrings.read_docstrings(["trap"])]
    assert found == [f"the {place} of all sentences" for place in ("first", "second", "third")]
    assert "trap" not in sys.modules


def test_sentences_are_plain_words_in_a_fixed_order():
    sentences = list(docstrings.read_docstrings(["optax"]))
    assert sum(map(len, sentences)) > 20_000
    assert all(len(words) >= 3 for words in sentences)
    assert all(re.fullmatch("[a-z]+", word) for words in sentences for word in words)
    assert sentences == list(docstrings.read_docstrings(["optax"]))


def test_versions_name_the_installed_packages():
    versions = docstrings.versions()
    assert {"python", "numpy", "jax"} <= set(versions)


def test_an_unknown_package_is_refused():
    with pytest.raises(KeyError, match="nonsense"):
        list(docstrings.read_docstrings(["nonsense"]))
