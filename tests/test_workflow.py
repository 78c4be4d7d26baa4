"""A notebook run by papermill as a user runs it (the whole five: test_snakemake, and nbval)."""

import os
import subprocess
import sys

import nbformat
import pytest

from tinyllm import paths

NAMES = [f.stem for f in sorted((paths.ROOT / "notebooks").glob("0*.ipynb"))]


def run(name, parameters, out, environment):
    """papermill in a process and a working folder of its own, as `make study` calls it."""
    return subprocess.run(
        [
            *(sys.executable, "-m", "papermill", "--no-progress-bar", "-f", str(parameters)),
            *(str(paths.ROOT / "notebooks" / f"{name}.ipynb"), str(out)),
        ],
        cwd=out.parent,
        env=os.environ | environment,
        capture_output=True,
        text=True,
    )


@pytest.fixture
def environment(tmp_path):
    folders = ("runs", "figures", "results")
    return {f"TINYLLM_{name.upper()}": str(tmp_path / name) for name in folders}


def test_a_bad_parameter_ends_the_notebook_with_its_name(tmp_path, environment):
    parameters = tmp_path / "bad.yaml"
    parameters.write_text("study: bad\nlr: 1e-4\nepoch: 3\n")
    out = tmp_path / "bad.ipynb"
    done = run(NAMES[0], parameters, out, environment)
    assert done.returncode != 0
    errors = [
        output
        for cell in nbformat.read(out, as_version=4).cells
        for output in cell.get("outputs", [])
        if output.output_type == "error"
    ]
    assert [error.ename for error in errors] == ["ParameterError"]
    assert "lr: '1e-4'" in errors[0].evalue and "epoch: 3" in errors[0].evalue
    assert not (tmp_path / "runs").exists()
