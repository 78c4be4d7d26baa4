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

BATCH = 64


def embeddings(texts: Sequence[str], longest: int = 256) -> np.ndarray:
    """One vector of length 1 per text: [texts, 384], float32.

    longest: tokens of a text; the rest is cut. ValueError, with the remedy, without the model.
    """
    where = source(ALIASES["minilm-ed"])
    try:
        tokenizer = AutoTokenizer.from_pretrained(where)
        model = AutoModel.from_pretrained(where, use_safetensors=True).to(device()).eval()
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{where!r} cannot be read ({str(error).splitlines()[0]}); it chooses for "
            "tinyllm:routed-similar. Without a network run `make models`"
        ) from error
    vectors = np.zeros((len(texts), model.config.hidden_size), np.float32)
    order = np.argsort([len(text) for text in texts])
    for start in range(0, len(order), BATCH):
        rows = order[start : start + BATCH]
        given = tokenizer(
            [texts[i] for i in rows],
            truncation=True, max_length=longest, padding=True, return_tensors="pt",
        ).to(device())  # fmt: skip
        mask = given["attention_mask"].unsqueeze(-1)
        with torch.inference_mode():
            states = (model(**given).last_hidden_state * mask).sum(1)  # a mean but for its length
        vectors[rows] = torch.nn.functional.normalize(states, dim=1).cpu().numpy()
    return vectors
