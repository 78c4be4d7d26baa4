"""Results: copies of the run folders of finished students, without weights, under results/.

    results/STUDY/DATASET/students/ARM/STUDENT/seedK/   predictions.parquet, history.csv, manifest
    results/STUDY/DATASET/teachers.parquet              the teachers' own answers on test
    results/STUDY/DATASET/baselines.csv                 chance and majority of each split

README and figures report these results.
"""

import os
import shutil
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd

from tinyllm import arms, paths, runs
from tinyllm.data import load as questions
from tinyllm.data import question
from tinyllm.params import SPLITS, Params
from tinyllm.students import predictions
from tinyllm.students.predictions import CHECKPOINT, CHECKPOINTS, HISTORY, PREDICTIONS

TEACHERS, BASELINES = "teachers.parquet", "baselines.csv"
ANSWERS = ["study", "dataset", "teacher", "shots", "id", "options", "gold", "choice", "correct"]
STUDENT = ["study", "dataset", "student", "arm", "seed"]
FACTS = (  # the columns of `facts` that the package and notebook 05 use
    *("teachers", "alpha", "curve", "lr", "epochs", "batch_size", "max_target", "task_prefix"),
    *("train_questions", "steps", "train_tokens", "train_flops", "train_seconds", "cut_targets"),
    *("valid_accuracy", "best_step", "cut_inputs", "max_input", "max_new_tokens", "data"),
)
OF_ARM = {"arm", "settings", "tasks", "cleaning", "rationales", "answers", "lora_rate"}  # in a spec


def finished(folder: Path, params: Params) -> bool:
    """True if a folder in runs/ or results/ holds a finished student.

    Raises StaleRun if it changed, or (with the differences) if it was made with other parameters.
    Compared are those set in `params`, the teachers' weights, and the questions (`load.content`).
    """
    manifest = runs.read_manifest(folder)
    if manifest is None or not (folder / PREDICTIONS).exists():
        return False
    if not runs.intact(folder):
        raise runs.StaleRun(f"{paths.shown(folder)} changed since it was finished; delete it")
    spec, named = _whole(manifest), params.model_fields_set
    names = (set(spec) & named) - {"cleaning"}  # an arm may add to the study's
    old, new = {name: spec[name] for name in names}, params.spec(*names)
    if "teachers" in named:
        learned, weights = dict(_teachers(spec)), params.weights()
        known = weights if "alpha" in named else weights | learned
        old["alpha"], new["alpha"] = learned, arms.alpha(spec["arm"], known)
    try:
        asked = questions.content(params)
    except question.DataError as error:  # the user's file
        raise runs.StaleRun(f"{paths.shown(folder)}: {error}") from None
    if asked:
        old["data"], new["data"] = spec["data"], asked
    runs.refuse_other(folder, old, new)
    return True


def _whole(manifest: dict[str, Any]) -> dict[str, Any]:
    """A student's spec, with the defaults that it leaves out.

    It includes the version of the training code and the precision that `auto` meant, since results
    may differ between them.
    """
    spec, facts = manifest["spec"], manifest["facts"]
    if _teachers(spec):
        spec = {"learn_from": "answer", "samples": 1} | spec
    version, precision = facts.get("versions", {}).get("train"), facts.get("computed_in")
    used = {"training code": version, "precision used": precision} if spec["tasks"] else {}
    return spec | {name: value for name, value in used.items() if value}


def _teachers(spec: dict[str, Any]) -> list[tuple[str, float]]:
    """(URI, weight) of the teachers whose rationales a student learned."""
    others = ("answer", "options", arms.GIBBERISH)
    tasks = [(name, weight) for name, _, weight in spec["tasks"] if name not in others]
    if "routed" not in dict(tasks):
        return tasks
    return [(uri, weight) for _, weight in tasks for uri in spec["rationales"]]


def store(params: Params) -> list[Path]:
    """Copy each finished student that `params` ask for to results/; returns their folders there.

    Also stores the baselines, if runs/ has the questions. Other students are kept. Raises StaleRun
    if parameters or training code differ (averages would mix them), or if questions would be lost.
    """
    made = {}  # the manifests, by folder in results/
    for arm, seed in product(params.arms, params.seeds):
        run = paths.student(params, arm, seed)
        if finished(run, params):
            made[paths.stored(params, arm, seed)] = runs.read_manifest(run)
    for folder in sorted({*_students(params.study, params.dataset), *made}):
        _refuse_less(folder, made)
    for target, manifest in made.items():
        if runs.read_manifest(target) != manifest or not runs.intact(target):
            _copy(paths.runs() / target.relative_to(paths.results()), target)
    data = paths.data(params)
    if made and runs.read_manifest(data):
        splits = {}
        for split in SPLITS:
            rows = pd.read_parquet(data / f"{split}.parquet").to_dict("records")
            splits[split] = [question.Question(**row) for row in rows]
        file = _folder(params) / BASELINES
        question.baselines(splits).to_csv(file, index=False, lineterminator="\n")
    return list(made)


def _folder(params: Params) -> Path:
    return paths.results() / paths.slug(params.study) / paths.slug(params.dataset)


def _refuse_less(kept: Path, made: dict[Path, dict]) -> None:
    """Raise StaleRun if a student would lose questions, or differs in shared parameters."""
    old = runs.read_manifest(kept)
    new = made.get(kept, old)
    before, after = (old or new)["facts"].get("n", 0), new["facts"].get("n", 0)
    if before > after:
        raise runs.StaleRun(
            f"{paths.shown(kept)}: {before} test questions would be replaced by {after}; "
            "give the study another name (parameter `study`) or delete that folder"
        )
    before = _whole(new)
    of_new = paths.runs() / kept.relative_to(paths.results()) if kept in made else kept
    for manifest in made.values():
        spec = _whole(manifest)
        if spec["student"] == before["student"]:
            names = (spec.keys() & before.keys()) - {"seed"}
            names -= OF_ARM if spec["arm"] != before["arm"] else set()
            runs.refuse_other(of_new, {n: before[n] for n in names}, {n: spec[n] for n in names})


def restore(params: Params) -> list[Path]:
    """Copy stored students (without weights) to runs/; returns their folders there.

    Skips students that have a manifest, weights or checkpoints in runs/. Raises like `finished`.
    """
    copied = []
    for arm, seed in product(params.arms, params.seeds):
        run, source = paths.student(params, arm, seed), paths.stored(params, arm, seed)
        busy = runs.MANIFEST, runs.BEGUN, CHECKPOINT, CHECKPOINTS
        if not any((run / name).exists() for name in busy) and finished(source, params):
            _copy(source, run)
            copied.append(run)
    return copied


def _copy(source: Path, target: Path) -> None:
    """Copy a student's folder without weights, through a temporary folder that is renamed."""
    new, old = (target.with_name(f".{target.name}.{name}-{os.getpid()}") for name in ("new", "old"))
    new.mkdir(parents=True, exist_ok=True)
    for name in (PREDICTIONS, HISTORY, runs.MANIFEST):
        shutil.copy2(source / name, new / name)
    if target.exists():
        target.rename(old)
    new.rename(target)
    shutil.rmtree(old, ignore_errors=True)


def store_teachers(params: Params, answers: pd.DataFrame) -> None:
    """Store the teachers' own answers to the test questions (of `teachers.ask.answers`).

    Stored answers of other teachers, or with other in-context examples, are kept. Raises StaleRun
    if answers to a question would be lost.
    """
    if answers.empty:
        return
    file, key = _folder(params) / TEACHERS, ["teacher", "shots"]
    kept = stored_teachers(params.study, params.dataset).reindex(columns=ANSWERS)
    replaced = kept.set_index(key).index.isin(answers.set_index(key).index)
    asked = [*key, "id", "gold"]
    lost = ~kept.set_index(asked).index.isin(answers.set_index(asked).index) & replaced
    if lost.any():
        raise runs.StaleRun(
            f"{paths.shown(file)}: answers to {lost.sum()} questions would be lost, such as "
            f"{kept.loc[lost, 'id'].iloc[0]!r}; give the study another name (parameter `study`) or "
            "delete that file"
        )
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f".{file.name}-{os.getpid()}")
    pd.concat([answers[ANSWERS], kept[~replaced]]).to_parquet(part, index=False)
    os.replace(part, file)


def _files(study: str | None, dataset: str | None, pattern: str) -> list[Path]:
    """Files of all stored studies and datasets, or of one."""
    names = (paths.slug(name) if name else "*" for name in (study, dataset))
    return sorted(paths.results().glob("/".join([*names, pattern])))


def _students(study: str | None, dataset: str | None) -> list[Path]:
    """Folders of the stored students."""
    return [f.parent for f in _files(study, dataset, f"students/*/*/seed*/{runs.MANIFEST}")]


def stored(study: str | None = None, dataset: str | None = None) -> pd.DataFrame:
    """Predictions of all stored studies (or one); an empty frame if there are none."""
    files = [folder / PREDICTIONS for folder in _students(study, dataset)]
    if not files:
        return pd.DataFrame(columns=list(predictions.SCHEMA))
    return predictions.read(*files, by_path=True)


def facts(study: str | None = None, dataset: str | None = None) -> pd.DataFrame:
    """Settings and training cost of each stored student, one row per student.

    Columns: STUDENT; teachers (number of those whose rationales it learned) and alpha (their
    weight; empty if none or several); every number and text of its manifest's spec and facts.
    """
    rows = []
    for folder in _students(study, dataset):
        manifest = runs.read_manifest(folder)
        weights = [weight for _, weight in _teachers(manifest["spec"])]
        alpha = weights[0] if len(set(weights)) == 1 else None
        row = {"study": folder.parents[4].name, "dataset": folder.parents[3].name, "curve": False}
        row |= {"teachers": len(weights), "alpha": alpha} | manifest["spec"] | manifest["facts"]
        rows.append({name: v for name, v in row.items() if not isinstance(v, list | dict)})
    table = pd.DataFrame(rows)  # with untrained students only, some columns are missing
    return table.reindex(columns=list(dict.fromkeys([*STUDENT, *FACTS, *table.columns])))


def whole() -> pd.DataFrame:
    """`stored` without studies that are points of a curve (parameter `curve`), and without
    datasets that have no fine-tuned student yet, the baseline of all comparisons."""
    rows, known = stored(), facts()
    points = set(known.loc[known["curve"].astype(bool), "study"])
    groups = rows.assign(tuned=rows["arm"] == "finetune").groupby(["study", "dataset", "student"])
    tuned = groups["tuned"].transform("any").astype(bool)
    return rows[tuned & ~rows["study"].isin(points)].reset_index(drop=True)


def stored_teachers(study: str | None = None, dataset: str | None = None) -> pd.DataFrame:
    """The teachers' own answers to the test questions."""
    return _tables(study, dataset, TEACHERS)


def baselines(study: str | None = None, dataset: str | None = None) -> pd.DataFrame:
    """`question.baselines` of stored studies (chance, majority), with study and dataset."""
    return _tables(study, dataset, BASELINES)


def _tables(study: str | None, dataset: str | None, name: str) -> pd.DataFrame:
    frames = []
    for file in _files(study, dataset, name):
        place = {"study": file.parents[1].name, "dataset": file.parent.name}
        frames.append(predictions.table(file).assign(**place))
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()
