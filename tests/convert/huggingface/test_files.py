"""Folders go out and come in whole; what is missing, cut off or misfit is named."""

import json

import numpy as np
import pytest
import safetensors.numpy

from jaxembed.convert.huggingface.files import (
    dense,
    norm,
    read_folder,
    to_params,
    to_tensors,
    write_folder,
)

TENSORS = {
    "a.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
    "a.bias": np.ones(2, np.float32),
    "b.weight": np.full(3, 2, np.float32),
    "b.bias": np.zeros(3, np.float32),
}
ENTRIES = [*dense("x/first", "a", 3, 2), *norm("x/second", "b", 3)]


@pytest.fixture
def folder(tmp_path):
    write_folder(tmp_path, {"model_type": "toy"}, TENSORS)
    return tmp_path


def split(folder):
    """The same folder in two parts."""
    (folder / "model.safetensors").unlink()
    parts = {"part-1.safetensors": ["a.weight", "a.bias"], "part-2.safetensors": ["b.weight"]}
    parts["part-2.safetensors"].append("b.bias")
    for part, names in parts.items():
        safetensors.numpy.save_file({name: TENSORS[name] for name in names}, folder / part)
    places = {name: part for part, names in parts.items() for name in names}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))


@pytest.mark.parametrize("in_parts", [False, True])
def test_a_folder_comes_back(folder, in_parts):
    if in_parts:
        split(folder)
    config, tensors = read_folder(folder)
    assert config == {"model_type": "toy"}
    assert tensors.keys() == TENSORS.keys()
    for name, value in TENSORS.items():
        np.testing.assert_array_equal(tensors[name], value)


def test_params_go_there_and_back():
    params = to_params(ENTRIES, TENSORS, "toy")
    np.testing.assert_array_equal(params["x"]["first"]["kernel"], TENSORS["a.weight"].T)
    back = to_tensors(ENTRIES, params)
    assert back.keys() == TENSORS.keys()
    assert all(np.array_equal(back[name], TENSORS[name]) for name in TENSORS)


def cut(file):
    file.write_bytes(file.read_bytes()[:-5])


@pytest.mark.parametrize(
    ("harm", "error", "message"),
    [
        (lambda f: (f / "config.json").unlink(), FileNotFoundError, "config.json is missing"),
        (lambda f: cut(f / "config.json"), ValueError, "config.json is no JSON"),
        (lambda f: (f / "config.json").write_text("[]"), ValueError, "holds a list"),
        (lambda f: (f / "config.json").write_bytes(b'{"a": "\xff"}'), ValueError, "is no JSON"),
        (lambda f: (f / "model.safetensors").unlink(), FileNotFoundError, "model.safetensors is m"),
        (lambda f: cut(f / "model.safetensors"), ValueError, "model.safetensors of .* cut off"),
        (lambda f: (f / "model.safetensors").write_bytes(b""), ValueError, "of 0 bytes cannot"),
    ],
)
def test_a_harmed_file_is_named(folder, harm, error, message):
    harm(folder)
    with pytest.raises(error, match=message):
        read_folder(folder)


def test_other_weights_are_named_where_these_are_missing(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(FileNotFoundError, match="pytorch_model.bin cannot be read"):
        read_folder(folder)


def test_a_missing_part_and_a_missing_tensor_of_a_part_are_named(folder):
    split(folder)
    safetensors.numpy.save_file({"b.bias": TENSORS["b.bias"]}, folder / "part-2.safetensors")
    with pytest.raises(ValueError, match=r"part-2.safetensors has no tensor 'b.weight'"):
        read_folder(folder)
    (folder / "part-2.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"part-2.safetensors is missing"):
        read_folder(folder)
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../b"}}')
    with pytest.raises(ValueError, match=r"'../b', which is not in the folder"):
        read_folder(folder)


def test_misfit_tensors_are_named():
    with pytest.raises(ValueError, match=r"toy lacks 1 of 4 tensors .*: b.bias"):
        to_params(ENTRIES, {k: v for k, v in TENSORS.items() if k != "b.bias"}, "toy")
    with pytest.raises(ValueError, match=r"a.bias of toy has shape \(3,\), .* asks for \(2,\)"):
        to_params(ENTRIES, TENSORS | {"a.bias": np.ones(3)}, "toy")
    with pytest.raises(ValueError, match=r"no x/first/kernel"):
        to_tensors(ENTRIES, {"x": {"first": {}}})
