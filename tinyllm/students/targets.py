"""Targets of an arm: its tasks, and the texts and distributions that its students learn.

    L = L_A + sum_m alpha^m L_Tm                 (the paper's training objective)
    L = L_A + T^2 CE(teachers_T, student_T)      (kd; Hinton et al. 2015, equation 1 and section 2)

L_A and every L_T are token means (see `students/loss.py`). In `kd`, student_T is the softmax of
the student's length-normalised option log-probabilities divided by T, and teachers_T the mean of
the teachers' own, so tokenizers need not agree. T^2 keeps the scale of the gradient as T grows.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
from scipy.special import softmax

from tinyllm import arms, prompts
from tinyllm.data.question import Question
from tinyllm.params import Params
from tinyllm.teachers import ask, choose

ANSWER = "answer"
OPTIONS = "options"
ROUTED = "routed"


@dataclass(frozen=True)
class Task:
    """One training task: the answer, a teacher's rationales, or a distribution over options.

    name: `answer`, `options`, `routed` (the rationale of the teacher chosen for a question) or the
        teacher's URI. weight: 1 for the answer, alpha for a teacher, T^2 for `options`.
    temperature: T, for `options` only. auto: `weight` is only the initial one (`students/loss.py`).
    """

    name: str
    prefix: str
    weight: float
    temperature: float = 0.0
    auto: bool = False


def tasks(arm: arms.Arm, params: Params) -> list[Task]:
    """The tasks of an arm. A teacher keeps its prefix and alpha in every arm of a study; the
    gibberish teacher comes last, with the mean alpha."""
    if not arm.trained:
        return []
    alpha = params.weights()
    learned = [Task(ANSWER, prompts.ANSWER_PREFIX, 1.0)]
    if arm.routed:
        (weight,) = set(arms.alpha(arm.name, alpha).values())
        return [*learned, Task(ROUTED, prompts.rationale_prefix(0), weight)]
    for index, teacher in enumerate(params.teachers):
        if teacher in arm.teachers:
            prefix = prompts.rationale_prefix(index)
            learned.append(Task(teacher, prefix, alpha[teacher], auto=arm.auto_alpha))
    if arm.gibberish:
        prefix = prompts.rationale_prefix(len(params.teachers))
        learned.append(Task(arms.GIBBERISH, prefix, fmean(alpha.values())))
    if arm.scorers:
        t = arm.temperature
        learned.append(Task(OPTIONS, prompts.ANSWER_PREFIX, t * t, t))
    return learned


def arm_texts(
    params: Params,
    arm: arms.Arm,
    questions: Sequence[Question],
    seed: int,
    sample: int = 0,
    chosen: Mapping[str, str] | None = None,
) -> dict[str, dict[str, str]]:
    """Rationales by question id for each rationale task of an arm, permuted if the arm says so;
    raises FileNotFoundError, with the remedy, if a store that the arm needs is not finished.

    chosen: result of `choose.choices` for an arm that chooses among teachers; None: compute it.
    """
    changes = arm.asked | {"cleaning": [*params.cleaning, *arm.cleaning]}
    asked = params.model_copy(update=changes)
    if arm.routed:
        chosen = chosen or choose.choices(asked, arm.teachers, arm.routed, seed, sample=sample)
        return {ROUTED: choose.routed(asked, chosen, sample)}
    texts = {}
    for teacher in arm.teachers:
        rationales = ask.rationales(asked, teacher, sample)
        ids = [question.id for question in questions if rationales.get(question.id, "").strip()]
        draw = random.Random(f"shuffle:{seed}:{teacher}")
        if arm.moved == "rationales":
            moved = draw.sample(ids, len(ids))
            rationales = {to: rationales[of] for to, of in zip(ids, moved, strict=True)}
        elif arm.moved == "words":
            words = scrambled([rationales[name] for name in ids], draw)
            rationales = dict(zip(ids, words, strict=True))
        texts[teacher] = rationales
    if arm.gibberish:
        lengths = [len(text.split()) for written in texts.values() for text in written.values()]
        draw = random.Random(f"gibberish:{seed}" + ":again" * sample)
        texts[arms.GIBBERISH] = gibberish(questions, lengths, draw)
    return texts


def scrambled(texts: Sequence[str], draw: random.Random) -> list[str]:
    """Permute words among texts, position by position; each text keeps its number of words."""
    rows = [text.split() for text in texts]
    for place in range(max(map(len, rows), default=0)):
        long = [row for row in rows if len(row) > place]
        words = [row[place] for row in long]
        draw.shuffle(words)
        for row, word in zip(long, words, strict=True):
            row[place] = word
    return [" ".join(row) for row in rows]


def gibberish(
    questions: Sequence[Question], lengths: Sequence[int], draw: random.Random
) -> dict[str, str]:
    """Texts of random words from all questions, by question id; lengths: in words, to draw from."""
    if not lengths:
        return {}
    words = [w for e in questions for text in (e.question, *e.options) for w in text.split()]
    return {e.id: " ".join(draw.choices(words, k=draw.choice(lengths))) for e in questions}


def arm_options(params: Params, arm: arms.Arm) -> dict[str, list[float]]:
    """Targets of an arm's `options` task by training question id: the probability of each option,
    averaged over the teachers that have scores for the question."""
    rows: dict[str, list[np.ndarray]] = {}
    for teacher in arm.scorers:
        for name, scores in ask.option_scores(params, teacher).items():
            rows.setdefault(name, []).append(softmax(np.array(scores) / arm.temperature))
    return {name: np.mean(several, axis=0).tolist() for name, several in rows.items()}
