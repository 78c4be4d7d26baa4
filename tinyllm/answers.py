"""What teachers answer themselves: the teacher rows of the paper's table, and `kd`'s input.

    runs/STUDY/DATASET/answers/TEACHER/SPLIT/SHOTS/answers.jsonl

A teacher is asked zero-shot (`none`) or with the study's in-context examples, never with the gold
answer. Models that run here give the log-probability of every option, a token (as students are
scored); a server gives the text that it writes, and the option counts that this text names. Each
file is a `tinyllm.store`: append-only, keyed, resumable.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from tinyllm import arms, data, extract, paths, prompts, runs, stats, store, teachers
from tinyllm.params import ParameterError, Params

FILE = "answers.jsonl"
ZERO_SHOT = "none"


def folder(params: Params, teacher: str, split: str, shots: str) -> Path:
    """Run folder of one teacher's answers on a split."""
    base = paths.study(params.study, params.dataset) / "answers"
    return base / paths.slug(teacher) / split / paths.slug(shots)


def spec(params: Params, teacher: str, split: str, shots: str) -> dict[str, Any]:
    """All that one teacher's answers depend on."""
    base = paths.study(params.study, params.dataset)
    return {
        "stage": "answers",
        "versions": {"store": store.STORE_VERSION, "prompt": prompts.PROMPT_VERSION},
        "teacher": teacher,
        "split": split,
        "shots": shots,
        "data": runs.inputs(base / "data"),
        **params.spec("data_seed", "max_prompt", "max_new_tokens"),
        **teachers.weights(teacher),
    }


def askable(params: Params) -> list[str]:
    """The study's teachers that can be asked; recorded ones cannot."""
    return [uri for uri in params.teachers if not uri.startswith("release:")]


def collect_all(params: Params) -> list[Path]:
    """Ask every teacher for the test questions zero- and few-shot, and for what `kd` needs."""
    teachers.prepare(params)
    shots = dict.fromkeys([ZERO_SHOT, params.examples])
    folders = [collect(params, uri, "test", each) for uri in askable(params) for each in shots]
    return folders + [collect(params, uri, "train", params.examples) for uri in arms.scored(params)]


def collect(params: Params, teacher: str, split: str, shots: str) -> Path:
    """Ask one teacher every question of a split that it has not answered yet.

    shots: in-context examples as in the parameter `examples`; they come from train.
    Returns the run folder; a finished one costs no call. Raises as `rationales.collect`.
    """
    where, wanted = folder(params, teacher, split, shots), spec(params, teacher, split, shots)
    if runs.shared(where, wanted):
        return where
    with runs.recording(where, wanted) as facts:
        base = paths.study(params.study, params.dataset)
        splits = {name: data.examples(rows) for name, rows in data.read(base / "data").items()}
        in_context = prompts.InContext(splits["train"], shots, params.data_seed)
        asked = teachers.load(params, teacher)
        requests = [
            store.Request(
                each.id,
                prompts.fitted(
                    *(each, in_context(each), prompts.answer_pieces),
                    *(asked.tokens, params.max_prompt),
                ),
                tuple(each.options),
            )
            for each in splits[split]
        ]
        store.fill(where / FILE, teacher, asked, requests)
        records = store.read(where / FILE)
        facts["content"] = runs.digest(sorted((r.key, r.text, r.scores) for r in records))
        facts |= {"questions": len(requests)} | store.cuts(records)
    return where


def read(params: Params, teacher: str, split: str, shots: str) -> pd.DataFrame:
    """A row a question of a finished store: id, options, gold, choice (-1: none), scores, correct.

    Raises FileNotFoundError, with the remedy, where the teacher has not been asked.
    """
    where = folder(params, teacher, split, shots)
    runs.inputs(where)
    said = {record.id: record for record in store.read(where / FILE)}
    base = paths.study(params.study, params.dataset)
    rows = []
    for each in data.examples(data.read(base / "data")[split]):
        record = said[each.id]
        if record.scores is None:
            named = extract.answer_named(record.text or "", each.options)
            choice = -1 if named is None else named
        else:
            choice = max(range(len(record.scores)), key=record.scores.__getitem__)
        rows.append(
            {
                "id": each.id,
                "options": list(each.options),
                "gold": each.answer,
                "choice": choice,
                "scores": record.scores,
                "text": record.text,
                "correct": choice == each.answer,
            }
        )
    return pd.DataFrame(rows)


def predictions(params: Params) -> pd.DataFrame:
    """The answers of all teachers on test, with the columns teacher and shots; empty if none can be
    asked."""
    frames = []
    for uri in askable(params):
        for shots in dict.fromkeys([ZERO_SHOT, params.examples]):
            frame = read(params, uri, "test", shots)
            frames.append(frame.assign(study=params.study, dataset=params.dataset, teacher=uri))
            frames[-1]["shots"] = shots
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


def accuracy(rows: pd.DataFrame) -> pd.DataFrame:
    """A row a teacher and number of shots of `predictions`: n, correct, accuracy in % with its
    Wilson 95% interval, the chance level in %, and how many answers name no option. Empty where
    no teacher can be asked."""
    if rows.empty:
        return pd.DataFrame()
    found = []
    for (teacher, shots), group in rows.groupby(["teacher", "shots"], sort=False):
        n, k = len(group), int(group.correct.sum())
        low, high = stats.wilson(k, n)
        found.append(
            {
                **{"teacher": teacher, "shots": shots, "n": n, "correct": k},
                **{"accuracy": 100 * k / n, "low": 100 * low, "high": 100 * high},
                "chance": 100 * (1 / group.options.map(len)).mean(),
                "unnamed": int((group.choice < 0).sum()),
            }
        )
    return pd.DataFrame(found).set_index(["teacher", "shots"])


def option_scores(params: Params, teacher: str) -> dict[str, list[float]]:
    """What `kd` learns from: log-probability a token of each option, by training question id.

    A server that gives no log-probabilities gives its choice: 0 for it, minus infinity for the
    others, and equal scores where it names none. Raises FileNotFoundError, with the remedy, where
    the teacher has not been asked, ParameterError for recorded teachers.
    """
    if teacher not in askable(params):
        raise ParameterError(f"teachers: {teacher!r} is recorded and gives no option scores")
    found = {}
    for row in read(params, teacher, "train", params.examples).itertuples():
        if row.scores is not None:
            found[row.id] = list(row.scores)
        else:
            off = 0.0 if row.choice < 0 else float("-inf")
            found[row.id] = [0.0 if i == row.choice else off for i in range(len(row.options))]
    return found


def content(params: Params, teacher: str) -> str:
    """What identifies a teacher's answers on train, as an input of a student that learns of it."""
    return runs.inputs(folder(params, teacher, "train", params.examples))
