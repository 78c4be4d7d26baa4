"""Choose one teacher's rationale for each question (arms `tinyllm:routed-...`).

random    at random: the control for the two others
similar   the rationale whose sentence embedding is closest to that of question and gold answer
          (all-MiniLM-L6-v2), after the similarity router of arXiv 2602.01064, as far as published
quality   the rationale that meets most criteria of `quality.holds`

Ties are broken at random. A rationale in which a teacher says that it does not know can be chosen;
the question then has no rationale to learn from, as in that teacher's own arm.
"""

import random
from collections.abc import Mapping, Sequence

import numpy as np
import torch

from tinyllm.data import load as data
from tinyllm.models import load as models
from tinyllm.params import Params
from tinyllm.teachers import ask, quality

BATCH = 64  # texts per forward pass
LONGEST = 256  # tokens of a text; the rest is cut


def choices(
    params: Params,
    teachers: Sequence[str],
    how: str,
    seed: int,
    *,
    sample: int = 0,
    first: int | None = None,
) -> dict[str, str]:
    """The chosen teacher by id, for each training question with a rationale from any teacher.

    how: see the module. seed: for random choices. sample: of the rationales (see `ask.taken`).
    first: use only the first `first` questions.
    """
    written = {uri: ask.taken(params, uri, sample) for uri in teachers}
    draw, chosen = random.Random(f"route:{seed}"), {}
    rows = data.read(params)["train"][:first]
    asked = {row.id: f"{row.question} {row.gold}" for row in rows}
    if how == "similar":
        texts = [texts[name][0] for name in asked for texts in written.values() if name in texts]
        distinct = list(dict.fromkeys([*asked.values(), *texts]))
        vectors = dict(zip(distinct, embeddings(distinct), strict=True))
    for row in rows:
        values = {}
        for uri, texts in written.items():
            if row.id in texts:
                text, cut = texts[row.id]
                values[uri] = 0.0
                if how == "similar":
                    values[uri] = float(np.dot(vectors[asked[row.id]], vectors[text]))
                elif how == "quality":
                    values[uri] = quality.holds(text, row, cut)
        if values:
            best = [uri for uri in values if values[uri] == max(values.values())]
            chosen[row.id] = draw.choice(best)
    return chosen


def embeddings(texts: Sequence[str]) -> np.ndarray:
    """One vector of length 1 per text: [texts, 384], float32.

    The mean of a text's last hidden states in all-MiniLM-L6-v2 (Reimers and Gurevych 2019), the
    encoder of `minilm-ed` before it is trained. ValueError, with the remedy, without the model.
    """
    model, tokenizer = models.load("minilm-ed")
    encoder = model.get_encoder().to(models.device()).eval()
    vectors = np.zeros((len(texts), encoder.config.hidden_size), np.float32)
    order = np.argsort([len(text) for text in texts])
    for start in range(0, len(order), BATCH):
        rows = order[start : start + BATCH]
        sizes = {"truncation": True, "max_length": LONGEST, "padding": True}
        read = tokenizer([texts[i] for i in rows], **sizes, return_tensors="pt")
        read = read.to(encoder.device)
        with torch.inference_mode():
            states = encoder(**read).last_hidden_state * read["attention_mask"].unsqueeze(-1)
        vectors[rows] = torch.nn.functional.normalize(states.sum(1), dim=1).cpu().numpy()
    return vectors


def routed(params: Params, chosen: Mapping[str, str], sample: int = 0) -> dict[str, str]:
    """Rationale of the chosen teacher by question id, without questions where it abstained."""
    kept = {uri: ask.rationales(params, uri, sample) for uri in dict.fromkeys(chosen.values())}
    return {name: kept[uri][name] for name, uri in chosen.items() if name in kept[uri]}
