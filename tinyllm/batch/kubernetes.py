"""Run a workflow's jobs as Kubernetes Jobs, with kubectl; called by profiles/kubernetes.

Snakemake's own executor for Kubernetes assumes that pods share no files, and copies each file
through an object store; here, run folders are on a volume that all pods mount.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from tinyllm import paths

LIMITS = ("gpu", "mem", "cpu", "minutes")  # mem in MB
# Variables passed to pods (folders, caches, sizes). For keys, use a secret in job.yaml.
PASSED = re.compile(r"TINYLLM_[A-Z_]+|HF_HOME|HF_HUB_CACHE|HF_HUB_OFFLINE")
TEMPLATE = paths.ROOT / "profiles" / "kubernetes" / "job.yaml"


def manifest(script: Path, *, gpu: int, mem: int, cpu: int, minutes: int) -> dict[str, Any]:
    """The Job that runs a script in the current folder, with its limits (mem in MB)."""
    job = yaml.safe_load(TEMPLATE.read_text(encoding="utf-8"))
    pod = job["spec"]["template"]["spec"]
    pod["activeDeadlineSeconds"] = 60 * minutes  # of the pod: a Job's would include queueing
    container = pod["containers"][0]
    passed = [{"name": n, "value": v} for n, v in sorted(os.environ.items()) if PASSED.fullmatch(n)]
    container["env"] = [*container.get("env", []), *passed]
    container |= {"command": ["sh", str(script.resolve())], "workingDir": os.getcwd()}
    limits = {"cpu": str(cpu), "memory": f"{mem}M"} | ({"nvidia.com/gpu": str(gpu)} if gpu else {})
    container["resources"] = {"limits": limits, "requests": limits}
    return job


def kubectl(*arguments: str, stdin: str | None = None) -> str:
    """Run kubectl and return its output; raises RuntimeError, with its message, if it fails."""
    namespace = yaml.safe_load(TEMPLATE.read_text(encoding="utf-8"))["metadata"]["namespace"]
    command = ["kubectl", "--namespace", namespace, *arguments]
    done = subprocess.run(command, input=stdin, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout.strip()


def submit(script: Path, **limits: int) -> str:
    """Create the Job; returns its name."""
    job = json.dumps(manifest(script, **limits))
    return kubectl("create", "--filename", "-", "--output", "name", stdin=job)


def status(name: str) -> str:
    """Status of a Job: running, success or failed.

    A deleted Job counts as failed. If kubectl fails, the Job counts as running.
    """
    try:
        text = kubectl("get", name, "--output", "json", "--ignore-not-found")
    except RuntimeError as problem:
        print(problem, file=sys.stderr)
        return "running"
    state = json.loads(text).get("status", {}) if text else {"failed": 1}
    conditions = {c["type"] for c in state.get("conditions", ()) if c["status"] == "True"}
    if state.get("succeeded"):
        return "success"
    return "failed" if state.get("failed") or "Failed" in conditions else "running"


def cancel(names: Sequence[str]) -> None:
    """Delete Jobs."""
    kubectl("delete", *names, "--ignore-not-found", "--wait=false")
