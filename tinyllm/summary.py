"""What a study or grid gave, in a terminal: `python -m tinyllm.summary params/micro.yaml`.

`--readme README.md` writes all stored results into the README, so that no number there is typed by
hand.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pandas as pd

from tinyllm import grid, paths, results, stats
from tinyllm.params import DATASETS, ParameterError

LEAST = "*chance; majority*"  # name of a row of `across`
BEGIN, END = "<!-- results: begin -->", "<!-- results: end -->"


def table(predictions: pd.DataFrame) -> pd.DataFrame:
    """Accuracy in % with its interval, the spread over seeds and the difference to fine-tuning."""
    rows = stats.results(predictions)
    shown = pd.DataFrame(
        {
            "arm": rows["arm"],
            "accuracy %": [f"{100 * r.estimate:.1f}" for r in rows.itertuples()],
            "95% interval": [f"{100 * r.low:.1f} to {100 * r.high:.1f}" for r in rows.itertuples()],
            "seeds": [
                f"{r.seeds}: {100 * r.seed_low:.1f} to {100 * r.seed_high:.1f}"
                for r in rows.itertuples()
            ],
            "n": rows["n"],
        }
    )
    if "finetune" not in set(rows["arm"]) or len(rows) < 2:
        return shown
    compared = stats.compare(predictions).set_index("arm")
    shown["minus finetune, points"] = [
        "" if arm == "finetune" else difference(compared.loc[arm]) for arm in shown["arm"]
    ]
    return shown


def tables(predictions: pd.DataFrame) -> pd.DataFrame:
    """`table` of every study, dataset and student, one below the other."""
    keys = ["study", "dataset", "student"]
    if predictions.empty:
        return pd.DataFrame(columns=[*keys, "arm"])
    parts = [
        table(part).assign(**dict(zip(keys, key, strict=True)))
        for key, part in predictions.groupby(keys)
    ]
    return pd.concat(parts).set_index([*keys, "arm"]).fillna("")


def metrics(predictions: pd.DataFrame) -> pd.DataFrame:
    """Every way of scoring, in percent with its 95% interval over questions, a row an arm.

    The likeliest option, the option that the generated text names, exact match of that text, and
    macro-F1 where all questions have the same options. Files from before the named option was
    looked for lack its column.
    """
    scored = {"likeliest option": "correct", "option named": "extracted", "exact match": "exact"}
    columns = {
        name: _intervals(stats.accuracy(predictions, column=column), "estimate")
        for name, column in scored.items()
        if column in predictions and predictions[column].notna().all()
    }
    classes = stats.macro_f1(predictions)
    if classes["macro_f1"].notna().all():
        columns["macro-F1"] = _intervals(classes, "macro_f1")
    return pd.DataFrame(columns)


def _intervals(rows: pd.DataFrame, estimate: str) -> pd.Series:
    """`68.0 [64.2, 71.6]` by arm."""
    texts = [
        f"{100 * value:.1f} [{100 * low:.1f}, {100 * high:.1f}]"
        for value, low, high in zip(rows[estimate], rows["low"], rows["high"], strict=True)
    ]
    return pd.Series(texts, index=pd.Index(rows["arm"], name="arm"))


def paired(comparison: pd.DataFrame) -> pd.DataFrame:
    """`stats.compare` to be read: differences in points with their interval, tests, power.

    p and p (Holm), corrected over the table, go with the interval; only arm, only baseline:
    questions that just one of the two has right, and the exact McNemar test on them, by questions
    alone; smallest: the true difference that so many questions and seeds would tell with 80% power.
    """
    frame = pd.DataFrame({"arm": comparison["arm"], "n": comparison["n"]})
    frame["seeds"] = comparison["seeds"]
    frame["difference, points"] = [difference(row) for _, row in comparison.iterrows()]
    for name, column in (("p", "p"), ("p (Holm)", "p_holm")):
        frame[name] = comparison[column].map("{:.2g}".format)
    frame["only arm"], frame["only baseline"] = comparison["won"], comparison["lost"]
    frame["McNemar p"] = comparison["mcnemar_p"].map("{:.2g}".format)
    frame["smallest, points"] = (100 * comparison["smallest"]).map("{:.1f}".format)
    return frame.set_index("arm")


def curve(gains: pd.DataFrame) -> pd.DataFrame:
    """`series.gains` to be read: the difference of every point of a curve to fine-tuning."""
    keys = list(gains.columns[:4])  # dataset, student, arm and what the curve is against
    frame = gains[[*keys, "n", "seeds"]].copy()
    frame["minus finetune, points"] = [difference(row) for _, row in gains.iterrows()]
    for name, column in (("p", "p"), ("p (Holm)", "p_holm")):
        frame[name] = gains[column].map("{:.2g}".format)
    return frame.set_index(keys)


def difference(row: pd.Series) -> str:
    """A paired difference in points with its 95% interval: `+9.1 [6.2, 12.0]`."""
    return f"{100 * row['difference']:+.1f} [{100 * row['low']:.1f}, {100 * row['high']:.1f}]"


def verdict(predictions: pd.DataFrame) -> str:
    """What a run says of the study's question, in Markdown sentences computed from its numbers.

    predictions: of one study and student, on one dataset or several; a difference is then the plain
        mean of those on the datasets that have both arms, each of which is named with its own, bold
        where its own interval is on one side of zero.

    A pair of the table (an arm against fine-tuning) is judged after Holm's correction over the
    table's arms; the others, of which there are few, by their own interval.
    """
    arms = set(predictions["arm"])
    if stats.with_arms(predictions, "finetune", "tinyllm").empty:
        return "Without both `finetune` and `tinyllm` this run does not answer the question."
    singles = sorted(arm for arm in arms if arm.startswith("dss:") and "+lora" not in arm)
    pairs = [("tinyllm", "finetune"), *(("tinyllm", single) for single in singles)]
    if "tinyllm:shuffled" in arms:
        pairs += [("tinyllm", "tinyllm:shuffled"), ("tinyllm:shuffled", "finetune")]
    pairs += [("tinyllm:scrambled", "finetune")] if "tinyllm:scrambled" in arms else []
    pairs += [("tinyllm:repaired", "tinyllm")] if "tinyllm:repaired" in arms else []
    for longer in (arm for arm in sorted(arms) if re.fullmatch(r"finetune:x\d+", arm)):
        pairs += [(longer, "finetune"), ("tinyllm", longer)]
    corrected = stats.compare_means(predictions)["p_holm"]
    lines = []
    for arm, baseline in pairs:
        rows = stats.with_arms(predictions, arm, baseline)
        if rows.empty:
            continue
        row = pd.Series(stats.paired(rows, arm, baseline))
        clear = row["low"] > 0 or row["high"] < 0
        says = ("is better" if row["difference"] > 0 else "is worse") if clear else ""
        p = f"p = {row['p']:.2g}"
        if baseline == "finetune" and len(corrected) > 1:
            p += f" ({corrected[arm]:.2g} after Holm's correction over {len(corrected)} arms)"
            if clear and corrected[arm] >= 0.05:
                says += " taken by itself, but not after that correction"
        control = "the negative control, " if arm.endswith(":scrambled") else ""
        lines.append(
            f"- {control}`{arm}` against `{baseline}`: **{difference(row)} points**"
            f"{_each_dataset(rows, arm, baseline)}, {p}, "
            f"n = {row['n']}, {row['seeds']} seed(s): it {says or 'cannot be told apart'}."
        )
    if predictions["seed"].nunique() == 1:
        lines.append(
            "\nOne seed: how much another training run would differ is not in these intervals, so "
            "this is no verdict yet."
        )
    if set(predictions["dataset"]) == {"micro"}:
        lines.append(
            "\nThis is the micro world, a **positive control**: it says that the instrument can "
            "see a gain where there is one, and nothing about the paper."
        )
    return "\n".join(lines)


def _each_dataset(predictions: pd.DataFrame, arm: str, baseline: str) -> str:
    """` (obqa +1.7, arc **+3.5**)`: a pair's difference on each dataset; empty for one dataset."""
    texts = []
    for dataset in _datasets(predictions):
        row = stats.paired(predictions[predictions["dataset"] == dataset], arm, baseline)
        mark = "**" if row["low"] > 0 or row["high"] < 0 else ""
        texts.append(f"{dataset} {mark}{100 * row['difference']:+.1f}{mark}")
    return f" ({', '.join(texts)})" if len(texts) > 1 else ""


def _datasets(predictions: pd.DataFrame) -> list[str]:
    """Their names, those of the paper first and in its order."""
    names = set(predictions["dataset"])
    return [name for name in DATASETS if name in names] + sorted(names - set(DATASETS))


def across(predictions: pd.DataFrame) -> pd.DataFrame:
    """Accuracy in % with its interval on several datasets, and the mean difference to fine-tuning.

    predictions: of one study and student. A row an arm, and one of chance and majority. A mean over
    fewer datasets than the table has says over how many.
    """
    columns = {}
    for dataset in _datasets(predictions):
        rows = stats.results(predictions[predictions["dataset"] == dataset])
        base = rows.iloc[0]
        texts = _intervals(rows, "estimate").rename("`{}`".format)
        texts[LEAST] = f"{100 * base['chance']:.1f}; {100 * base['majority']:.1f}"
        columns[f"{dataset} (n = {base['n']})"] = texts
    names = dict.fromkeys(name for each in columns.values() for name in each.index[:-1])
    shown = pd.DataFrame(columns).reindex([*names, LEAST])
    means = stats.compare_means(predictions)
    if len(means):
        texts = {}
        for arm, row in means.iterrows():
            part = (
                f" ({row['datasets']} of {len(columns)})" if row["datasets"] < len(columns) else ""
            )
            texts[f"`{arm}`"] = difference(row) + part
        shown["mean minus finetune, points"] = pd.Series(texts)
    return shown.fillna("").rename_axis("arm").reset_index()


def budget(facts: pd.DataFrame) -> pd.DataFrame:
    """What a student of each arm was trained for, mean over seeds.

    facts: of `results.stored_facts`. Index: study, dataset, student, arm. Columns: optimiser steps,
    millions of tokens read and written, the share of the training questions of which a target was
    cut at so many tokens (`max_target`), minutes on the machine at hand.
    """
    trained = facts[facts["steps"] > 0]
    means = trained.groupby(["study", "dataset", "student", "arm"], sort=False).agg(
        {
            **{"steps": "mean", "train_tokens": "mean", "train_seconds": "mean"},
            **{"cut_targets": "mean", "train_questions": "mean", "max_target": "first"},
        }
    )
    cut = 100 * means["cut_targets"] / means["train_questions"]
    return pd.DataFrame(
        {
            "steps": means["steps"].round().astype(int),
            "million tokens": (means["train_tokens"] / 1e6).round(2),
            "targets cut, %": cut.round(1),
            "at tokens": means["max_target"].astype(int),
            "minutes": (means["train_seconds"] / 60).round(1),
        }
    )


def by_overlap(predictions: pd.DataFrame) -> pd.DataFrame:
    """Accuracy on all test questions and on those whose wording does not stand in train.

    In percent with Wilson's 95% interval; a row an arm. Below the arms: n, the questions.
    """
    parts = {"all": predictions, "not in train": predictions[~predictions["in_train"].astype(bool)]}
    columns = {}
    for name, part in parts.items():
        if len(part):
            rows = stats.accuracy(part)
            columns[name] = _intervals(rows, "estimate")
            columns[name].loc["n"] = str(rows["n"].iloc[0])
    return pd.DataFrame(columns)


def overlaps(predictions: pd.DataFrame) -> pd.DataFrame:
    """`by_overlap` of every study, dataset and student of which test questions stand in train."""
    parts = {
        key: by_overlap(rows)
        for key, rows in predictions.groupby(results.KEYS)
        if rows["in_train"].any()
    }
    return pd.concat(parts, names=results.KEYS) if parts else pd.DataFrame(columns=["all"])


def report(predictions: pd.DataFrame) -> str:
    """Results as Markdown: the block between the README's markers.

    A study of several datasets has one table and one verdict; what it says of each dataset is in
    figures/tables/ and notebook 05.
    """
    parts = []
    for (study, student), rows in predictions.groupby(["study", "student"]):
        datasets = _datasets(rows)
        if len(datasets) > 1:
            seeds = rows.groupby(["dataset", "arm"])["seed"].nunique()
            many = (
                f"{seeds.min()} seeds" if seeds.nunique() == 1 else f"at least {seeds.min()} seeds"
            )
            title = f"**{study}** (student `{student}`; {many})"
            parts += [title, _markdown(across(rows))]
        else:
            base = stats.chance_and_majority(rows).iloc[0]
            parts += [
                f"**{study}, {datasets[0]}** (student `{student}`; chance "
                f"{100 * base['chance']:.1f}%, majority {100 * base['majority']:.1f}%)",
                _markdown(table(rows)),
            ]
        parts.append(verdict(rows))
    return "\n\n".join(parts)


def _markdown(frame: pd.DataFrame) -> str:
    lines = [list(frame.columns), ["---"] * len(frame.columns), *frame.to_numpy().tolist()]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def write_readme(file: Path) -> None:
    """Put `report` of the stored results (`results.reported`) between the markers of the README."""
    text = file.read_text(encoding="utf-8")
    head, rest = text.split(BEGIN)
    _, tail = rest.split(END)
    block = report(results.reported())
    file.write_text(f"{head}{BEGIN}\n\n{block}\n\n{END}{tail}", encoding="utf-8")


def main(arguments: list[str]) -> None:
    """See the module."""
    if arguments[0] == "--readme":
        write_readme(Path(arguments[1]))
        return
    for params in grid.load(arguments[0]).studies:
        print(f"\n{params.study} study, {params.dataset}, student {params.student}, test")
        try:
            predictions, _ = results.collect(params)
        except FileNotFoundError as unfinished:
            print(unfinished)
            continue
        chance = stats.chance_and_majority(predictions).iloc[0]
        print(table(predictions).to_string(index=False))
        print(f"chance {100 * chance['chance']:.1f}, majority {100 * chance['majority']:.1f}")
        print(f"notebooks: {paths.shown(paths.study(params.study, params.dataset) / 'notebooks')}/")
        print(f"results:   {paths.shown(results.stored_folder(params))}/")
    print(f"\nfigures:   {paths.shown(paths.figures())}/")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except ParameterError as problem:
        sys.exit(str(problem))
