"""What the student of an arm learns: its tasks, and the texts and distributions they aim at.

    L = L_A + sum_m alpha^m L_Tm                 (the paper's training objective)
    L = L_A + T^2 CE(teachers_T, student_T)      (kd; Hinton et al. 2015, equation 1 and section 2)

L_A and every L_T are token means (see `training`). In `kd`, student_T is the softmax of the
student's length-normalised option log-probabilities divided by T, which is how the study scores
students, and teachers_T the mean of the teachers' own: options stand on both sides, so no tokenizer
has to agree. T^2 keeps the gradient's size as T grows.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import pandas as pd

from tinyllm import arms, prompts, rationales
from tinyllm.data import Example
from tinyllm.params import Params

ANSWER = "answer"
OPTIONS = "options"


@dataclass(frozen=True)
class Task:
    """One thing a student learns: the answer, a teacher's rationales, or how likely options are.

    name: `answer`, `options` or the teacher's URI. prefix: tells the task to the student. weight: 1
    for the answer, alpha for a teacher, T^2 for `options`. temperature: T, of `options` only.
    """

    name: str
    prefix: str
    weight: float
    temperature: float = 0.0


def tasks(arm: arms.Arm, params: Params) -> list[Task]:
    """The tasks of an arm. A teacher keeps its prefix and alpha in every arm of a study.

    The gibberish teacher stands behind all others, with their mean alpha.
    """
    if not arm.trained:
        return []
    alpha = params.weights()
    found = [Task(ANSWER, prompts.ANSWER_PREFIX, 1.0)]
    for index, teacher in enumerate(params.teachers):
        if teacher in arm.teachers:
            found.append(Task(teacher, prompts.rationale_prefix(index), alpha[teacher]))
    if arm.gibberish:
        prefix = prompts.rationale_prefix(len(params.teachers))
        found.append(Task(arms.GIBBERISH, prefix, fmean(alpha.values())))
    if arm.scorers:
        t = arm.temperature
        found.append(Task(OPTIONS, prompts.ANSWER_PREFIX, t * t, t))
    return found


def plan(params: Params) -> pd.DataFrame:
    """What each arm of a study trains: a row an arm and task, with the task's prefix and weight.

    `aims at` says what its targets are, `trained weights` which of the student's are trained.
    """
    rows = []
    for name in params.arms:
        arm = arms.resolve(name, params.teachers)
        weights = f"LoRA, rank {arm.lora}" if arm.lora else "all" if arm.trained else "none"
        for task in tasks(arm, params) or [Task("(none)", "", float("nan"))]:
            row = {"arm": name, "task": task.name, "prefix": task.prefix, "weight": task.weight}
            rows.append(row | {"aims at": _handling(arm, task), "trained weights": weights})
    return pd.DataFrame(rows).set_index(["arm", "task"])


def _handling(arm: arms.Arm, task: Task) -> str:
    """In words, what a task of an arm aims at."""
    if not arm.trained:
        return ""
    if task.name == ANSWER:
        return "gold answer"
    if task.name == OPTIONS:
        return f"the teachers' mean distribution, T = {task.temperature:g}"
    if task.name == arms.GIBBERISH:
        return "random words"
    moved = {"rationales": ", permuted among questions", "words": ", words permuted"}
    changes = ", ".join(f"{name}: {value}".lower() for name, value in arm.asked.items())
    return "rationales" + (f", asked with {changes}" if changes else "") + moved.get(arm.moved, "")


def arm_texts(
    params: Params, arm: arms.Arm, examples: Sequence[Example], seed: int
) -> dict[str, dict[str, str]]:
    """For each teacher of an arm: rationale by question id, moved about where the arm says so.

    Raises FileNotFoundError, with the remedy, where a store that the arm needs is not finished.
    """
    asked = arms.asked(arm, params)
    asked = asked.model_copy(update={"cleaning": [*params.cleaning, *arm.cleaning]})
    texts = {}
    for teacher in arm.teachers:
        have = rationales.texts(asked, teacher)
        ids = [example.id for example in examples if have.get(example.id, "").strip()]
        draw = random.Random(f"shuffle:{seed}:{teacher}")
        if arm.moved == "rationales":
            moved = draw.sample(ids, len(ids))
            have = {to: have[source] for to, source in zip(ids, moved, strict=True)}
        elif arm.moved == "words":
            have = dict(zip(ids, scrambled([have[name] for name in ids], draw), strict=True))
        texts[teacher] = have
    if arm.gibberish:
        lengths = [len(text.split()) for have in texts.values() for text in have.values()]
        texts[arms.GIBBERISH] = gibberish(examples, lengths, random.Random(f"gibberish:{seed}"))
    return texts


def scrambled(texts: Sequence[str], draw: random.Random) -> list[str]:
    """Texts of the same lengths, each word permuted among the texts' words at the same place."""
    rows = [text.split() for text in texts]
    for place in range(max(map(len, rows), default=0)):
        long = [row for row in rows if len(row) > place]
        words = [row[place] for row in long]
        draw.shuffle(words)
        for row, word in zip(long, words, strict=True):
            row[place] = word
    return [" ".join(row) for row in rows]


def gibberish(
    examples: Sequence[Example], lengths: Sequence[int], draw: random.Random
) -> dict[str, str]:
    """Random words by question id: words of all questions, as many as a drawn rationale has.

    lengths: words of the rationales whose length is imitated; without any, nothing is written.
    """
    if not lengths:
        return {}
    words = [w for e in examples for text in (e.question, *e.options) for w in text.split()]
    return {e.id: " ".join(draw.choices(words, k=draw.choice(lengths))) for e in examples}


def distribution(scores: Sequence[float], temperature: float) -> list[float]:
    """Softmax of scores over a temperature."""
    top = max(scores)
    raised = [math.exp((score - top) / temperature) for score in scores]
    return [each / sum(raised) for each in raised]


def mean_distribution(
    scores: Sequence[Mapping[str, Sequence[float]]], temperature: float
) -> dict[str, list[float]]:
    """The teachers' mean distribution over the options, by question id.

    scores: for each teacher, an option's length-normalised log-probability by question id. A
        teacher without scores for a question is left out of its mean.
    """
    found = {}
    for name in dict.fromkeys(name for each in scores for name in each):
        rows = [distribution(each[name], temperature) for each in scores if name in each]
        found[name] = [sum(column) / len(rows) for column in zip(*rows, strict=True)]
    return found


def arm_options(params: Params, arm: arms.Arm) -> dict[str, list[float]]:
    """What an arm's `options` task aims at: probability of each option by training question id."""
    if not arm.scorers:
        return {}
    from tinyllm import answers

    each = [answers.option_scores(params, teacher) for teacher in arm.scorers]
    return mean_distribution(each, arm.temperature)
