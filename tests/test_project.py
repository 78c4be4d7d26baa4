"""The project's frame: pins agree, notebooks are whole, nothing names a machine."""

import json
import re
import subprocess
import sys
import tomllib

import nbformat
import pytest
import yaml

from tinyllm import paths
from tinyllm.evaluation import paired, results

ROOT = paths.ROOT
NOTEBOOKS = sorted((ROOT / "notebooks").glob("0*.ipynb"))
LOCK = (ROOT / "requirements.lock").read_text(encoding="utf-8").split()


def test_the_lock_pins_everything_that_the_package_needs():
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9._!-]+", line) for line in LOCK)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    pinned = {re.sub(r"[-_.]+", "-", line.split("==")[0]).lower() for line in LOCK}
    assert {re.split(r"[<>=]", line)[0] for line in wanted} <= pinned


def test_conda_environment_has_the_same_pins_through_pip():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    assert environment["dependencies"][-1]["pip"] == ["-r requirements.lock", "-e ."]


def test_every_folder_and_file_of_data_is_packaged():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert project["project"]["scripts"] == {"tinyllm": "tinyllm.batch.cli:main"}
    folders = {file.parent for file in (ROOT / "tinyllm").rglob("*.py")}
    assert all((folder / "__init__.py").exists() for folder in folders)
    kinds = project["tool"]["setuptools"]["package-data"]["*"]
    files = [f for f in (ROOT / "tinyllm").rglob("*.*") if f.suffix not in (".py", ".pyc")]
    assert files and all(any(file.match(kind) for kind in kinds) for file in files)


def test_importing_the_package_and_its_statistics_does_not_load_torch():
    code = (
        "import sys; from tinyllm.batch import cli; from tinyllm.evaluation import results, paired;"
        "assert 'torch' not in sys.modules"
    )
    subprocess.check_call([sys.executable, "-c", code])


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda f: f.stem)
def test_notebooks_are_committed_whole_with_small_outputs(file):
    notebook = nbformat.read(file, as_version=4)
    code = [c for c in notebook.cells if c.cell_type == "code" and c.source]
    assert len(notebook.cells) - len(code) >= 0.7 * len(code)  # about as many
    assert max(len(c.source.splitlines()) for c in code) <= 40
    assert sum("parameters" in c.metadata.get("tags", []) for c in code) == 1
    assert [c.execution_count for c in code] == list(range(1, len(code) + 1))
    outputs = [output for c in code for output in c.outputs]
    assert outputs and not any(output.output_type == "error" for output in outputs)
    assert max(len(json.dumps(output)) for output in outputs) < 200_000


def test_no_committed_file_names_a_registry_or_a_path_of_one_machine():
    words = "|".join(("pypi" + r"\.org", "python" + "hosted", "/ro" + "ot/", "/wo" + "rk/"))
    search = ["git", "-C", str(ROOT), "grep", "-nIE", words]
    lines = subprocess.run(search, capture_output=True, text=True)
    assert (lines.stdout, lines.returncode) == ("", 1), lines.stderr


def test_the_stored_micro_study_passes_its_controls(committed_results):
    """The positive control shows a gain, the negative control none."""
    micro = results.stored("micro")
    assert micro.id.nunique() >= 400 and micro.seed.nunique() >= 3
    assert paired.paired(micro, "tinyllm", "finetune")["low"] > 0.3
    assert paired.paired(micro, "tinyllm:scrambled", "finetune")["low"] <= 0
    verdicts = paired.compare(micro).set_index(["arm", "baseline"])["verdict"]
    for single in ("dss:a", "dss:b"):  # better than either teacher alone, after Holm
        assert verdicts["tinyllm", single] == "better"
