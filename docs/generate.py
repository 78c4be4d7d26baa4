"""Generates the pages of the site that come from the package, results/ and figures/."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pandas as pd

from tinyllm import arms, paths
from tinyllm.evaluation import paired, results, summary
from tinyllm.figures import style
from tinyllm.params import STAGES, Params


def markdown(table: pd.DataFrame) -> str:
    """A Markdown table without index column."""
    rows = [list(table), ["---"] * len(table.columns), *table.astype(str).values.tolist()]
    text = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    return re.sub(r" (?=\[)|(?<=,) (?=-?\d)", "\N{NO-BREAK SPACE}", text)  # within intervals


def figure(file: Path) -> str:
    """A figure with its caption as text, and links to its PDF and to the numbers drawn."""
    caption = file.with_suffix(".caption.md").read_text(encoding="utf-8").strip()
    alt = " ".join(caption.split()).split(". ")[0]
    pdf, csv = (f"[{kind.upper()}](../figures/{file.stem}.{kind})" for kind in ("pdf", "csv"))
    return f":::{{figure}} ../figures/{file.name}\n:alt: {alt}\n\n{caption} ({pdf}, {csv})\n:::"


def accuracies(study: str, dataset: str, rows: pd.DataFrame) -> list[str]:
    """One student on one dataset: accuracy by arm, difference from fine-tuning, baselines."""
    table = summary.table(rows).set_index("arm")
    table = table.loc[style.in_order(table.index)].rename(index=style.arm_name)
    text = [markdown(table.rename_axis("arm").reset_index())]
    for row in results.baselines(study, dataset).query("split == 'test'").itertuples():
        text += [f"Chance: {row.chance:.1%}. Majority (always {row.always}): {row.majority:.1%}."]
    return text


def comparisons(rows: pd.DataFrame) -> list[dict]:
    """The comparisons of one student with other baselines, and means over datasets."""
    compared = paired.compare(rows)
    compared = compared[(compared["baseline"] != "finetune") | (compared["dataset"] == "mean")]
    lines = []
    for row in compared.to_dict("records"):
        points = [100 * row[name] for name in ("difference", "low", "high")]
        count = f" of {row['datasets']} datasets" if row["dataset"] == "mean" else ""
        line = {"dataset": style.dataset_name(row["dataset"]) + count}
        line |= {name: style.arm_name(row[name]) for name in ("arm", "baseline")}
        line["points"] = "{:+z.1f} [{:z.1f}, {:z.1f}]".format(*points)
        lines.append(line | {"p (Holm)": f"{row['p_holm']:.2g}", "verdict": row["verdict"]})
    return lines


def outcome() -> str:
    """Each stored study with its tables and figures; then the figures that belong to no study."""
    text, drawn, rows = [], [], results.whole()
    for study in sorted(rows["study"].unique(), key=lambda name: ("laptop" not in name, name)):
        text += [f"## Study `{study}`"]
        for student, own in rows[rows["study"] == study].groupby("student", sort=False):
            for dataset in style.datasets_in_order(own["dataset"].unique()):
                text += [f"### {style.dataset_name(dataset)}, student `{student}`"]
                text += accuracies(study, dataset, own[own["dataset"] == dataset])
            if lines := comparisons(own):
                text += [f"### Other comparisons, student `{student}`"]
                text += [markdown(pd.DataFrame(lines))]
        drawn += sorted(paths.figures().glob(f"{study}_*.png"))
        text += [figure(file) for file in drawn if file.name.startswith(f"{study}_")]
    others = sorted(set(paths.figures().glob("*.png")) - set(drawn))
    return "\n\n".join([*text, "## All studies, and the paper's own numbers", *map(figure, others)])


def trained() -> str:
    """Code, device and training time of the stored students; a shared student counts once."""
    rows, seen = {}, set()
    for file in sorted(paths.results().glob("*/*/students/*/*/*/manifest.json"), reverse=True):
        study, dataset = file.relative_to(paths.results()).parts[:2]
        manifest = json.loads(file.read_text(encoding="utf-8"))
        facts = manifest["facts"]
        same = manifest["finished"], facts.get("train_seconds")
        if same in seen or not facts.get("steps"):
            continue
        seen.add(same)
        device = f"{manifest['device']}, {facts['computed_in']}"
        row = rows.setdefault((study, device, facts["versions"]["train"]), [set(), set(), []])
        row[0].add(dataset)
        row[1].add(manifest["git"])
        row[2].append(facts["train_seconds"] / 3600)
    lines = [
        {
            "study": study,
            "datasets": ", ".join(map(style.dataset_name, style.datasets_in_order(datasets))),
            "students": len(hours),
            "device": device,
            "training code": f"version {code}, "
            + (f"{len(commits)} commits" if len(commits) > 1 else f"`{min(commits)}`"),
            "hours": f"{sum(hours):.2f}",
        }
        for (study, device, code), (datasets, commits, hours) in sorted(rows.items())
    ]
    return markdown(pd.DataFrame(lines))


def arm_names() -> str:
    """The arms of the stored studies, by the names that tables and figures use."""
    names = style.in_order(results.facts()["arm"])
    rows = [
        {"in tables and figures": style.arm_name(arm), "in `arms`": f"`{arm}`"} for arm in names
    ]
    return markdown(pd.DataFrame(rows))


def parameters() -> str:
    """One row per parameter: default, what is allowed, meaning, and the notebooks that read it."""
    schema = Params.model_json_schema()["properties"]
    words = {"array": "list", "string": "text", "object": "mapping"}
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    rows = []
    for name, field in Params.model_fields.items():
        entry = schema[name].get("items", {}) | schema[name]
        limits = [f"{sign} {entry[key]}" for key, sign in signs.items() if key in entry]
        row = {"parameter": f"`{name}`", "default": f"`{json.dumps(field.default)}`"}
        row["type"] = words.get(entry["type"], entry["type"])
        row["allowed"] = ", ".join([*entry.get("enum", []), *limits])
        read = [f"0{n}" for n, names in enumerate(STAGES.values(), 1) if name in names.split()]
        rows.append(row | {"meaning": field.description, "notebooks": " ".join(read)})
    return markdown(pd.DataFrame(rows))


FEATURES = {  # feature: its modules; the method's come first
    "parameters, arms, folders": "params arms paths",
    "questions: the release and the micro world": "data/question data/load data/release data/micro",
    "prompts, tokens, models": "prompts models/encode models/load models/aliases models/micro",
    "teachers write rationales": "teachers/ask teachers/hf teachers/micro",
    "targets, batches, loss, training loop": "students/targets students/collate students/loss "
    "students/train students/student students/predictions",
    "scores of options, statistics, figures": "models/score evaluation/results "
    "evaluation/accuracy evaluation/paired evaluation/summary figures/style",
    "resuming runs, rejecting stale results": "runs teachers/store students/checkpoint",
    "batches: grids, status, cost, Kubernetes, command line": "batch/grid batch/status batch/plan "
    "batch/kubernetes batch/cli",
    "parallel training, torchrun": "students/run",
    "auditing, cleaning and choosing rationales": "teachers/quality teachers/choose",
    "servers and their errors, reasoning models": "teachers/openai teachers/base",
    "users' own files, the Hugging Face hub": "data/files data/hub",
    "finding the option that a text names": "models/extract",
}
METHOD = 6  # the first six are the method


def lines_of(file: Path) -> int:
    """Lines of a file, docstrings and blank ones included."""
    return len(file.read_text(encoding="utf-8").splitlines())


def features() -> str:
    """Lines of the package by feature, and the total of the method."""
    package = paths.ROOT / "tinyllm"
    lines = {
        str(file.relative_to(package).with_suffix("")): lines_of(file)
        for file in package.rglob("*.py")
        if file.name != "__init__.py"
    }
    rows = [
        {"feature": name, "lines": sum(map(lines.pop, modules.split()))}
        for name, modules in FEATURES.items()
    ]
    if lines:
        raise ValueError(f"FEATURES lacks {', '.join(lines)}")
    method = sum(row["lines"] for row in rows[:METHOD])
    rows.insert(METHOD, {"feature": "**the method, total**", "lines": f"**{method}**"})
    return markdown(pd.DataFrame(rows))


def sizes() -> str:
    """Lines of the package by folder, docstrings included, and of the notebooks' code."""
    package, rows = paths.ROOT / "tinyllm", []
    for place in [package, *sorted(folder.parent for folder in package.glob("*/__init__.py"))]:
        files = list(place.glob("*.py"))
        lines = sum(map(lines_of, files))
        rows.append(
            {"folder": f"{place.relative_to(paths.ROOT)}/", "files": len(files), "lines": lines}
        )
    table = pd.DataFrame(rows)
    code = 0
    for file in sorted((paths.ROOT / "notebooks").glob("*.ipynb")):
        cells = json.loads(file.read_text(encoding="utf-8"))["cells"]
        code += sum(len(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    rows.append({"folder": "all", "files": table["files"].sum(), "lines": table["lines"].sum()})
    text = f"The notebooks have {code:,} lines of code: one for every "
    return f"{markdown(pd.DataFrame(rows))}\n\n{text}{rows[-1]['lines'] / code:.1f} of the package."


def write(folder: Path) -> None:
    """All parts, as Markdown files that pages include."""
    folder.mkdir(exist_ok=True)
    grammar = arms.__doc__.partition("\n\n")[2]
    parts = {"results": outcome(), "parameters": parameters(), "arms": grammar, "sizes": sizes()}
    parts |= {"features": features(), "trained": trained(), "arm_names": arm_names()}
    for file in paths.results().glob("*.csv"):
        parts[file.stem] = markdown(pd.read_csv(file, dtype=str, keep_default_na=False))
    for name, text in parts.items():
        (folder / f"{name}.md").write_text(f"{text}\n", encoding="utf-8")
