"""CLIP and SigLIP folders: the vectors of transformers after loading, and theirs after saving."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxembed.convert.huggingface import load_clip, load_siglip, save_clip, save_siglip
from jaxembed.data.image_processing import ImageProcessing

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("ignore")]
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

SIZES = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3}
SIZES |= {"num_attention_heads": 4}
EOS = 99


def make(kind, activation):
    torch.manual_seed(0)
    vision = SIZES | {"image_size": 32, "patch_size": 8, "hidden_act": activation}
    text = SIZES | {"vocab_size": 100, "max_position_embeddings": 12, "hidden_act": activation}
    if kind == "clip":
        text |= {"bos_token_id": 98, "eos_token_id": EOS, "pad_token_id": 1}
        config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=24)
        return transformers.CLIPModel(config).eval()
    config = transformers.SiglipConfig(text_config=text, vision_config=vision)
    return transformers.SiglipModel(config).eval()


def run(model, images, ids):
    with torch.no_grad():
        out = model(
            input_ids=torch.from_numpy(ids.astype(np.int64)),
            pixel_values=torch.from_numpy(images.transpose(0, 3, 1, 2).copy()),
        )
    return out.image_embeds.numpy(), out.text_embeds.numpy(), out.logits_per_image.numpy()


@pytest.mark.parametrize("activation", ["quick_gelu", "gelu", "gelu_pytorch_tanh"])
@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_towers_give_their_vectors_and_round_trip(kind, activation, tmp_path):
    theirs = make(kind, activation)
    theirs.save_pretrained(tmp_path / "theirs")
    load, save = (load_clip, save_clip) if kind == "clip" else (load_siglip, save_siglip)
    model, params, preprocessing = load(tmp_path / "theirs")
    random = np.random.default_rng(1)
    images = random.normal(0, 1, (4, 32, 32, 3)).astype(np.float32)
    ids = random.integers(2, 98, (4, 12)).astype(np.int32)
    lengths = np.full(4, 12, np.int32)
    if kind == "clip":
        lengths = np.array([12, 3, 7, 5], np.int32)
        for row, length in zip(ids, lengths, strict=True):
            row[length - 1 :] = EOS
    wanted = run(theirs, images, ids)
    sides = (jnp.asarray(images),), (jnp.asarray(ids), jnp.asarray(lengths))
    queries = model.apply({"params": params}, *sides[0], method="encode_query")
    docs = model.apply({"params": params}, *sides[1], method="encode_doc")
    logits = model.apply({"params": params}, *sides)
    for got, value in zip((queries, docs, logits), wanted, strict=True):
        np.testing.assert_allclose(got, value, atol=1e-4)
    save(tmp_path / "ours", model, params, preprocessing)
    again = type(theirs).from_pretrained(tmp_path / "ours").eval()
    for name, value in again.state_dict().items():
        assert torch.equal(value, theirs.state_dict()[name]), name
    for got, value in zip(run(again, images, ids), wanted, strict=True):
        np.testing.assert_array_equal(got, value)


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_pictures_are_prepared_as_theirs(kind):
    if kind == "clip":
        from transformers.models.clip.image_processing_pil_clip import (
            CLIPImageProcessorPil as Their,
        )

        ours = ImageProcessing(size=(32,), crop=(32, 32))
        theirs = Their(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    else:
        from transformers.models.siglip.image_processing_pil_siglip import (
            SiglipImageProcessorPil as Their,
        )

        half = (0.5, 0.5, 0.5)
        ours = ImageProcessing(size=(32, 32), crop=(), mean=half, std=half)
        theirs = Their(size={"height": 32, "width": 32})
    random = np.random.default_rng(0)
    pictures = [random.integers(0, 256, (*s, 3)).astype(np.uint8) for s in ((50, 41), (33, 90))]
    wanted = theirs(pictures, return_tensors="np")["pixel_values"].transpose(0, 2, 3, 1)
    np.testing.assert_allclose(ours(pictures), wanted, atol=1e-5)
