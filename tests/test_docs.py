"""The pages outside the package: examples are read, and what they name exists."""

import json
import re
from functools import cache

import nbformat
import parameter_cells
import pytest
import yaml

from tinyllm import paths
from tinyllm.batch import cli
from tinyllm.data import files
from tinyllm.params import Params

ROOT = paths.ROOT
EXAMPLES = ROOT / "docs" / "examples"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
GOLD = {"train": ["carbon dioxide"], "valid": ["honey"], "test": ["Saturn"]}


def gold(path, columns=None):
    splits = files.questions(str(path), 0, columns)
    return {split: [question.gold for question in rows] for split, rows in splits.items()}


@pytest.mark.parametrize("name", ["index.jsonl", "letters.csv", "choices.tsv", "arc"])
def test_every_example_has_the_same_gold_options(name):
    assert gold(EXAMPLES / name) == GOLD


def test_own_column_names_are_read_as_the_example_study_says():
    params = Params.from_yaml(EXAMPLES / "names.yaml")
    assert gold(params.source.removeprefix("file:"), params.columns) == GOLD


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


def test_every_page_is_in_one_table_of_contents():
    docs, listed = ROOT / "docs", ["index"]
    for page in docs.glob("*.md"):
        for block in re.findall(r"```\{toctree\}\n(.*?)```", page.read_text(), re.DOTALL):
            lines = [line for line in block.splitlines() if line and line[0] != ":"]
            listed += [re.sub(r".*<(.+)>", r"\1", line) for line in lines]
    own = {file.stem for file in docs.glob("*.md")} | {"index"}
    own |= {f"obqa/{file.stem}" for file in (docs / "obqa").glob("*.ipynb")}
    own |= {f"notebooks/{file.stem}" for file in (ROOT / "notebooks").glob("*.ipynb")}
    assert sorted(listed) == sorted(own)


def test_pins_of_the_site_are_whole_and_hooks_and_container_files_can_be_read():
    lines = (ROOT / "requirements-docs.txt").read_text(encoding="utf-8").split()
    assert lines and all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in lines)
    assert yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text())["image"]


def test_the_parameters_cell_of_a_notebook_is_rewritten_for_its_stage(tmp_path):
    file = tmp_path / "03_distillation.ipynb"
    cell = nbformat.v4.new_code_cell("lr = 1", metadata={"tags": ["parameters"], "papermill": {}})
    other = nbformat.v4.new_code_cell("lr = 1", metadata={"papermill": {}})
    nbformat.write(nbformat.v4.new_notebook(cells=[cell, other]), file)
    parameter_cells.rewrite(file)
    first, second = nbformat.read(file, as_version=4).cells
    assert first.source == parameter_cells.source("students") and second.source == "lr = 1"
    assert (first.metadata, second.metadata) == ({"tags": ["parameters"]}, {})
