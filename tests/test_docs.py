"""The pages outside the package: examples are read, and what they name exists."""

import re
from functools import cache

import nbformat
import parameter_cells
import pytest

from tinyllm import paths
from tinyllm.batch import cli
from tinyllm.data import files
from tinyllm.params import Params

ROOT = paths.ROOT
EXAMPLES = ROOT / "docs" / "examples"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
GOLD = {"train": ["carbon dioxide"], "valid": ["honey"], "test": ["Saturn"]}


@pytest.mark.parametrize("name", ["index.jsonl", "letters.csv", "choices.tsv", "arc", "names.yaml"])
def test_every_example_has_the_same_gold_options(name):
    path, columns = str(EXAMPLES / name), None
    if name.endswith("yaml"):  # a study of own column names
        params = Params.from_yaml(path)
        path, columns = params.source.removeprefix("file:"), params.columns
    splits = files.questions(path, 0, columns)
    assert {split: [question.gold for question in rows] for split, rows in splits.items()} == GOLD


def test_the_page_shows_every_example():
    page = (ROOT / "docs" / "own_data.md").read_text(encoding="utf-8")
    names = {file.relative_to(EXAMPLES).as_posix() for file in EXAMPLES.rglob("*.*")}
    assert names - set(re.findall(r"examples/(\S+)", page)) == {"arc/test.jsonl"}


@cache
def targets():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    return set(" ".join(re.findall(r"^([a-z][a-z -]*):", makefile, re.MULTILINE)).split())


@pytest.mark.parametrize("page", PAGES, ids=lambda file: file.name)
def test_commands_files_and_tests_that_a_page_names_exist(page):
    text = page.read_text(encoding="utf-8")
    blocks = re.findall(r"```bash\n(.*?)```|`([^`\n]+)`", text, re.DOTALL)
    code = "\n".join(block or inline for block, inline in blocks)
    commands = set(re.findall(r"(?:^|[&;] *)tinyllm ([a-z]+)", code, re.MULTILINE))
    assert commands <= {function.__name__ for function in cli.COMMANDS}
    for words in re.findall(r"(?:^|[&;] *)make ((?:[a-z-]+ ?)+)", code, re.MULTILINE):
        assert set(words.split()) <= targets()
    for name in re.findall(r"\b(?:tinyllm|params|profiles|tests|docs)/(?!_)[\w/.-]+\.\w+", code):
        assert (ROOT / name).exists(), name
    for file, test in re.findall(r"(tests/test_\w+\.py)::(test_\w+)", code):
        assert f"def {test}(" in (ROOT / file).read_text(encoding="utf-8"), test


def test_the_parameters_cell_of_a_notebook_is_rewritten_for_its_stage(tmp_path):
    file = tmp_path / "03_distillation.ipynb"
    cell = nbformat.v4.new_code_cell("lr = 1", metadata={"tags": ["parameters"], "papermill": {}})
    other = nbformat.v4.new_code_cell("lr = 1", metadata={"papermill": {}})
    nbformat.write(nbformat.v4.new_notebook(cells=[cell, other]), file)
    parameter_cells.rewrite(file)
    first, second = nbformat.read(file, as_version=4).cells
    assert first.source == parameter_cells.source("students") and second.source == "lr = 1"
    assert (first.metadata, second.metadata) == ({"tags": ["parameters"]}, {})
