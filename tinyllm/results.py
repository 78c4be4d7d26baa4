"""Results: the predictions of all students of a study, stored small, read without torch.

    results/STUDY/DATASET/STUDENT/predictions.parquet    a row a question, arm and seed
    results/STUDY/DATASET/STUDENT/history.csv            the learning curves
    results/STUDY/DATASET/STUDENT/manifests.jsonl        each student's manifest: settings and cost
    results/STUDY/DATASET/STUDENT/waiting/ARM_seedK/     a student that is in none of these yet
    results/STUDY/DATASET/teachers.parquet               the teachers' own answers to test
    results/rationale_verdicts.parquet                   what recorded rationales of test argue for

Every figure and table is drawn from these files alone, so they can be redrawn where no run folder,
no model and no GPU is at hand.
"""

from __future__ import annotations

import json
import shutil
from functools import cache
from itertools import product
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow

from tinyllm import arms, paths, runs, stats
from tinyllm.params import Params

PREDICTIONS, HISTORY, MANIFESTS = "predictions.parquet", "history.csv", "manifests.jsonl"
WAITING = "waiting"
TEACHERS = "teachers.parquet"
VERDICTS = "rationale_verdicts.parquet"
TEACHER_COLUMNS = [
    "study",
    "dataset",
    "teacher",
    "shots",
    "id",
    "options",
    "gold",
    "choice",
    "correct",
]
DIGITS = 5  # log-probabilities and losses are stored to so many decimals
KEYS = ["study", "dataset", "student"]
SETTINGS = ["precision", "lr", "epochs", "max_target"]  # of a manifest's spec, as they are
RECORDED = [  # of a manifest's facts, as they are
    *("train_questions", "parameters", "trained_parameters", "train_tokens", "train_flops"),
    *("train_seconds", "steps", "cut_targets"),
]
LEARNED = ["teachers", "sources", "alpha", "batch", *SETTINGS, *RECORDED]  # see `stored_facts`


def student_folder(params: Params, arm: str, seed: int) -> Path:
    """Run folder of one student."""
    base = paths.study(params.study, params.dataset) / "students"
    return base / paths.slug(arm) / paths.slug(params.student) / f"seed{seed}"


def label(params: Params) -> str:
    """What the figures of a study on a dataset are named by: `micro`, `laptop_obqa`."""
    return study_label(params.study, params.dataset)


def study_label(study: str, dataset: str) -> str:
    """`label` by the names alone."""
    return "_".join(dict.fromkeys([study, dataset]))


def collect(params: Params) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Predictions and learning curves of every student that `params` asks for, rounded as stored.

    Raises FileNotFoundError with the list of the students that are not finished.
    """
    wanted = [(arm, seed) for arm in params.arms for seed in params.seeds]
    missing = [
        f"{arm}, seed {seed}"
        for arm, seed in wanted
        if runs.read_manifest(student_folder(params, arm, seed)) is None
    ]
    if missing:
        raise FileNotFoundError(
            f"{len(missing)} of {len(wanted)} students are not finished ({'; '.join(missing)}): "
            "run notebook 03_distillation first, or take them out of `arms` or `seeds`"
        )
    predictions, history = [], []
    for arm, seed in wanted:
        folder = asked_folder(params, arm, seed)
        predictions.append(read_predictions(folder / PREDICTIONS))
        history.append(pd.read_csv(folder / HISTORY).assign(arm=arm, seed=seed))
    rows = stats.check(pd.concat(predictions, ignore_index=True), "the students together")
    return rounded(rows), pd.concat(history, ignore_index=True).round({"value": DIGITS})


def asked_folder(params: Params, arm: str, seed: int) -> Path:
    """A finished student's run folder; StaleRun where it holds one of other parameters."""
    folder = student_folder(params, arm, seed)
    runs.refuse_other(folder, *_specs(runs.read_manifest(folder)["spec"], params))
    return folder


def differs(manifest: dict[str, Any], params: Params) -> bool:
    """True if a student's manifest is of other parameters than these; False where it names none."""
    return bool(runs.differences(*_specs(manifest.get("spec", {}), params)))


def _specs(spec: dict[str, Any], params: Params) -> tuple[dict[str, Any], dict[str, Any]]:
    """What of a student's spec can be held against parameters alone, and what they ask for.

    Its settings, the weight of each teacher that it learned from, and its questions, where those of
    the study are here. (Notebook 03 holds the whole spec, with the rationales' hashes, against it.)
    """
    names = set(spec) & set(Params.model_fields) - {"cleaning"}
    there, asked = {name: spec[name] for name in names}, params.spec(*names)
    if "arm" in spec and "tasks" in spec:
        teachers = arms.resolve(spec["arm"], params.teachers).teachers if spec["tasks"] else ()
        weights = params.weights()
        own = ("answer", "options", arms.GIBBERISH)
        there["alpha"] = {name: alpha for name, _, alpha in spec["tasks"] if name not in own}
        asked["alpha"] = {name: weights[name] for name in teachers}
    data = paths.study(params.study, params.dataset) / "data"
    if "data" in spec and runs.read_manifest(data):
        there["data"], asked["data"] = spec["data"], runs.inputs(data)
    return there, asked


def read_predictions(file: Path) -> pd.DataFrame:
    """The predictions in a file, whole (see `stats.check`); else ValueError that names the file."""
    try:
        state = file.stat()
    except OSError as error:
        raise ValueError(f"{paths.shown(file)}: is no readable parquet file: {error}") from None
    return _read_predictions(file, state.st_mtime_ns, state.st_size, state.st_ino).copy()


@cache
def _read_predictions(file: Path, *_: int) -> pd.DataFrame:
    """A file is read once, until it is another one: to check it takes longer than to read it."""
    try:
        rows = pd.read_parquet(file)
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(f"{paths.shown(file)}: is no readable parquet file: {error}") from None
    if "logprobs" not in rows and {"scores", "tokens"} <= set(rows):
        rows = rounded(rows)
    return stats.check(rows, paths.shown(file))


def rounded(rows: pd.DataFrame) -> pd.DataFrame:
    """Scores to DIGITS, and the summed log-probabilities that follow from them: score x tokens."""
    scores = [[round(float(v), DIGITS) for v in row] for row in rows["scores"]]
    sums = [
        [round(v * n, DIGITS) for v, n in zip(row, tokens, strict=True)]
        for row, tokens in zip(scores, rows["tokens"], strict=True)
    ]
    rows = rows.drop(columns="logprobs", errors="ignore").assign(scores=scores)
    rows.insert(rows.columns.get_loc("scores") + 1, "logprobs", sums)
    return rows


def facts(params: Params) -> pd.DataFrame:
    """What each student's manifest records: a row an arm and seed."""
    rows = []
    for arm in params.arms:
        for seed in params.seeds:
            manifest = runs.read_manifest(student_folder(params, arm, seed)) or {"facts": {}}
            rows.append({"arm": arm, "seed": seed, **manifest["facts"]})
    return pd.DataFrame(rows)


def stored_folder(params: Params) -> Path:
    """Where the results of a study on a dataset with a student are stored."""
    return paths.results() / params.study / params.dataset / paths.slug(params.student)


def store(
    params: Params,
    predictions: pd.DataFrame,
    history: pd.DataFrame,
    teachers: pd.DataFrame | None = None,
) -> Path:
    """Write the results of one study on one dataset (of `collect`); returns their folder.

    teachers: answers of the teachers themselves to the test questions (`answers.predictions`).
    """
    folder = stored_folder(params)
    folder.mkdir(parents=True, exist_ok=True)
    pack(predictions, folder / PREDICTIONS)
    history.to_csv(folder / HISTORY, index=False, lineterminator="\n")
    students = [student_folder(params, arm, seed) for arm in params.arms for seed in params.seeds]
    lines = [json.dumps(runs.read_manifest(each), ensure_ascii=False) for each in students]
    (folder / MANIFESTS).write_text("\n".join(lines) + "\n", encoding="utf-8")
    if teachers is not None and len(teachers):
        file = folder.parent / TEACHERS
        teachers[TEACHER_COLUMNS].to_parquet(file, index=False, compression="zstd")
    for arm, seed in product(params.arms, params.seeds):
        shutil.rmtree(waiting_folder(params, arm, seed), ignore_errors=True)
    if (folder / WAITING).exists() and not any((folder / WAITING).iterdir()):
        (folder / WAITING).rmdir()
    return folder


def pack(rows: pd.DataFrame, file: Path) -> None:
    """Write predictions small."""
    small = rows.drop(columns="logprobs")  # score x tokens: `read_predictions` gives it back
    small["scores"] = [np.asarray(row, dtype=np.float32) for row in small["scores"]]
    split = {"scores.list.element": "BYTE_STREAM_SPLIT"}  # such floats pack four times as well
    others = [name for name in small if name != "scores"]
    small.to_parquet(
        file, index=False, compression="zstd", use_dictionary=others, column_encoding=split
    )


def waiting_folder(params: Params, arm: str, seed: int) -> Path:
    """Where a student is stored that notebook 04 has not stored yet."""
    return stored_folder(params) / WAITING / f"{paths.slug(arm)}_seed{seed}"


def stored(study: str | None = None, dataset: str | None = None) -> pd.DataFrame:
    """Predictions of all stored studies (or one), checked; an empty frame where there is none."""
    files = sorted(paths.results().glob(f"{study or '*'}/{dataset or '*'}/*/{PREDICTIONS}"))
    frames = [read_predictions(file) for file in files]
    if not frames:
        return pd.DataFrame(columns=list(stats.SCHEMA))
    return pd.concat(frames, ignore_index=True)


def reported() -> pd.DataFrame:
    """`stored`, without the studies that grids make as points of a curve (`grid.curves`)."""
    from tinyllm import grid

    rows = stored()
    return rows[~rows["study"].isin(grid.curves())].reset_index(drop=True)


def stored_studies() -> list[tuple[str, str]]:
    """Study and dataset of all that is stored."""
    files = paths.results().glob(f"*/*/*/{PREDICTIONS}")
    return sorted({(file.parents[2].name, file.parents[1].name) for file in files})


def overview() -> pd.DataFrame:
    """Every study, dataset and student found under runs/ and results/, a row each.

    Columns: arms and seeds (numbers), finished (students in runs/ with a manifest), stored
    (students in results/), and what to do where runs/ holds students that results/ lacks.
    """
    rows = []
    for file in sorted(paths.runs().glob(f"*/*/students/*/*/seed*/{runs.MANIFEST}")):
        study, dataset, _, arm, student, seed = file.parent.parts[-6:]
        rows.append(("finished", study, dataset, student, arm, int(seed.removeprefix("seed"))))
    for line in stored()[[*KEYS, "arm", "seed"]].drop_duplicates().itertuples(index=False):
        names = (paths.slug(line.student), paths.slug(line.arm), line.seed)
        rows.append(("stored", line.study, line.dataset, *names))
    frame = pd.DataFrame(rows, columns=["where", *KEYS, "arm", "seed"])
    lines = []
    for key, part in frame.groupby(KEYS):
        count = part["where"].value_counts()
        here, there = (
            set(
                part.loc[part["where"] == where, ["arm", "seed"]].itertuples(index=False, name=None)
            )
            for where in ("finished", "stored")
        )
        lines.append(
            {
                **dict(zip(KEYS, key, strict=True)),
                **{"arms": part["arm"].nunique(), "seeds": part["seed"].nunique()},
                **{name: int(count.get(name, 0)) for name in ("finished", "stored")},
                "to do": "run notebook 04, which stores them" if here - there else "",
            }
        )
    return pd.DataFrame(lines, columns=[*KEYS, "arms", "seeds", "finished", "stored", "to do"])


def stored_teachers(study: str | None = None, dataset: str | None = None) -> pd.DataFrame:
    """The teachers' own answers to test questions, of all stored studies (or one)."""
    files = sorted(paths.results().glob(f"{study or '*'}/{dataset or '*'}/{TEACHERS}"))
    frames = [pd.read_parquet(file) for file in files]
    for file, rows in zip(files, frames, strict=True):
        if lacking := [name for name in TEACHER_COLUMNS if name not in rows]:
            raise ValueError(
                f"{paths.shown(file)}: column {lacking[0]!r}: is missing. Run notebook 04 again."
            )
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=TEACHER_COLUMNS)


def stored_verdicts() -> pd.DataFrame:
    """`audit.verdicts` as they are stored; an empty frame where they are not."""
    file = paths.results() / VERDICTS
    columns = ["dataset", "id", "teacher", "verdict"]
    return pd.read_parquet(file) if file.exists() else pd.DataFrame(columns=columns)


def stored_histories(study: str, dataset: str) -> dict[str, pd.DataFrame]:
    """Learning curves of a stored study on a dataset, by the student's folder name."""
    files = sorted(paths.results().glob(f"{study}/{dataset}/*/{HISTORY}"))
    return {file.parent.name: pd.read_csv(file) for file in files}


def stored_manifests(folder: Path) -> list[dict[str, Any]]:
    """The manifests in a folder of results, a student each; none where nothing is stored."""
    file = folder / MANIFESTS
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    return [json.loads(line) for line in lines]


def stored_facts() -> pd.DataFrame:
    """What each stored student was trained with, and what it cost: a row a student.

    Columns: study, dataset, student, arm, seed, and LEARNED: teachers (number of those whose
    rationales it learned), sources (which), alpha (their weight; empty where there are none or
    several weights), batch (questions an optimiser step), SETTINGS as in `params`, and RECORDED:
    train_questions, parameters, trained_parameters, train_tokens (read and written), train_flops,
    train_seconds, steps, cut_targets (questions of which a target was cut). What a manifest lacks
    is empty.
    """
    rows = []
    for file in sorted(paths.results().glob(f"*/*/*/{MANIFESTS}")):
        names = pd.read_parquet(file.with_name(PREDICTIONS), columns=KEYS).iloc[0].to_dict()
        rows += [names | _learned(manifest) for manifest in stored_manifests(file.parent)]
    return pd.DataFrame(rows, columns=[*KEYS, "arm", "seed", *LEARNED])


def _learned(manifest: dict[str, Any]) -> dict[str, Any]:
    """A row of `stored_facts`, without the student's name."""
    spec, facts = manifest["spec"], manifest["facts"]
    written = [task for task in spec.get("tasks", []) if task[0] not in ("answer", "options")]
    alphas = {weight for _, _, weight in written}
    step = [spec.get(name) for name in ("batch_size", "accumulation", "nproc")]
    return {
        "arm": spec["arm"],
        "seed": spec["seed"],
        "teachers": len(written),
        "sources": " ".join(name for name, _, _ in written),
        "alpha": alphas.pop() if len(alphas) == 1 else None,
        "batch": None if None in step else prod(step),
        **{name: spec.get(name) for name in SETTINGS},
        **{name: facts.get(name) for name in RECORDED},
    }
