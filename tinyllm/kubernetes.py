"""A workflow's job as a Kubernetes Job: what profiles/kubernetes calls; kubectl does the talking.

    python -m tinyllm.kubernetes submit --gpu 1 --mem 8000 --cpu 2 --minutes 60 SCRIPT
    python -m tinyllm.kubernetes status NAME          prints running, success or failed
    tinyllm-kubernetes-cancel NAME...                 (Snakemake wants one word here)

`submit` prints the new Job's name. A pod gets the variables that move the study's folders and
caches (PASSED); keys and tokens are not among them: name a secret in job.yaml.

Snakemake's own executor for Kubernetes takes it that pods share no file system, and would carry
every file through an object store; a study's run folders are meant to be shared, so here they lie
on a volume that all pods mount.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from tinyllm import paths

PASSED = re.compile(r"TINYLLM_[A-Z_]+|HF_HOME|HF_HUB_CACHE|HF_HUB_OFFLINE")
TEMPLATE = paths.ROOT / "profiles" / "kubernetes" / "job.yaml"


def manifest(script: Path, *, gpu: int, mem: int, cpu: int, minutes: int) -> dict[str, Any]:
    """The Job that runs a script in the current folder, with its limits (mem in MB)."""
    job = yaml.safe_load(TEMPLATE.read_text(encoding="utf-8"))
    pod = job["spec"]["template"]["spec"]
    pod["activeDeadlineSeconds"] = 60 * minutes  # the pod's: a Job's would count the queue too
    container = pod["containers"][0]
    passed = [{"name": n, "value": v} for n, v in sorted(os.environ.items()) if PASSED.fullmatch(n)]
    container["env"] = [*container.get("env", []), *passed]
    container |= {"command": ["sh", str(script.resolve())], "workingDir": os.getcwd()}
    limits = {"cpu": str(cpu), "memory": f"{mem}M"} | ({"nvidia.com/gpu": str(gpu)} if gpu else {})
    container["resources"] = {"limits": limits, "requests": limits}
    return job


def kubectl(*arguments: str, given: str | None = None) -> str:
    """What kubectl prints; RuntimeError, with what it says, where it fails."""
    namespace = yaml.safe_load(TEMPLATE.read_text(encoding="utf-8"))["metadata"]["namespace"]
    command = ["kubectl", "--namespace", namespace, *arguments]
    done = subprocess.run(command, input=given, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout.strip()


def status(name: str) -> str:
    """How a Job is: running, success or failed; one that is gone has failed.

    One that cannot be asked for just now is taken to run on.
    """
    try:
        said = kubectl("get", name, "--output", "json", "--ignore-not-found")
    except RuntimeError as problem:
        print(problem, file=sys.stderr)
        return "running"
    if not said:
        return "failed"
    counts = json.loads(said).get("status", {})
    conditions = {each["type"] for each in counts.get("conditions", ()) if each["status"] == "True"}
    if counts.get("succeeded"):
        return "success"
    return "failed" if counts.get("failed") or "Failed" in conditions else "running"


def main(arguments: list[str]) -> None:
    """See the module."""
    parser = argparse.ArgumentParser(prog="python -m tinyllm.kubernetes")
    commands = parser.add_subparsers(dest="command", required=True)
    submit = commands.add_parser("submit")
    for name in ("gpu", "mem", "cpu", "minutes"):
        submit.add_argument(f"--{name}", type=int, required=True)
    submit.add_argument("script", type=Path)
    commands.add_parser("status").add_argument("name")
    given = vars(parser.parse_args(arguments))
    command = given.pop("command")
    if command == "submit":
        job = manifest(**given)
        print(kubectl("create", "--filename", "-", "--output", "name", given=json.dumps(job)))
    else:
        print(status(given["name"]))


def cancel() -> None:
    """Delete the Jobs that the command line names."""
    kubectl("delete", *sys.argv[1:], "--ignore-not-found", "--wait=false")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except RuntimeError as failed:
        sys.exit(str(failed))
