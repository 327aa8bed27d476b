"""Writes clip.npz and siglip.npz: small random models of transformers and what they give.

python tests/golden/make_clip.py   (with torch and transformers installed)
"""

import json
import tempfile
from pathlib import Path

import numpy as np
import torch
import transformers
from safetensors.numpy import load_file

HERE = Path(__file__).parent
SIZES = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
SIZES |= {"num_attention_heads": 2}
EOS = 19


def make(kind, **options):
    """A model whose weights are large enough to tell activations and poolings apart."""
    torch.manual_seed(0)
    vision = SIZES | {"image_size": 8, "patch_size": 4} | options
    text = SIZES | {"vocab_size": 20, "max_position_embeddings": 6} | options
    if kind == "clip":
        text |= {"bos_token_id": 18, "eos_token_id": EOS, "pad_token_id": 1}
        config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=12)
        model = transformers.CLIPModel(config)
    else:
        config = transformers.SiglipConfig(text_config=text, vision_config=vision)
        model = transformers.SiglipModel(config)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim:
                weight.add_(0.2 * torch.randn_like(weight))
    return model.eval()


def draw_inputs(kind):
    """Images, ids and lengths; CLIP's texts end with EOS and are padded with it."""
    random = np.random.default_rng(0)
    images = random.normal(0, 1, (3, 8, 8, 3)).astype(np.float32)
    ids = random.integers(2, 18, (3, 6)).astype(np.int32)
    lengths = np.array([6, 3, 4] if kind == "clip" else [6, 6, 6], np.int32)
    if kind == "clip":
        for row, length in zip(ids, lengths, strict=True):
            row[length - 1 :] = EOS
    return images, ids, lengths


def run(model, images, ids):
    """Unit vectors of images and texts, and the logits."""
    with torch.no_grad():
        out = model(
            input_ids=torch.from_numpy(ids.astype(np.int64)),
            pixel_values=torch.from_numpy(images.transpose(0, 3, 1, 2).copy()),
        )
    return out.image_embeds.numpy(), out.text_embeds.numpy(), out.logits_per_image.numpy()


def main():
    for kind in ("clip", "siglip"):
        model, (images, ids, lengths) = make(kind), draw_inputs(kind)
        with tempfile.TemporaryDirectory() as folder:
            model.save_pretrained(folder)
            tensors = load_file(Path(folder) / "model.safetensors")
            config = json.loads((Path(folder) / "config.json").read_text())
        queries, docs, logits = run(model, images, ids)
        np.savez_compressed(
            HERE / f"{kind}.npz",
            config=json.dumps(config),
            images=images,
            ids=ids,
            lengths=lengths,
            queries=queries,
            docs=docs,
            logits=logits,
            **{f"tensor:{name}": value for name, value in tensors.items()},
        )


if __name__ == "__main__":
    main()
