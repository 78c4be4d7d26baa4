"""Writes the notebooks' `parameters` cells from `tinyllm/params.py`: `make parameters`.

python docs/parameter_cells.py notebooks/*.ipynb
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import nbformat

from tinyllm.batch.grid import RULES
from tinyllm.params import MICRO, STAGES, Params

LINE = 100  # characters of a line of code; a longer comment is left out
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}


def source(stage: str) -> str:
    """Source of a notebook's `parameters` cell: the micro study's values, one name per line."""
    micro = Params.from_yaml(MICRO)
    lines = []
    for name in STAGES[stage].split():
        value = getattr(micro, name)
        literal = json.dumps(value, ensure_ascii=False) if type(value) is not bool else value
        line = f"{name}: {type(value).__name__} = {literal}"
        if len(line) > LINE:  # ruff would give each element a line
            line = f"{name}: list = [\n    {literal[1:-1]}\n]  # fmt: skip"
        comment = f"{line}  # {Params.model_fields[name].description}"
        lines.append(comment if len(comment) <= LINE else line)
    return "\n".join(lines)


def rewrite(file: Path) -> None:
    """Write a notebook's parameters cell anew, and drop metadata of other tools."""
    stages = dict(zip(RULES.values(), STAGES, strict=False))
    notebook = nbformat.read(file, as_version=4)
    for cell in notebook.cells:
        tags = cell.metadata.get("tags", [])
        cell.metadata = {"tags": tags} if tags else {}
        if "parameters" in tags and file.stem in stages:
            cell.source = source(stages[file.stem])
    notebook.metadata = {"kernelspec": KERNEL, "language_info": {"name": "python"}}
    nbformat.write(notebook, file)


if __name__ == "__main__":
    for name in sys.argv[1:]:
        rewrite(Path(name))
