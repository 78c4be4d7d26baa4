"""Run folders: when a folder counts as finished, and when its work is reused.

A folder is finished when it contains `manifest.json`, which is written last. The manifest records
the `spec`: every parameter and input hash that the content depends on. Work with an equal spec is
reused; a different spec is an error that lists the differences.
"""

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
DATA = (".parquet", ".csv", ".jsonl", ".safetensors")  # unlike notes
PACKAGES = ("torch", "transformers", "datasets", "accelerate", "peft", "numpy", "papermill")


class StaleRun(Exception):
    """A run folder holds results of other parameters or inputs."""


def sha256(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(value: Any) -> str:
    """SHA-256 of a JSON value, hexadecimal."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically: a reader sees the old file or the new one, never a partial one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    text = json.dumps(value, indent=1, ensure_ascii=False)
    temporary.write_text(text + "\n", encoding="utf-8")
    temporary.replace(path)


def read_manifest(folder: Path) -> dict | None:
    """The folder's manifest, or None if the folder is absent or unfinished."""
    return read_json(folder / MANIFEST)


def read_json(file: Path) -> Any:
    """The content of a JSON file, None if there is no file."""
    try:
        return json.loads(file.read_text(encoding="utf-8")) if file.exists() else None
    except ValueError as error:  # for example after a power cut
        raise ValueError(f"{paths.shown(file)} is damaged ({error}); delete it") from None


def differences(old: Any, new: Any, name: str = "") -> list[str]:
    """Differences between two specs, one line each: `lr: 0.002 in the folder, 0.001 asked for`."""
    if isinstance(old, dict) and isinstance(new, dict):
        lines = []
        for key in sorted({*old, *new}):
            lines += differences(old.get(key), new.get(key), f"{name}.{key}" if name else key)
        return lines
    return [] if old == new else [f"{name}: {old!r} in the folder, {new!r} asked for"]


def refuse_other(folder: Path, old: dict, new: dict | None) -> None:
    """Raise StaleRun, listing the differences, if a folder's spec is not equal to the new one.

    new: None if it is not known yet because inputs are not finished.
    """
    if new is None:
        raise StaleRun(f"{paths.shown(folder)}: its inputs are not finished; run the study")
    unknown = {"revision": old.get("revision")}  # of a hub model, if the hub does not answer
    if lines := differences(old, unknown | json.loads(json.dumps(new))):
        raise StaleRun(
            f"{paths.shown(folder)} was made with other parameters or inputs ({'; '.join(lines)}). "
            "Give the study another name (parameter `study`) or delete that folder."
        )


def finished(folder: Path, spec: dict | None) -> bool:
    """True if `folder` already holds the results of `spec`; False if it is absent or unfinished, or
    if one of its DATA files is missing.

    Raises StaleRun, listing the differences, if it holds the results of another spec.
    """
    manifest = read_manifest(folder)
    if manifest is None:
        return False
    refuse_other(folder, manifest["spec"], spec)
    return all((folder / name).exists() for name in manifest["outputs"] if name.endswith(DATA))


def intact(folder: Path) -> bool:
    """True if a finished folder has every DATA file of its manifest, unchanged."""
    manifest = read_manifest(folder)
    return manifest is not None and all(
        (folder / name).exists() and sha256(folder / name) == known
        for name, known in manifest["outputs"].items()
        if name.endswith(DATA)
    )


@contextmanager
def recording(folder: Path, spec: dict, first: bool = True) -> Iterator[dict]:
    """Run the work of `folder` in a `with` block, and write its manifest if the block succeeds.

    Interrupted work can resume in the same folder. Raises StaleRun if it was started with another
    spec, RuntimeError if another process is writing the folder.

    first: True in one of several cooperating processes; only that process locks and writes.
    Yields a dict for facts that the manifest records but that do not identify the work (counts).
    """
    folder.mkdir(parents=True, exist_ok=True)
    begun, facts = folder / BEGUN, {}
    try:
        with FileLock(folder / LOCK, timeout=0) if first else nullcontext():
            if begun.exists():
                refuse_other(folder, read_json(begun), spec)
            elif first:
                write_json(begun, spec)
            start = time.perf_counter()
            yield facts
            if first:
                skip = (MANIFEST, BEGUN, LOCK)
                files = [f for f in sorted(folder.iterdir()) if f.is_file() and f.name not in skip]
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
    """Hash of a finished folder's content; raises FileNotFoundError if it is not finished."""
    manifest = read_manifest(folder)
    if manifest is None:
        raise FileNotFoundError(f"{paths.shown(folder)} is not finished: run the notebook first")
    return manifest["facts"].get("content") or digest(manifest["outputs"])


def end_with_parent(parent: int | None = None) -> None:
    """End this worker process when the process that started it is killed.

    Otherwise it would run on for hours and keep its folder locked.
    parent: id of the process that started it, if that is not the direct parent.
    """
    above = os.getppid()

    def watch() -> None:
        with contextlib.suppress(ProcessLookupError):
            while os.getppid() == above:
                os.kill(parent or above, 0)  # signal 0 only checks that the process exists
                time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def environment() -> dict[str, Any]:
    """Versions, git revision and device, without the name of this machine."""
    packages = {package: metadata.version(package) for package in PACKAGES}
    known = {"python": platform.python_version(), **packages}
    return {"versions": known, "git": git_revision(), "device": device()}


def versions() -> dict[str, str]:
    """`environment` as a flat dict, shown at the end of a notebook."""
    known = environment()
    return known.pop("versions") | known


def git_revision() -> str:
    """Short git revision, with `+` if the package has changes since; `unknown` without git."""
    git = ["git", "-C", str(paths.ROOT)]
    quiet = {"text": True, "stderr": subprocess.DEVNULL}
    try:
        revision = subprocess.check_output([*git, "rev-parse", "--short=12", "HEAD"], **quiet)
        changed = subprocess.call([*git, "diff", "--quiet", "HEAD", "--", "tinyllm"])
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return revision.strip() + ("+" if changed else "")


def device() -> str:
    """The device as text: `cpu (2 cores)`, or the number and name of the GPUs."""
    torch = sys.modules.get("torch")  # if torch is not imported, no GPU is used
    if torch is not None and torch.cuda.is_available():
        return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name(0)}"
    return f"cpu ({os.cpu_count()} cores)"
