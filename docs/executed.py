"""Executed notebooks of the site: copies of notebooks/, and one run on OpenBookQA.

    python docs/executed.py      run docs/obqa/ again (two minutes; needs TINYLLM_RELEASE_DIR)

The run reads the stored students of `params/laptop/obqa.yaml`, so nothing is trained. It writes to
scratch folders, whose names are taken out of the outputs. Notebooks 01 and 02 quote about 30
questions and a dozen rationales; no other row of the release gets into this folder.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import nbformat

from tinyllm import paths

DOCS = Path(__file__).parent
PARAMS = paths.ROOT / "params" / "laptop" / "obqa.yaml"
NOTEBOOKS = sorted((paths.ROOT / "notebooks").glob("*.ipynb"))
SHOWN = ("01_data_prep", "02_teacher_prompting", "04_evaluation")
WIDGET = "application/vnd.jupyter.widget-view+json"


def copy(source: Path, target: Path, scratch: str = "") -> None:
    """A notebook without progress bars, papermill's notes and the name of the scratch folder."""
    text = source.read_text(encoding="utf-8").replace("](../docs/", "](../")
    if scratch:
        text = text.replace(f"{scratch}/", "")
        others = {file.name for file in NOTEBOOKS} - {f"{name}.ipynb" for name in SHOWN}
        for name in others:
            text = text.replace(f"]({name})", f"](../notebooks/{name})")
    notebook = nbformat.reads(text, as_version=4)
    kept = ("kernelspec", "language_info")
    notebook.metadata = {name: v for name, v in notebook.metadata.items() if name in kept}
    for cell in notebook.cells:
        cell.metadata = {name: v for name, v in cell.metadata.items() if name == "tags"}
        if cell.cell_type == "code":
            outputs, cell.outputs = cell.outputs, []
            for output in outputs:
                stdout = output.get("name") == "stdout"
                if stdout and cell.outputs and cell.outputs[-1].get("name") == "stdout":
                    cell.outputs[-1].text += output.text  # printed in a slow loop
                elif output.get("name") != "stderr" and WIDGET not in output.get("data", {}):
                    cell.outputs.append(output)
    target.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, target)


def copies(folder: Path) -> None:
    """The notebooks with the outputs that are committed."""
    for file in NOTEBOOKS:
        copy(file, folder / file.name)


def run() -> None:
    """Notebooks SHOWN on OpenBookQA, into docs/obqa/."""
    with tempfile.TemporaryDirectory() as scratch:
        folders = {f"TINYLLM_{name.upper()}": f"{scratch}/{name}" for name in ("runs", "figures")}
        environment = os.environ | folders
        command = [sys.executable, "-m", "tinyllm.batch.cli", "restore", str(PARAMS)]
        subprocess.check_call(command, env=environment)
        for name in SHOWN:
            output = Path(scratch, f"{name}.ipynb")
            command = [sys.executable, "-m", "papermill", "--log-level", "ERROR", "-f", str(PARAMS)]
            command += [str(paths.ROOT / "notebooks" / output.name), str(output)]
            subprocess.check_call(command, env=environment)
            copy(output, DOCS / "obqa" / output.name, scratch)
    subprocess.check_call([sys.executable, "-m", "ruff", "format", "--quiet", str(DOCS / "obqa")])


if __name__ == "__main__":
    run()
