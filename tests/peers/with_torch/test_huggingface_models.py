"""Random models of Hugging Face load here, and what is written here loads there, both equal."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxembed.convert.huggingface import load_bert, load_gpt2, save_bert, save_gpt2

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("ignore")]
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

LENGTHS = np.asarray([20, 7, 1])
MASK = np.arange(20)[None] < LENGTHS[:, None]
WIDE = {"initializer_range": 0.1}
SIZES = {
    "vocab_size": 90,
    "hidden_size": 48,
    "num_attention_heads": 4,
    "intermediate_size": 80,
    "num_hidden_layers": 4,
    "max_position_embeddings": 40,
}
MAKE = {
    "BertForPreTraining": lambda: transformers.BertConfig(**SIZES, **WIDE),
    "BertModel": lambda: transformers.BertConfig(**SIZES, **WIDE),
    "RobertaModel": lambda: transformers.RobertaConfig(**SIZES, **WIDE),
    "RobertaForMaskedLM": lambda: transformers.RobertaConfig(**SIZES, **WIDE),
    "XLMRobertaModel": lambda: transformers.XLMRobertaConfig(**SIZES, **WIDE),
    "DistilBertModel": lambda: transformers.DistilBertConfig(
        vocab_size=90, dim=48, n_heads=4, hidden_dim=80, n_layers=3, **WIDE
    ),
    "GPT2Model": lambda: transformers.GPT2Config(
        vocab_size=90, n_embd=48, n_head=4, n_layer=3, n_positions=40, **WIDE
    ),
    "GPT2LMHeadModel": lambda: transformers.GPT2Config(
        vocab_size=90, n_embd=48, n_head=4, n_layer=3, n_positions=40, **WIDE
    ),
}


@pytest.fixture(scope="module")
def ids():
    drawn = np.random.default_rng(0).integers(3, 90, MASK.shape)
    return np.where(MASK, drawn, 1).astype(np.int32)


def theirs(model, ids):
    """Hidden states, and logits where it has any."""
    with torch.no_grad():
        output = model(
            input_ids=torch.tensor(ids).long(),
            attention_mask=torch.tensor(MASK).long(),
            output_hidden_states=True,
        )
    logits = next((output[n] for n in ("logits", "prediction_logits") if n in output), None)
    states = [state.numpy()[MASK] for state in output.hidden_states]
    return states, None if logits is None else logits.numpy()[MASK]


def ours(model, params, ids):
    variables = {"params": params}
    states = jax.jit(
        lambda v: model.apply(v, jnp.asarray(ids), jnp.asarray(MASK), method="hidden_states")
    )(variables)
    logits = None
    if getattr(model, "word_head", True):
        logits = np.asarray(model.apply(variables, states[-1], method="predict_words"))[MASK]
    return [np.asarray(state)[MASK] for state in states], logits


@pytest.mark.parametrize("name", MAKE)
def test_outputs_are_equal_there_and_back(name, ids, tmp_path):
    torch.manual_seed(1)
    original = getattr(transformers, name)(MAKE[name]()).eval()
    with torch.no_grad():
        for parameter in original.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
    original.save_pretrained(tmp_path / "theirs")
    load, save = (load_gpt2, save_gpt2) if "GPT2" in name else (load_bert, save_bert)
    model, params = load(tmp_path / "theirs")
    states, logits = theirs(original, ids)
    got_states, got_logits = ours(model, params, ids)
    for one, other in zip(got_states, states, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
    if logits is not None:
        np.testing.assert_allclose(got_logits, logits, atol=1e-5)
    save(tmp_path / "ours", model, params)
    kind = getattr(transformers, name.replace("XLMRoberta", "Roberta"))
    back_states, back_logits = theirs(kind.from_pretrained(tmp_path / "ours").eval(), ids)
    for one, other in zip(back_states, states, strict=True):
        np.testing.assert_array_equal(one, other)
    if logits is not None:
        np.testing.assert_array_equal(back_logits, logits)
