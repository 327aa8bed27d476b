import pytest

from jaxembed.data import EMBEDDED, find_embedded
from jaxembed.data.names import nearest_spelling


def test_known_sets_are_found_by_name_and_kind():
    assert find_embedded("docstrings", "text") is EMBEDDED["docstrings"]
    assert "python" in EMBEDDED["docstrings"].versions()


def test_unknown_names_get_the_nearest():
    with pytest.raises(KeyError, match="Did you mean 'docstrings'"):
        find_embedded("docstrigs", "text")
    assert nearest_spelling("zzz", EMBEDDED) == ""


def test_a_set_of_another_kind_is_refused():
    with pytest.raises(ValueError, match="of kind 'text', but 'images' is wanted"):
        find_embedded("docstrings", "images")
