"""Prompt teachers, once for all studies, and read what they wrote.

    runs/rationales/DATASET/TEACHER/HASH/rationales.jsonl    why the gold answer is right: train
    runs/answers/DATASET/TEACHER/HASH/answers.jsonl          the teacher's own answers: test, train

HASH identifies everything that the texts depend on (the manifest's spec). The files are stores
(`teachers.store`): append-only, keyed, resumable. `cleaning` is applied when students learn them.
"""

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from tinyllm import arms, paths, prompts, runs
from tinyllm.data import load as data
from tinyllm.data import micro as world
from tinyllm.data.question import Question
from tinyllm.models import load as models
from tinyllm.models.extract import answer_named
from tinyllm.params import Params
from tinyllm.teachers import micro, quality, store
from tinyllm.teachers.base import Teacher
from tinyllm.teachers.hf import HFTeacher
from tinyllm.teachers.openai import ServerTeacher
from tinyllm.teachers.store import Record


def load_teacher(params: Params, uri: str) -> Teacher | None:
    """Load the teacher that a URI names; None for recorded teachers."""
    kind, name = arms.teacher(uri)
    if kind == "release":
        return None
    sizes = params.spec("max_new_tokens", "max_prompt", "temperature")
    sizes["batch"] = params.teacher_batch
    if kind == "openai":
        return ServerTeacher(name, server=params.servers.get(uri), **sizes)
    sizes["dtype"] = models.precision(params.precision)
    if kind == "hf":
        revision = next(iter(models.content(name).values()), "main")
        return HFTeacher(name, revision=revision, **sizes)
    folder, _ = micro.work(params, name)
    return HFTeacher(str(folder / "model"), revision=runs.content(folder), **sizes)


@dataclass(frozen=True)
class Job:
    """One store to fill: one teacher's texts on the questions of a split, prompted with `params`.

    stage: `rationales`, or `answers` (its own, decoded greedily, without the gold answer).
    """

    params: Params
    uri: str
    stage: str = "rationales"
    split: str = "train"
    sample: int = 0

    @property
    def spec(self) -> dict[str, Any]:
        """What the texts depend on; raises FileNotFoundError if the questions are not stored."""
        kind, name = arms.teacher(self.uri)
        spec: dict[str, Any] = {
            "stage": self.stage,
            "versions": {"store": store.VERSION, "prompt": prompts.PROMPT_VERSION},
            "teacher": self.uri,
            "data": runs.content(paths.data(self.params)),
            "split": self.split,
        }
        server = self.params.servers.get(self.uri)
        if kind != "release":
            spec |= self.params.spec("data_seed", "examples", "max_prompt", "max_new_tokens")
            if self.stage == "rationales":
                fixed = server and server.temperature != 0  # then the study's is not used
                sampling = ["temperature"] if self.params.temperature and not fixed else []
                spec |= self.params.spec("teacher_forcing", *sampling)
                spec |= {"sample": self.sample} if self.sample else {}
        if server:
            spec["server"] = server.model_dump(exclude_defaults=True, exclude={"context"})
        if kind in ("micro", "hf"):
            spec["precision"] = self.params.precision
            spec |= models.content(name) if kind == "hf" else {"micro": world.VERSION}
        return spec

    @property
    def file(self) -> Path:
        """The store; its manifest is in the same folder."""
        parts = paths.slug(self.params.dataset), paths.slug(self.uri), runs.digest(self.spec)[:12]
        return paths.runs().joinpath(self.stage, *parts, f"{self.stage}.jsonl")

    def requests(self, teacher: Teacher) -> list[Record]:
        """One request per question, its prompt within `max_prompt` tokens."""
        splits, params = data.read(self.params), self.params
        how = splits["train"], params.examples, params.data_seed
        render = functools.partial(prompts.teacher_prompt, forcing=params.teacher_forcing)
        render = render if self.stage == "rationales" else prompts.answer_prompt
        limits, rows = (render, teacher.tokens, params.max_prompt), []
        for row in splits[self.split]:
            prompt = prompts.fitted(row, prompts.in_context(row, *how), *limits)
            options = None if self.stage == "rationales" else row.options
            rows.append(store.request(teacher, self.uri, row.id, prompt, options, self.sample))
        return rows

    def run(self, teacher: Teacher | None) -> None:
        """Fill the store and write its manifest. teacher: None for a recorded one."""
        options = {row.id: row.options for row in data.read(self.params)[self.split]}
        with runs.recording(self.file.parent, self.spec) as facts:
            if teacher:
                choices = {} if self.stage == "rationales" else options
                asked = self.requests(teacher)
                store.reuse(self.file, asked, self.spec["versions"])
                store.fill(self.file, teacher, asked, choices, self.params.max_refused)
            else:
                with store.appending(self.file) as append:
                    for record in store.recorded(self.params.dataset, self.split, self.uri):
                        if record.id in options:
                            append(record)
            facts |= store.facts(store.read(self.file))

    def records(self) -> list[Record]:
        """The finished store's records; raises FileNotFoundError, with the remedy, if missing."""
        return store.finished(self.file, runs.content(self.file.parent))


def askable(params: Params) -> list[str]:
    """The study's teachers that are not recorded."""
    return [uri for uri in params.teachers if arms.teacher(uri)[0] != "release"]


def jobs(params: Params) -> list[Job]:
    """All stores that a study needs: rationales with the prompts that its arms use, answers on
    test, and answers on train of the teachers that `kd` learns from."""
    variants, numbers = params.variants(), range(params.samples)
    needed = [Job(v, uri, sample=n) for uri in params.teachers for v in variants for n in numbers]
    scoring = {uri for name in params.arms for uri in arms.resolve(name, params.teachers).scorers}
    scored = [Job(params, uri, "answers") for uri in params.teachers if uri in scoring]
    return needed + _tests(params) + scored


def _tests(params: Params) -> list[Job]:
    """Jobs for the teachers' own answers on test, zero-shot and with in-context examples."""
    shots = dict.fromkeys(["none", params.examples])
    variants = [params.model_copy(update={"examples": kind}) for kind in shots]
    return [Job(variant, uri, "answers", "test") for uri in askable(params) for variant in variants]


def work(params: Params) -> list[tuple[Path, dict[str, Any]]]:
    """Folder and spec of each of `jobs`; raises FileNotFoundError without stored questions."""
    return [(job.file.parent, job.spec) for job in jobs(params)]


def ask_all(params: Params, stage: str = "rationales") -> dict[str, Path]:
    """Let every teacher write its rationales (or `answers`); returns their folders by teacher.

    Finished folders need no calls. Raises store.Unanswered or store.TooManyRefused if questions
    have no reply, RuntimeError if another process is filling the same store.
    """
    wanted = [job for job in jobs(params) if job.stage == stage]
    missing = [job for job in wanted if not runs.finished(job.file.parent, job.spec)]
    if missing:
        micro.prepare(params)
    for uri in dict.fromkeys(job.uri for job in missing):
        teacher = load_teacher(params, uri)
        for job in [job for job in missing if job.uri == uri]:
            job.run(teacher)
        del teacher  # free its memory before the next one is loaded
    return {job.uri: job.file.parent for job in reversed(wanted)}  # the first job of each teacher


def answer_all(params: Params) -> None:
    """Let every teacher answer the questions, decoded greedily. Raises like `ask_all`."""
    ask_all(params.model_copy(update={"temperature": 0.0}), "answers")


def content(params: Params, uri: str, stage: str = "rationales") -> str:
    """Hash of a teacher's texts on train, for the spec of a student that learns from them."""
    numbers = range(params.samples if stage == "rationales" else 1)
    stores = [Job(params, uri, stage, sample=number) for number in numbers]
    return "+".join(runs.content(job.file.parent) for job in stores)


def records(params: Params, uri: str, sample: int = 0) -> list[Record]:
    """A teacher's rationales of one sample as it wrote them, one per training question."""
    return Job(params, uri, sample=sample).records()


def rationales(params: Params, uri: str, sample: int = 0) -> dict[str, str]:
    """Rationale by question id as students learn them (see `taken`), without abstentions."""
    texts = taken(params, uri, sample).items()
    return {name: text for name, (text, _) in texts if not quality.abstains(text)}


def taken(params: Params, uri: str, sample: int = 0) -> dict[str, tuple[str, bool]]:
    """Rationale by question id, after `learn_from` and `cleaning`, and whether its end was cut off
    by max_new_tokens. Questions without a text in any sample are left out.

    sample: the preferred sample. If it has no text, the next one is used; with `learn_sample:
        agreeing`, the next one that names only the gold option (`quality.names`), if any.
    """
    questions = {row.id: row for row in data.read(params)["train"]}
    kept, silent, done = {}, {}, set()
    for number in range(sample, sample + params.samples):
        for record in records(params, uri, number % params.samples):
            if record.id in done:
                continue
            question = questions[record.id]
            text = quality.as_read(record, question, params.learn_from, params.cleaning)
            agrees = params.learn_sample != "agreeing" or quality.names(text, question) == "gold"
            if quality.abstains(text):  # used only if no sample has a rationale
                silent.setdefault(record.id, (text, False))
            elif text and (agrees or record.id not in kept):
                whole_end = text.endswith((record.text or "").strip())  # else it was repaired
                kept[record.id] = (text, record.finish == "length" and whole_end)
                done |= {record.id} if agrees else set()
    return kept | {name: pair for name, pair in silent.items() if name not in kept}


def _chosen(job: Job) -> Iterator[tuple[Question, Record, int]]:
    """Each question of a split, the teacher's reply, and the index of its choice: the option with
    the highest score, or the one that its text names (-1: none, or options share that score)."""
    replies = {record.id: record for record in job.records()}
    for row in data.read(job.params)[job.split]:
        reply = replies[row.id]
        named = answer_named(reply.text or "", row.options, reply.finish == "length")
        if reply.scores:
            best = max(reply.scores)
            named = reply.scores.index(best) if reply.scores.count(best) == 1 else None
        yield row, reply, -1 if named is None else named


def answers(params: Params) -> pd.DataFrame:
    """The teachers' answers on test: one row per teacher, shots and question.

    Columns: study, dataset, teacher, shots, id, options, gold, choice (-1: none named, refused, or
    equal scores), text, finish, correct. Empty if all teachers are recorded ones.
    """
    rows = []
    for job in _tests(params):
        names = params.spec("study", "dataset") | {"teacher": job.uri, "shots": job.params.examples}
        for row, reply, choice in _chosen(job):
            answer = {"id": row.id, "options": row.options, "gold": row.answer, "choice": choice}
            answer |= {"text": reply.text, "finish": reply.finish, "correct": choice == row.answer}
            rows.append(names | answer)
    return pd.DataFrame(rows)


def option_scores(params: Params, uri: str) -> dict[str, list[float]]:
    """Targets of `kd`: log-probability per token of each option, by training question id.

    A server returns only its choice: that gets 0 and the others minus infinity, or all get 0 if it
    names no option. Questions that it refused are left out.
    """
    scores, off = {}, float("-inf")
    for row, reply, choice in _chosen(Job(params, uri, "answers")):
        if reply.text is not None:
            chosen = [0.0 if choice in (i, -1) else off for i in range(len(row.options))]
            scores[row.id] = list(reply.scores or chosen)
    return scores
