"""What several test files need."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tinyllm import paths


@pytest.fixture(autouse=True)
def no_sizes_of_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command line's `--parameters` sets this variable; no test sees another one's."""
    monkeypatch.setenv("TINYLLM_PARAMETERS", "")


@pytest.fixture(scope="session")
def mirror() -> Path:
    """A mirror of the paper's release on this machine; the test is skipped where there is none."""
    named = os.environ.get("TINYLLM_RELEASE_DIR")
    folder = Path(named) if named else paths.ROOT.parent / "shared" / "tinyllm-release"
    if not (folder / "datasets").is_dir():
        pytest.skip("no mirror of the paper's release: TINYLLM_RELEASE_DIR names one")
    return folder.resolve()


@pytest.fixture
def committed_results(monkeypatch: pytest.MonkeyPatch) -> Path:
    """results/ of the checkout, and the package reads it (`make test` names an empty folder)."""
    monkeypatch.setenv("TINYLLM_RESULTS", str(paths.ROOT / "results"))
    return paths.results()


@pytest.fixture
def release_mirror(mirror: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same, and the package reads it."""
    monkeypatch.setenv("TINYLLM_RELEASE_DIR", str(mirror))
    return mirror
