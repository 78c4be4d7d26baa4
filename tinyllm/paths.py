"""Where things are: the repository, the data, the run folders and the figures.

Notebooks are started from anywhere (papermill keeps the caller's folder, nbval takes the
notebook's), so every path of the study comes from here and none from the working directory.

Environment variables that move a folder:
    TINYLLM_RUNS         outputs of runs         (default: runs/ in the repository)
    TINYLLM_FIGURES      figures                 (default: figures/)
    TINYLLM_RESULTS      stored predictions      (default: results/)
    TINYLLM_CACHE        downloads               (default: the user's cache folder)
    TINYLLM_RELEASE_DIR  a mirror of the paper's release, read instead of downloading it
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pooch

if TYPE_CHECKING:
    from tinyllm.params import Params

ROOT = Path(__file__).resolve().parent.parent


def _folder(variable: str, default: Path) -> Path:
    value = os.environ.get(variable)
    return Path(value).expanduser().resolve() if value else default


def runs() -> Path:
    """Root of all run folders."""
    return _folder("TINYLLM_RUNS", ROOT / "runs")


def figures() -> Path:
    """Folder of the figures (PNG, PDF and the CSV of the numbers plotted)."""
    return _folder("TINYLLM_FIGURES", ROOT / "figures")


def results() -> Path:
    """Folder of the stored predictions that the README and the figures report."""
    return _folder("TINYLLM_RESULTS", ROOT / "results")


def cache() -> Path:
    """Folder of downloaded files."""
    return _folder("TINYLLM_CACHE", Path(pooch.os_cache("tinyllm")))


def release_mirror() -> Path | None:
    """The user's mirror of the paper's release, or None: then it is downloaded."""
    value = os.environ.get("TINYLLM_RELEASE_DIR")
    return Path(value).expanduser().resolve() if value else None


def slug(name: str) -> str:
    """A name as one folder: `hf:google/flan-t5-xl` becomes `hf-google-flan-t5-xl`."""
    return re.sub(r"[^A-Za-z0-9._+-]+", "-", name).strip("-")


def study(study: str, dataset: str) -> Path:
    """Folder of one study on one dataset."""
    return runs() / slug(study) / slug(dataset)


def variant(params: Params) -> str:
    """Folder that tells apart what the ablations need: how teachers are asked."""
    parts = [] if params.examples == "random:2" else [slug(params.examples)]
    parts += [] if params.teacher_forcing else ["no-forcing"]
    return "_".join(parts) or "default"


def rationales(params: Params, teacher: str) -> Path:
    """Run folder of one teacher's rationales, asked for as `params` say."""
    base = study(params.study, params.dataset) / "rationales"
    return base / slug(teacher) / variant(params)


def shown(path: Path) -> str:
    """A path as it is printed: relative to the repository where it lies inside it."""
    path = Path(path)
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)
