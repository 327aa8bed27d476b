"""Writes huggingface.npz: small random models of Hugging Face and what they say of some ids.

python tests/golden/make_huggingface.py  (with torch 2.13 and transformers 5.23)
"""

import json
from pathlib import Path

import numpy as np
import torch
import transformers

VOCAB, LENGTHS = 17, (6, 4, 1)
SIZES = {
    "vocab_size": VOCAB,
    "hidden_size": 8,
    "num_attention_heads": 2,
    "intermediate_size": 12,
    "num_hidden_layers": 2,
    "max_position_embeddings": 12,
}
DISTIL = {"vocab_size": VOCAB, "dim": 8, "n_heads": 2, "hidden_dim": 12, "n_layers": 2}
GPT = {"vocab_size": VOCAB, "n_embd": 8, "n_head": 2, "n_layer": 2, "n_positions": 12}


def make_models():
    """The models by name; drawn wider than usual, so that every part matters."""
    torch.manual_seed(0)
    wide = {"initializer_range": 0.5}
    models = {
        "bert": transformers.BertForPreTraining(transformers.BertConfig(**SIZES, **wide)),
        "roberta": transformers.RobertaForMaskedLM(transformers.RobertaConfig(**SIZES, **wide)),
        "distilbert": transformers.DistilBertForMaskedLM(
            transformers.DistilBertConfig(**DISTIL, max_position_embeddings=12, **wide)
        ),
        "gpt2": transformers.GPT2LMHeadModel(transformers.GPT2Config(**GPT, **wide)),
    }
    with torch.no_grad():
        for model in models.values():
            for parameter in model.parameters():
                if parameter.ndim == 1:  # biases and scales, which start as 0 and 1
                    parameter.add_(0.2 * torch.randn_like(parameter))
    return {name: model.eval() for name, model in models.items()}


def make_inputs():
    """Ids with padding behind, and which are real."""
    random = np.random.default_rng(0)
    mask = np.arange(max(LENGTHS))[None] < np.asarray(LENGTHS)[:, None]
    # 1 is RoBERTa's padding, which decides its positions.
    return np.where(mask, random.integers(3, VOCAB, mask.shape), 1).astype(np.int32), mask


def outputs_of(model, ids, mask, segments=None):
    """Hidden states and logits."""
    more = {} if segments is None else {"token_type_ids": torch.tensor(segments).long()}
    with torch.no_grad():
        output = model(
            input_ids=torch.tensor(ids).long(),
            attention_mask=torch.tensor(mask).long(),
            output_hidden_states=True,
            **more,
        )
    found = {"states": np.stack([state.numpy() for state in output.hidden_states])}
    for name in ("logits", "prediction_logits", "seq_relationship_logits"):
        if name in output:
            found[name] = output[name].numpy()
    return found


def main():
    """Writes the file beside this one."""
    ids, mask = make_inputs()
    segments = (np.arange(ids.shape[1])[None] >= 2) * mask
    arrays = {"ids": ids, "mask": mask, "segments": segments.astype(np.int32)}
    for name, model in make_models().items():
        given = segments if name == "bert" else None
        outputs = outputs_of(model, ids, mask, given)
        config = model.config.to_dict() | {"architectures": [type(model).__name__]}
        arrays[f"{name}/config"] = np.array(json.dumps(config))
        arrays |= {f"{name}/output/{key}": value for key, value in outputs.items()}
        for key, value in model.state_dict().items():
            arrays[f"{name}/tensor/{key}"] = value.numpy()
    np.savez_compressed(Path(__file__).parent / "huggingface.npz", **arrays)


if __name__ == "__main__":
    main()
