"""CLIP and SigLIP folders against stored outputs of transformers, and there and back."""

import dataclasses
import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from jaxembed.convert.huggingface import load_clip, load_siglip, save_clip, save_siglip
from jaxembed.data import train_wordpiece
from jaxembed.data.image_processing import ImageProcessing

GOLDEN = Path(__file__).parents[2] / "golden"
LOAD = {"clip": load_clip, "siglip": load_siglip}
SAVE = {"clip": save_clip, "siglip": save_siglip}


@pytest.fixture(scope="module", params=["clip", "siglip"])
def stored(request, tmp_path_factory):
    """A folder of theirs, and what their model gives."""
    with np.load(GOLDEN / f"{request.param}.npz") as file:
        arrays = dict(file)
    folder = tmp_path_factory.mktemp(request.param)
    (folder / "config.json").write_text(str(arrays.pop("config")))
    tensors = {n.removeprefix("tensor:"): v for n, v in arrays.items() if n.startswith("tensor:")}
    safetensors.numpy.save_file(tensors, folder / "model.safetensors")
    return request.param, folder, arrays


def encode(model, params, arrays):
    images, ids, lengths = (jnp.asarray(arrays[name]) for name in ("images", "ids", "lengths"))
    logits = model.apply({"params": params}, (images,), (ids, lengths))
    queries = model.apply({"params": params}, images, method="encode_query")
    docs = model.apply({"params": params}, ids, lengths, method="encode_doc")
    return queries, docs, logits


def test_loaded_towers_give_the_vectors_of_transformers(stored):
    kind, folder, arrays = stored
    model, params, _ = LOAD[kind](folder)
    queries, docs, logits = encode(model, params, arrays)
    np.testing.assert_allclose(queries, arrays["queries"], atol=1e-5)
    np.testing.assert_allclose(docs, arrays["docs"], atol=1e-5)
    np.testing.assert_allclose(logits, arrays["logits"], atol=1e-4)


def test_round_trip_loses_nothing(stored, tmp_path):
    kind, folder, _ = stored
    model, params, preprocessing = LOAD[kind](folder)
    words = ["a cat", "a dog and a cat", "the dog"]
    image = ImageProcessing(size=(9, 10), crop=(8, 8), resampling="bilinear", mean=(0.1, 0.2, 0.3))
    tokenizer = train_wordpiece(words * 3, 40)
    preprocessing = dataclasses.replace(preprocessing, image=image, tokenizer=tokenizer)
    SAVE[kind](tmp_path, model, params, preprocessing)
    again, params_again, preprocessing_again = LOAD[kind](tmp_path)
    assert again == model and preprocessing_again == preprocessing
    theirs = safetensors.numpy.load_file(folder / "model.safetensors")
    ours = safetensors.numpy.load_file(tmp_path / "model.safetensors")
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        np.testing.assert_array_equal(ours[name], value)
    before = json.loads((folder / "config.json").read_text())
    after = json.loads((tmp_path / "config.json").read_text())
    for part in ("text_config", "vision_config"):
        for name in ("hidden_size", "hidden_act", "layer_norm_eps", "eos_token_id"):
            assert after[part].get(name) == before[part].get(name)
    ids, lengths = preprocessing_again.texts(words)
    if kind == "siglip":
        assert ids.shape == (3, 6) and lengths.tolist() == [6] * 3
    else:
        assert lengths.tolist() == [4, 6, 4] and ids.shape == (3, 6)
        assert ids[0, 4:].tolist() == [tokenizer.pad_id] * 2


def test_pictures_are_scaled_cropped_and_normalised():
    grey = np.full((20, 10), 51, np.uint8)
    prepared = ImageProcessing(size=(6,), crop=(6, 6), mean=(0.1,) * 3, std=(0.5,) * 3)([grey])
    assert prepared.shape == (1, 6, 6, 3)
    np.testing.assert_allclose(prepared, (0.2 - 0.1) / 0.5, atol=1e-6)
    small = ImageProcessing(size=(), crop=(4, 4), mean=(0.0,) * 3, std=(1.0,) * 3)
    (padded,) = small([np.full((2, 3, 3), 255, np.uint8)])
    np.testing.assert_array_equal(padded[..., 0].sum(axis=1), [0, 3, 3, 0])
    with pytest.raises(ValueError, match="set crop"):
        ImageProcessing(crop=())([grey, grey.T[:, :12]])


def test_what_does_not_fit_is_named(stored, tmp_path):
    kind, folder, _ = stored
    other = {"clip": "siglip", "siglip": "clip"}[kind]
    with pytest.raises(ValueError, match=f"of type '{kind}', not {other}"):
        LOAD[other](folder)
    model, params, preprocessing = LOAD[kind](folder)
    with pytest.raises(ValueError, match="not of .*'s kind"):
        SAVE[other](tmp_path, model, params)
    with pytest.raises(ValueError, match=r"no tokenizer.json"):
        preprocessing.texts(["a"])
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["hidden_size"] = 24
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    with pytest.raises(ValueError, match="asks for"):
        LOAD[kind](tmp_path)
