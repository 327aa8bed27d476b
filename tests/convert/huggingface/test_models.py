"""Models of Hugging Face compute here what they compute there, and go back unchanged."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from random_params import QUICKLY

from jaxembed.convert.huggingface import (
    load_bert,
    load_gpt2,
    read_folder,
    save_bert,
    save_gpt2,
    write_folder,
)

GOLDEN = np.load(Path(__file__).parents[2] / "golden" / "huggingface.npz")
NAMES = ("bert", "roberta", "distilbert", "gpt2")
LOAD = {"gpt2": load_gpt2} | dict.fromkeys(NAMES[:3], load_bert)
MASK = GOLDEN["mask"]


def part(name, kind):
    start = f"{name}/{kind}/"
    return {key.removeprefix(start): GOLDEN[key] for key in GOLDEN if key.startswith(start)}


def config_of(name):
    return json.loads(str(GOLDEN[f"{name}/config"]))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """The golden models as Hugging Face would have saved them."""
    root = tmp_path_factory.mktemp("huggingface")
    for name in NAMES:
        write_folder(root / name, config_of(name), part(name, "tensor"))
    return root


def run(name, model, params):
    """Hidden states and logits by the names of the golden file."""
    ids, mask = jnp.asarray(GOLDEN["ids"]), jnp.asarray(MASK)
    apply = jax.jit(
        lambda params, *inputs, method: model.apply({"params": params}, *inputs, method=method),
        static_argnames="method",
        compiler_options=QUICKLY,
    )
    if name == "gpt2":
        states = apply(params, ids, mask, method="hidden_states")
        return {"states": states, "logits": apply(params, ids, mask, method=None)}
    segments = jnp.asarray(GOLDEN["segments"]) if name == "bert" else None
    states, _, words, after = apply(params, ids, mask, segments, method=None)
    if after is None:
        return {"states": states, "logits": words}
    return {"states": states, "prediction_logits": words, "seq_relationship_logits": after}


@pytest.mark.parametrize("name", NAMES)
def test_states_and_logits_equal_theirs(name, folders):
    got, wanted = run(name, *LOAD[name](folders / name)), part(name, "output")
    assert got.keys() == wanted.keys()
    for key, value in wanted.items():
        ours = np.asarray(got[key])
        if key != "seq_relationship_logits":  # theirs are not defined at padding
            ours, value = ours[..., MASK, :], value[..., MASK, :]
        np.testing.assert_allclose(ours, value, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_goes_back_as_it_came(name, folders, tmp_path):
    model, params = LOAD[name](folders / name)
    (save_gpt2 if name == "gpt2" else save_bert)(tmp_path, model, params)
    config, tensors = read_folder(tmp_path)
    theirs = part(name, "tensor")
    assert tensors
    for key, value in tensors.items():
        np.testing.assert_array_equal(value, theirs[key])
    tied = ("decoder.weight", "decoder.bias", "lm_head.weight", "vocab_projector.weight")
    assert all(key.endswith(tied) for key in theirs.keys() - tensors.keys())
    wanted = config_of(name)
    ignored = {"torch_dtype", "sinusoidal_pos_embds", "n_inner", "pad_token_id"}
    assert {key: wanted[key] for key in config.keys() - ignored if key in wanted} == {
        key: config[key] for key in config.keys() - ignored if key in wanted
    }
    assert LOAD[name](tmp_path)[0] == model


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("bert", {"model_type": "t5"}, "of type 't5': bert, roberta"),
        ("gpt2", {"model_type": "gptj"}, "of type 'gptj': load_gpt2 reads gpt2"),
        ("bert", {"position_embedding_type": "relative_key"}, "position_embedding_type is 'rel"),
        ("bert", {"hidden_act": "mish"}, "hidden_act is 'mish': one of relu"),
        ("bert", {"num_hidden_layers": 3}, r"lacks 16 of \d+ tensors .*: encoder.layer.2."),
        ("bert", {"num_hidden_layers": 1}, "16 tensors that its config.* ask for: encoder.layer.1"),
        ("bert", {"hidden_size": 16}, r"word_embeddings.weight of .* has shape \(17, 8\)"),
        ("gpt2", {"n_layer": 1}, "12 tensors that its configuration does not ask for: h.1.attn"),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "inverse_layer_idx is True"),
    ],
)
def test_what_does_not_fit_is_named(name, changes, message, tmp_path):
    write_folder(tmp_path, config_of(name) | changes, part(name, "tensor"))
    with pytest.raises(ValueError, match=message):
        LOAD[name](tmp_path)


def test_an_incomplete_configuration_and_an_untied_table_are_named(tmp_path):
    config, tensors = config_of("bert"), part("bert", "tensor")
    write_folder(tmp_path, {k: v for k, v in config.items() if k != "hidden_size"}, tensors)
    with pytest.raises(ValueError, match="says no 'hidden_size'"):
        load_bert(tmp_path)
    tensors["cls.predictions.decoder.weight"] = tensors["cls.predictions.decoder.weight"] + 1
    write_folder(tmp_path, config, tensors)
    with pytest.raises(ValueError, match="cls.predictions.decoder.weight of .* is not the table"):
        load_bert(tmp_path)


def test_a_family_without_such_parts_is_refused(folders, tmp_path):
    model, params = load_bert(folders / "distilbert")
    with pytest.raises(ValueError, match="a distilbert there has no such parts: .* pooler=True"):
        save_bert(tmp_path, model.clone(pooler=True), params)
