"""The project's frame: pins agree, notebooks tell a story, nothing names a machine."""

import json
import re
import subprocess

import nbformat
import pytest
import yaml

from tinyllm import paths

ROOT = paths.ROOT
NOTEBOOKS = sorted((ROOT / "notebooks").glob("0*.ipynb"))
LOCK = (ROOT / "requirements.lock").read_text(encoding="utf-8").split()


def test_the_lock_pins_everything_exactly():
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9._!-]+", line) for line in LOCK)
    assert "torch==2.13.0" in LOCK


def test_the_lock_holds_every_dependency_of_the_package():
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    pinned = {re.sub(r"[-_.]+", "-", line.split("==")[0]).lower() for line in LOCK}
    assert {re.split(r"[<>=]", line)[0] for line in wanted} <= pinned


def test_conda_environment_has_the_same_pins_through_pip():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    assert "python=3.11" in environment["dependencies"]
    pip = environment["dependencies"][-1]["pip"]
    assert pip == ["-r requirements.lock", "-e ."]


def test_ci_calls_make_test():
    assert "make test" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda f: f.stem)
def test_notebooks_lead_with_prose_and_hold_no_logic(file):
    notebook = nbformat.read(file, as_version=4)
    code = [c for c in notebook.cells if c.cell_type == "code"]
    assert len(notebook.cells) - len(code) >= len(code)
    assert max(len(c.source.splitlines()) for c in code) <= 30
    assert not any(re.search(r"^\s*(def|class) ", c.source, re.M) for c in code)
    assert sum("parameters" in c.metadata.get("tags", []) for c in code) == 1


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda f: f.stem)
def test_notebooks_are_committed_whole_with_small_outputs(file):
    notebook = nbformat.read(file, as_version=4)
    code = [c for c in notebook.cells if c.cell_type == "code" and c.source]
    assert [c.execution_count for c in code] == list(range(1, len(code) + 1))
    outputs = [output for c in code for output in c.outputs]
    assert outputs and not any(output.output_type == "error" for output in outputs)
    assert max(len(json.dumps(output)) for output in outputs) < 200_000
    if file.stem != "04_evaluation":  # accuracies vary by machine; the others hold what must not
        assert any("nbval-check-output" in c.metadata.get("tags", []) for c in code)


def test_no_committed_file_names_a_registry_or_a_path_of_one_machine():
    words = "|".join(("pypi" + r"\.org", "python" + "hosted", "/ro" + "ot/", "/wo" + "rk/"))
    found = subprocess.run(
        ["git", "-C", str(ROOT), "grep", "-nIE", words], capture_output=True, text=True
    )
    assert found.stdout == ""
    assert found.returncode == 1, found.stderr


def test_the_readme_reports_what_is_stored(committed_results):
    from tinyllm import results, summary

    changed = ["git", "-C", str(ROOT), "status", "--porcelain", "--", "results", "README.md"]
    if subprocess.run(changed, capture_output=True, text=True).stdout:
        pytest.skip("results/ holds runs that are not committed; `make outputs` writes the README")
    stored = results.reported()
    assert "micro" in set(stored.dataset)
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    block = text.split(summary.BEGIN)[1].split(summary.END)[0].strip()
    assert block == summary.report(stored)


def test_the_stored_micro_study_passes_its_controls(committed_results):
    """The positive control shows a gain, the negative control none (see notebook 04)."""
    from tinyllm import results, stats

    micro = results.stored("micro")
    assert micro.id.nunique() >= 400 and micro.seed.nunique() >= 3
    gain = stats.paired(micro, "tinyllm", "finetune")
    assert gain["difference"] >= 0.05 and gain["low"] > 0
    assert stats.paired(micro, "tinyllm:scrambled", "finetune")["low"] <= 0
    for single in ("dss:a", "dss:b"):  # not worse than either teacher alone, as far as can be told
        assert stats.paired(micro, "tinyllm", single)["high"] > 0
