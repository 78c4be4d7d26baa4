"""The repository: pinned versions, executed notebooks, valid references, no machine paths."""

import itertools
import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from statistics import median

import nbformat
import parameter_cells
import pytest
import readme
import yaml

from tinyllm import paths
from tinyllm.batch import cli
from tinyllm.data import files
from tinyllm.evaluation import paired, results
from tinyllm.params import Params

ROOT = paths.ROOT
NOTEBOOKS = sorted((ROOT / "notebooks").glob("0*.ipynb"))
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT = PYPROJECT["project"]
EXAMPLES = ROOT / "docs" / "examples"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
GOLD = {"train": ["carbon dioxide"], "valid": ["honey"], "test": ["Saturn"]}
RULES = (ROOT / "Makefile").read_text(encoding="utf-8")
TARGETS = set(" ".join(re.findall(r"^([a-z][a-z -]*):", RULES, re.MULTILINE)).split())


@pytest.mark.parametrize("name", ["requirements.lock", "requirements-docs.txt"])
def test_lock_files_contain_only_pinned_versions(name):
    lines = (ROOT / name).read_text(encoding="utf-8").split()
    assert lines and all(re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9._!-]+", line) for line in lines)


def test_the_lock_covers_all_dependencies_and_conda_uses_it():
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8").split()
    wanted = [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["dev"]]
    pinned = {re.sub(r"[-_.]+", "-", line.split("==")[0]).lower() for line in lock}
    assert {re.split(r"[<>=]", line)[0] for line in wanted} <= pinned
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    assert environment["dependencies"][-1]["pip"] == ["-r requirements.lock", "-e ."]


def test_all_subpackages_and_data_files_are_packaged():
    folders = {file.parent for file in (ROOT / "tinyllm").rglob("*.py")}
    assert all((folder / "__init__.py").exists() for folder in folders)
    kinds = PYPROJECT["tool"]["setuptools"]["package-data"]["*"]
    files = [f for f in (ROOT / "tinyllm").rglob("*.*") if f.suffix not in (".py", ".pyc")]
    assert files and all(any(file.match(kind) for kind in kinds) for file in files)


def test_cli_plans_statistics_and_figures_do_not_import_torch():
    code = (
        "import sys; from tinyllm.batch import cli, grid, plan; from tinyllm.figures import style; "
        "from tinyllm.evaluation import results, summary; results.stored(); "
        "plan.report(grid.load('paper')); "
        "assert not {'torch', 'transformers', 'datasets'} & set(sys.modules)"
    )
    subprocess.check_call([sys.executable, "-c", code])


def test_the_results_in_the_readme_are_those_of_the_stored_studies(committed_results):
    assert readme.section() in (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_pages_on_openbookqa_have_the_code_and_verdicts_of_today(committed_results):
    skipped, pages = {"parameters", "injected-parameters"}, {}
    for page in (ROOT / "docs" / "obqa").glob("*.ipynb"):
        pages[page.name], code = nbformat.read(page, as_version=4), []
        for notebook in (pages[page.name], nbformat.read(ROOT / "notebooks" / page.name, 4)):
            cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
            own = [c for c in cells if not skipped.intersection(c.metadata.get("tags", ()))]
            code.append([cell.source for cell in own])
        assert code[0] == code[1], f"{page.name}: run docs/executed.py again"
    rows = results.whole()
    table = paired.compare(rows[rows["study"] == "laptop"])
    table = table[(table["arm"] == paired.OURS) & (table["dataset"] == "mean")]
    text = nbformat.writes(pages["04_evaluation.ipynb"])
    for line in table[~table["baseline"].str.contains("repaired")].to_dict("records"):
        ends = (100 * line[name] for name in ("difference", "low", "high"))
        points = "{:+.1f} points [{:.1f}, {:.1f}]".format(*ends)
        assert f"{points} on {line['datasets']} datasets" in text


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda f: f.stem)
def test_notebooks_are_committed_fully_executed_with_small_outputs(file, tmp_path):
    notebook = nbformat.read(file, as_version=4)
    code = [c for c in notebook.cells if c.cell_type == "code" and c.source]
    lines = [len(cell.source.splitlines()) for cell in code]
    assert max(lines) <= 40 and median(lines) <= 12  # one step per cell
    assert sum("parameters" in c.metadata.get("tags", []) for c in code) == 1
    assert [c.execution_count for c in code] == list(range(1, len(code) + 1))
    outputs = [output for c in code for output in c.outputs]
    assert outputs and not any(output.output_type == "error" for output in outputs)
    assert max(len(json.dumps(output)) for output in outputs) < 200_000
    copy = Path(shutil.copy(file, tmp_path))  # its parameters cell matches tinyllm/params.py
    parameter_cells.rewrite(copy)
    again = nbformat.read(copy, as_version=4)
    assert [cell.source for cell in again.cells] == [cell.source for cell in notebook.cells]


@pytest.mark.parametrize("name", ["index.jsonl", "letters.csv", "choices.tsv", "arc", "names.yaml"])
def test_all_example_formats_give_the_same_gold_options(name):
    path, columns = str(EXAMPLES / name), None
    if name.endswith("yaml"):  # a study with custom column names
        params = Params.from_yaml(path)
        path, columns = params.source.removeprefix("file:"), params.columns
    splits = files.questions(path, 0, columns)
    assert {split: [question.gold for question in rows] for split, rows in splits.items()} == GOLD


@pytest.mark.parametrize("page", PAGES, ids=lambda file: file.name)
def test_commands_files_and_tests_named_in_documentation_exist(page):
    text = page.read_text(encoding="utf-8")
    blocks = re.findall(r"```bash\n(.*?)```|`([^`\n]+)`", text, re.DOTALL)
    code = "\n".join(block or inline for block, inline in blocks)
    commands = set(re.findall(r"(?:^|[&;] *)tinyllm ([a-z]+)", code, re.MULTILINE))
    assert commands <= {function.__name__ for function in cli.COMMANDS}
    for words in re.findall(r"(?:^|[&;] *)make ((?:[a-z-]+ ?)+)", code, re.MULTILINE):
        assert set(words.split()) <= TARGETS
    for name in re.findall(r"\b(?:tinyllm|params|profiles|tests|docs)/(?!_)[\w/.-]+\.\w+", code):
        assert (ROOT / name).exists(), name
    for file, test in re.findall(r"(tests/test_\w+\.py)::(test_\w+)", code):
        assert f"def {test}(" in (ROOT / file).read_text(encoding="utf-8"), test


def test_no_committed_file_contains_a_registry_or_a_machine_path():
    words = "|".join(("pypi" + r"\.org", "python" + "hosted", "/ro" + "ot/", "/wo" + "rk/"))
    search = ["git", "-C", str(ROOT), "grep", "-nIE", words]
    lines = subprocess.run(search, capture_output=True, text=True)
    assert (lines.stdout, lines.returncode) == ("", 1), lines.stderr


def test_the_stored_micro_study_passes_its_controls(committed_results):
    """The positive control shows a gain; the negative control shows none."""
    micro = results.stored("micro")
    assert micro.id.nunique() >= 400 and micro.seed.nunique() >= 3
    assert paired.paired(micro, "tinyllm", "finetune")["low"] > 0.3
    assert paired.paired(micro, "tinyllm:scrambled", "finetune")["low"] <= 0
    verdicts = paired.compare(micro).set_index(["arm", "baseline"])["verdict"]
    for single in ("dss:a", "dss:b"):  # better than either teacher alone, after Holm
        assert verdicts["tinyllm", single] == "better"


FURTHER = ["laptop/piqa/students", "laptop/bioasq/students", "micro-choosing-again"]
LAPTOP = ["laptop-whole", "laptop/bioasq", "laptop/piqa", "laptop/pubmedqa/students"]
JUDGED = {
    "docs/preregistration.md": LAPTOP,
    "docs/preregistration_choosing.md": ["choosing", "micro-choosing"],
    "docs/preregistration_further.md": FURTHER,
    "docs/preregistration_bioasq.md": ["laptop/bioasq/students/finetune"],
}
BEFORE = [f":!results/laptop/pubmedqa/students/{arm}" for arm in ("inference", "dss-flan-t5")]


@pytest.mark.parametrize("file", JUDGED)
def test_preregistrations_are_older_than_the_runs_they_evaluate(file):
    """They state the margin and were not changed after results were stored (except BEFORE)."""
    assert f"±{100 * paired.MARGIN:g} points" in (ROOT / file).read_text(encoding="utf-8")

    def git(*arguments):
        return subprocess.run(["git", "-C", ROOT, *arguments], capture_output=True, text=True)

    if git("rev-parse", "--is-shallow-repository").stdout != "false\n":
        pytest.skip("needs the whole history of git")
    under = [f"results/{name}" for name in JUDGED[file]] + BEFORE
    history = ["log", "--full-history", "--format=%H"]
    rules = git(*history, "--", file).stdout.split()
    runs = git(*history, "--diff-filter=A", "--", *under).stdout.split()
    for rule, run in itertools.product(rules, runs):
        assert git("merge-base", "--is-ancestor", rule, run).returncode == 0, (rule, run)
    assert rules or not runs
