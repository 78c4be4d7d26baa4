"""One teacher's rationale for each question, where several wrote one (arms `tinyllm:routed-...`).

random    drawn: the control, without which a choice shows nothing
similar   the rationale whose sentence embedding is closest to that of question and gold answer
          (all-MiniLM-L6-v2): the similarity router of arXiv 2602.01064, for what is known of it
quality   the rationale that most of these hold for: it says something; it ends whole and invents
          no question; it repeats nothing; it mentions the gold option alone. A draw among equals.

A rationale in which a teacher says that it does not know can be chosen; the question then has none
to learn from, as with that teacher alone.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence

import joblib
import numpy as np

from tinyllm import paths
from tinyllm.data import load as data
from tinyllm.data.question import Question
from tinyllm.models.embed import embeddings
from tinyllm.params import Params
from tinyllm.teachers import ask, quality

Texts = Mapping[str, str]  # by teacher


def choices(
    params: Params,
    teachers: Sequence[str],
    how: str,
    seed: int,
    *,
    sample: int = 0,
    first: int | None = None,
) -> dict[str, str]:
    """The chosen teacher of each training question that any of the teachers wrote for, by id.

    how: see the module. seed: of the draws. sample: of the rationales (`ask.rationales`). first:
        only so many questions.
    """
    written = {uri: ask.rationales(params, uri, sample, abstentions=True) for uri in teachers}
    rows, candidates = [], []
    for row in data.read(params)["train"][:first]:
        have = {uri: texts[row.id] for uri, texts in written.items() if row.id in texts}
        if have:
            rows.append(row)
            candidates.append(have)
    if how == "similar":
        values = similarities(rows, candidates)
    elif how == "quality":
        pairs = zip(rows, candidates, strict=True)
        values = [{uri: quality.holds(t, row) for uri, t in have.items()} for row, have in pairs]
    else:
        values = [dict.fromkeys(have, 0.0) for have in candidates]
    draw = random.Random(f"route:{seed}")
    chosen = {}
    for row, value in zip(rows, values, strict=True):
        best = [uri for uri in value if value[uri] == max(value.values())]
        chosen[row.id] = draw.choice(best)
    return chosen


def similarities(rows: Sequence[Question], candidates: Sequence[Texts]) -> list[dict[str, float]]:
    """For each question, the cosine of each rationale and of question with gold answer.

    Embeddings are computed once and kept in runs/.
    """
    texts = [f"{row.question} {row.gold}" for row in rows]
    texts += [text for have in candidates for text in have.values()]
    cached = joblib.Memory(paths.runs() / "cache", verbose=0).cache(embeddings)
    vectors = cached(list(dict.fromkeys(texts)))
    at = dict(zip(dict.fromkeys(texts), vectors, strict=True))
    return [
        {uri: float(np.dot(at[question], at[text])) for uri, text in have.items()}
        for question, have in zip(texts, candidates, strict=False)
    ]


def routed(
    params: Params, teachers: Sequence[str], how: str, seed: int, sample: int = 0
) -> dict[str, str]:
    """Rationale by question id, each of its chosen teacher; none where that one abstained."""
    kept = {uri: ask.rationales(params, uri, sample) for uri in teachers}
    chosen = choices(params, teachers, how, seed, sample=sample)
    return {name: kept[uri][name] for name, uri in chosen.items() if name in kept[uri]}


def shares(params: Params, teachers: Sequence[str], how: str, seed: int) -> str:
    """How often each teacher was chosen (in the first sample): `micro:a 52%, micro:b 48%`."""
    counts = Counter(choices(params, teachers, how, seed).values())
    return ", ".join(f"{uri} {100 * counts[uri] / counts.total():.0f}%" for uri in teachers)
