"""Beam search gives the sequences of Hugging Face and of CTranslate2 in each named mode."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxembed.convert.huggingface.seq2seq import from_huggingface
from jaxembed.models.seq2seq import translate

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("ignore")]
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

VOCAB, LONGEST, ITEMS = 24, 10, 12
PAD, BOS, EOS = 1, 0, 2


def make_config(kind):
    options = {
        "vocab_size": VOCAB,
        "d_model": 32,
        "encoder_layers": 2,
        "decoder_layers": 2,
        "encoder_attention_heads": 4,
        "decoder_attention_heads": 4,
        "encoder_ffn_dim": 48,
        "decoder_ffn_dim": 48,
        "max_position_embeddings": 32,
        "pad_token_id": PAD,
        "bos_token_id": BOS,
        "eos_token_id": EOS,
        "decoder_start_token_id": EOS,
        "forced_eos_token_id": None,
        "forced_bos_token_id": None,
    }
    if kind == "bart":
        return transformers.BartConfig(activation_function="gelu", **options)
    return transformers.MarianConfig(
        activation_function="swish", scale_embedding=True, decoder_vocab_size=VOCAB, **options
    )


@pytest.fixture(scope="module", params=["bart", "marian"])
def peer(request):
    """A random flat model of theirs, in both systems, and some sources."""
    torch.manual_seed(3)
    config = make_config(request.param)
    kind = {"bart": "BartForConditionalGeneration", "marian": "MarianMTModel"}[request.param]
    theirs = getattr(transformers, kind)(config).eval()
    with torch.no_grad():
        for name, weight in theirs.named_parameters():
            if weight.ndim == 2 and "positions" not in name:
                weight.mul_(4.0)  # the usual start gives nearly uniform distributions: ties
        theirs.model.shared.weight.div_(3.0)
        theirs.final_logits_bias[0, EOS] = 1.0
        theirs.final_logits_bias[0, PAD] = -30.0
    state = {name: value.numpy() for name, value in theirs.state_dict().items()}
    model, params = from_huggingface(config.to_dict(), state)
    rng = np.random.default_rng(0)
    lengths = rng.integers(2, 9, ITEMS)
    source = np.full((ITEMS, 8), PAD, np.int32)
    for row, length in enumerate(lengths):
        source[row, :length] = rng.integers(3, VOCAB, length)
    return theirs, model, params, source, lengths


def ours(peer, **options):
    _, model, params, source, lengths = peer
    run = jax.jit(
        lambda params: translate(
            model,
            params,
            jnp.asarray(source),
            jnp.asarray(lengths),
            bos_id=EOS,
            eos_id=EOS,
            max_len=LONGEST,
            **options,
        )
    )
    return run(params)


def test_logits_equal_theirs(peer):
    theirs, model, params, source, lengths = peer
    read = np.random.default_rng(1).integers(3, VOCAB, (ITEMS, 6)).astype(np.int32)
    mask = np.arange(8)[None] < lengths[:, None]
    with torch.no_grad():
        wanted = theirs(
            input_ids=torch.tensor(source, dtype=torch.long),
            attention_mask=torch.tensor(mask, dtype=torch.long),
            decoder_input_ids=torch.tensor(read, dtype=torch.long),
        ).logits.numpy()
    got = jax.jit(model.apply)({"params": params}, source, lengths, read)
    np.testing.assert_allclose(got, wanted, atol=2e-5)


@pytest.mark.parametrize("power", [0.0, 1.0, -1.0])
@pytest.mark.parametrize("mode", [False, True, "never"])
def test_sequences_equal_those_of_generate(peer, mode, power):
    theirs, _, _, source, lengths = peer
    stop = f"huggingface-{str(mode).lower()}"
    got = ours(
        peer,
        beam_size=4,
        n_best=None,
        stop=stop,
        length_penalty=f"length^{power}" if power else "none",
    )
    for item, length in enumerate(lengths):
        # Alone: in a batch theirs goes on for an item until the whole batch is done.
        found = theirs.generate(
            torch.tensor(source[item : item + 1, :length], dtype=torch.long),
            num_beams=4,
            num_return_sequences=4,
            max_new_tokens=LONGEST,
            do_sample=False,
            early_stopping=mode,
            length_penalty=power,
            return_dict_in_generate=True,
            output_scores=True,
        )
        scores = found.sequences_scores.numpy()
        np.testing.assert_allclose(got.scores[item], scores, atol=2e-5)
        for place, sequence in enumerate(found.sequences[:, 1:].tolist()):
            sequence = sequence[: sequence.index(EOS) + 1] if EOS in sequence else sequence
            sequence = [token for token in sequence if token != PAD]
            length = int(got.lengths[item, place])
            is_tied = np.sum(np.abs(scores - scores[place]) < 2e-5) > 1
            assert is_tied or got.tokens[item, place, :length].tolist() == sequence


@pytest.mark.parametrize("peer", ["bart"], indirect=True)
@pytest.mark.parametrize("power", [0.0, 1.0])
@pytest.mark.parametrize("beam_size", [2, 4])
def test_sequences_equal_those_of_ctranslate2(peer, beam_size, power, tmp_path):
    ctranslate2 = pytest.importorskip("ctranslate2")
    theirs, model, params, source, lengths = peer
    folder = convert(theirs, tmp_path, ctranslate2)
    translator = ctranslate2.Translator(str(folder), compute_type="float32", inter_threads=1)
    got = ours(
        peer,
        beam_size=beam_size,
        n_best=1,
        stop="ctranslate2",
        length_penalty=f"length^{power}" if power else "none",
    )
    sources = [[f"w{i}" for i in row[:n]] for row, n in zip(source, lengths, strict=True)]
    found = translator.translate_batch(
        sources,
        beam_size=beam_size,
        length_penalty=power,
        max_decoding_length=LONGEST,
        min_decoding_length=0,  # theirs is 1, which keeps an empty target out
        return_scores=True,
        return_end_token=True,
        max_batch_size=1,
    )
    for item, result in enumerate(found):
        sequence = [int(token[1:]) for token in result.hypotheses[0]]
        length = int(got.lengths[item, 0])
        assert got.tokens[item, 0, :length].tolist() == sequence
        np.testing.assert_allclose(got.scores[item, 0], result.scores[0], atol=1e-4)


def convert(theirs, folder, ctranslate2):
    """Their model as CTranslate2's, whose converter expects an older configuration."""
    config = theirs.config
    config.normalize_before = config.add_final_layer_norm = False
    config.normalize_embedding, config.static_position_embeddings = True, False
    config.add_bias_logits, config.extra_pos_embeddings = True, 2
    loader = ctranslate2.converters.transformers._MODEL_LOADERS["BartConfig"]
    spec = loader.get_model_spec(theirs)
    words = [f"w{index}" for index in range(VOCAB)]
    spec.register_source_vocabulary(words)
    spec.register_target_vocabulary(words)
    spec.config.bos_token, spec.config.eos_token = f"w{BOS}", f"w{EOS}"
    spec.config.unk_token, spec.config.decoder_start_token = f"w{PAD}", f"w{EOS}"
    spec.config.add_source_bos = spec.config.add_source_eos = False
    spec.validate()
    spec.optimize()
    spec.save(str(folder))
    return folder
