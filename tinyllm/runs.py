"""Run folders: what makes a folder finished, and when work may be skipped.

A folder is finished when it holds `manifest.json`, which is written last. The manifest keeps the
`spec`: every parameter and input hash that the content depends on. Work whose spec is equal is
reused; a different spec is an error that says what differs.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from tinyllm import paths

MANIFEST, BEGUN, LOCK = "manifest.json", "begun.json", "writer.lock"
PACKAGES = ("torch", "transformers", "datasets", "accelerate", "peft", "numpy", "papermill")


class StaleRun(Exception):
    """A run folder holds the outcome of other parameters."""


def sha256(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(value: Any) -> str:
    """SHA-256 of a JSON value, hexadecimal."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def write_json(path: Path, value: Any) -> None:
    """Write JSON so that a reader sees the old file or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    text = json.dumps(value, indent=1, ensure_ascii=False)
    temporary.write_text(text + "\n", encoding="utf-8")
    temporary.replace(path)


def read_manifest(folder: Path) -> dict | None:
    """The folder's manifest, or None where the folder is absent or unfinished."""
    file = Path(folder) / MANIFEST
    return _read_json(file) if file.exists() else None


def _read_json(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:  # after a power cut, say
        raise ValueError(f"{paths.shown(file)} is damaged ({error}); delete it") from None


def differences(old: Any, new: Any, name: str = "") -> list[str]:
    """What differs between two specs, one line each: `lr: 0.002 in the folder, 0.001 asked for`."""
    if isinstance(old, dict) and isinstance(new, dict):
        lines = []
        for key in sorted({*old, *new}):
            lines += differences(old.get(key), new.get(key), f"{name}.{key}" if name else key)
        return lines
    return [] if old == new else [f"{name}: {old!r} in the folder, {new!r} asked for"]


def refuse_other(folder: Path, old: dict, new: dict | None) -> None:
    """StaleRun, naming each difference, if a folder's spec is not the new one.

    new: None where it cannot be known yet, since inputs are not finished.
    """
    if new is None:
        raise StaleRun(f"{paths.shown(folder)}: its inputs are not finished; run the study")
    if lines := differences(old, json.loads(json.dumps(new))):
        raise StaleRun(
            f"{paths.shown(folder)} was made with other parameters or inputs ({'; '.join(lines)}). "
            "Give the study another name (parameter `study`) or delete that folder."
        )


def finished(folder: Path, spec: dict | None) -> bool:
    """True if `folder` already holds the outcome of `spec`; False if it holds nothing finished.

    Raises StaleRun, naming each difference, if it holds the outcome of another spec.
    """
    manifest = read_manifest(folder)
    if manifest is not None:
        refuse_other(folder, manifest["spec"], spec)
    return manifest is not None


@contextmanager
def recording(folder: Path, spec: dict, first: bool = True) -> Iterator[dict]:
    """Do the work of `folder` in the `with` block; if that ends well, its manifest is written.

    Work that was stopped may go on in its folder: StaleRun where that was begun with another spec.
    RuntimeError where another process is at work there.

    first: False in all but one of several processes that work together: only one locks and writes.
    Yields a dict for facts that belong to the manifest but do not identify the work (counts, say).
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    begun, facts = folder / BEGUN, {}
    try:
        with FileLock(folder / LOCK, timeout=0) if first else nullcontext():
            if begun.exists():
                refuse_other(folder, _read_json(begun), spec)
            elif first:
                write_json(begun, spec)
            start = time.perf_counter()
            yield facts
            if first:
                own = (MANIFEST, BEGUN, LOCK)
                files = [f for f in sorted(folder.iterdir()) if f.is_file() and f.name not in own]
                manifest = {
                    "spec": spec,
                    "facts": facts,
                    "outputs": {file.name: sha256(file) for file in files},
                    "seconds": round(time.perf_counter() - start, 2),
                    "finished": datetime.now(UTC).isoformat(timespec="seconds"),
                }
                write_json(folder / MANIFEST, manifest | environment())
                begun.unlink(missing_ok=True)
    except Timeout:
        raise RuntimeError(f"another process is writing {paths.shown(folder)}; wait") from None


def content(folder: Path) -> str:
    """What identifies the content of a finished folder; FileNotFoundError if it is not finished."""
    manifest = read_manifest(folder)
    if manifest is None:
        raise FileNotFoundError(f"{paths.shown(folder)} is not finished: run the notebook first")
    return manifest["facts"].get("content") or digest(manifest["outputs"])


def end_with_parent(parent: int | None = None) -> None:
    """Have this worker process end when the process that started it is killed.

    Else it would go on for hours, and hold its folder's lock.
    parent: id of that process, where others stand between.
    """
    above = os.getppid()

    def watch() -> None:
        with contextlib.suppress(ProcessLookupError):
            while os.getppid() == above:
                os.kill(parent or above, 0)  # only asks whether it is there
                time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def environment() -> dict[str, Any]:
    """Versions, git revision and device: what a rerun needs, and no name of this machine."""
    packages = {package: metadata.version(package) for package in PACKAGES}
    known = {"python": platform.python_version(), **packages}
    return {"versions": known, "git": git_revision(), "device": device()}


def versions() -> dict[str, str]:
    """The same in one level, to show at the end of a notebook."""
    known = environment()
    return known.pop("versions") | known


def git_revision() -> str:
    """Short revision of the checkout, with `+` where the package differs; `unknown` without git."""
    git = ["git", "-C", str(paths.ROOT)]
    quiet = {"text": True, "stderr": subprocess.DEVNULL}
    try:
        revision = subprocess.check_output([*git, "rev-parse", "--short=12", "HEAD"], **quiet)
        changed = subprocess.call([*git, "diff", "--quiet", "HEAD", "--", "tinyllm"])
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return revision.strip() + ("+" if changed else "")


def device() -> str:
    """The device in words: `cpu (2 cores)` or the GPUs by name."""
    torch = sys.modules.get("torch")  # who did not import it computes on the CPU
    if torch is not None and torch.cuda.is_available():
        return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name(0)}"
    return f"cpu ({os.cpu_count()} cores)"
