"""Paths of the repository, the data, the run folders and the figures.

Notebooks may be started from any folder, so every path of the study comes from this module.

Environment variables that move a folder:
    TINYLLM_RUNS         outputs of runs         (default: runs/ in the repository)
    TINYLLM_FIGURES      figures                 (default: figures/)
    TINYLLM_RESULTS      stored predictions      (default: results/)
    TINYLLM_CACHE        downloads               (default: the user's cache folder)
    TINYLLM_RELEASE_DIR  a mirror of the paper's release, read instead of downloading it
"""

import os
import re
from pathlib import Path

import pooch

from tinyllm.params import Params

ROOT = Path(__file__).resolve().parent.parent


def _folder(variable: str, default: Path | None) -> Path | None:
    value = os.environ.get(variable)
    return Path(value).expanduser().resolve() if value else default


def runs() -> Path:
    """Root of all run folders."""
    return _folder("TINYLLM_RUNS", ROOT / "runs")


def figures() -> Path:
    """Folder of the figures: PNG, PDF, caption, and the CSV of the numbers plotted."""
    return _folder("TINYLLM_FIGURES", ROOT / "figures")


def results() -> Path:
    """Folder of the stored predictions that README, docs and figures report."""
    return _folder("TINYLLM_RESULTS", ROOT / "results")


def cache() -> Path:
    """Folder of downloaded files."""
    return _folder("TINYLLM_CACHE", Path(pooch.os_cache("tinyllm")))


def release_mirror() -> Path | None:
    """The user's mirror of the paper's release, or None if the release is to be downloaded."""
    return _folder("TINYLLM_RELEASE_DIR", None)


def model(name: str) -> Path:
    """Path of a model's name: in the repository if it exists there, else in the current folder."""
    path = Path(name).expanduser()
    return ROOT / path if (ROOT / path).exists() else path.absolute()


def slug(name: str) -> str:
    """Turn a name into a folder name: `hf:google/flan-t5-xl` becomes `hf-google-flan-t5-xl`."""
    return re.sub(r"[^A-Za-z0-9._+-]+", "-", name).strip("-")


def study(study: str, dataset: str) -> Path:
    """Folder of one study on one dataset: runs/STUDY/DATASET."""
    return runs() / slug(study) / slug(dataset)


def data(params: Params) -> Path:
    """Folder of a study's questions."""
    return study(params.study, params.dataset) / "data"


def notebooks(params: Params) -> Path:
    """Folder of a study's executed notebooks and the parameter files of its jobs."""
    return study(params.study, params.dataset) / "notebooks"


def student(params: Params, arm: str, seed: int) -> Path:
    """Run folder of one student."""
    students = study(params.study, params.dataset) / "students"
    return students / slug(arm) / slug(params.student) / f"seed{seed}"


def stored(params: Params, arm: str, seed: int) -> Path:
    """Folder of one student under results/: a copy of its run folder without the weights."""
    return results() / student(params, arm, seed).relative_to(runs())


def shown(path: Path) -> str:
    """A path for messages: relative to the repository if it lies inside it."""
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)
