"""Sentence embeddings: what a text is about, as a vector.

all-MiniLM-L6-v2 (Reimers and Gurevych 2019; the weights that `minilm-ed` starts from): the mean of
a text's last hidden states, scaled to length 1.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from transformers import AutoModel, AutoTokenizer

from tinyllm.models.aliases import ALIASES, source
from tinyllm.models.load import device

LONGEST = 256  # tokens that the model was trained on; a longer text is cut
BATCH = 64


@torch.inference_mode()
def embeddings(texts: Sequence[str]) -> np.ndarray:
    """One vector of length 1 per text: [texts, 384], float32."""
    where = source(ALIASES["minilm-ed"])
    tokenizer = AutoTokenizer.from_pretrained(where)
    model = AutoModel.from_pretrained(where, use_safetensors=True).to(device()).eval()
    vectors = np.zeros((len(texts), model.config.hidden_size), np.float32)
    order = np.argsort([len(text) for text in texts])
    for start in range(0, len(order), BATCH):
        rows = order[start : start + BATCH]
        given = tokenizer(
            [texts[i] for i in rows],
            truncation=True, max_length=LONGEST, padding=True, return_tensors="pt",
        ).to(device())  # fmt: skip
        mask = given["attention_mask"].unsqueeze(-1)
        states = (model(**given).last_hidden_state * mask).sum(1)  # a mean but for its length
        vectors[rows] = torch.nn.functional.normalize(states, dim=1).cpu().numpy()
    return vectors
