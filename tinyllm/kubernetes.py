"""A workflow's job as a Kubernetes Job: what profiles/kubernetes calls; kubectl does the talking.

    python -m tinyllm.kubernetes submit --gpu 1 --mem 8000 --cpu 2 --minutes 60 SCRIPT
    python -m tinyllm.kubernetes status NAME          prints running, success or failed
    python -m tinyllm.kubernetes cancel NAME...

`submit` prints the new Job's name. Snakemake's own executor for Kubernetes takes it that pods share
no file system, and would carry every file through an object store; a study's run folders are meant
to be shared, so here they lie on a volume that all pods mount.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from tinyllm import paths

TEMPLATE = paths.ROOT / "profiles" / "kubernetes" / "job.yaml"


def manifest(script: Path, *, gpu: int, mem: int, cpu: int, minutes: int) -> dict[str, Any]:
    """The Job that runs a script in the current folder, with its limits (mem in MB)."""
    job = yaml.safe_load(TEMPLATE.read_text(encoding="utf-8"))
    job["spec"]["activeDeadlineSeconds"] = 60 * minutes
    container = job["spec"]["template"]["spec"]["containers"][0]
    container |= {"command": ["sh", str(script.resolve())], "workingDir": os.getcwd()}
    limits = {"cpu": str(cpu), "memory": f"{mem}M"} | ({"nvidia.com/gpu": str(gpu)} if gpu else {})
    container["resources"] = {"limits": limits, "requests": limits}
    return job


def kubectl(*arguments: str, given: str | None = None) -> str:
    """What kubectl prints; its error ends the process."""
    namespace = yaml.safe_load(TEMPLATE.read_text(encoding="utf-8"))["metadata"]["namespace"]
    command = ["kubectl", "--namespace", namespace, *arguments]
    done = subprocess.run(command, input=given, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout.strip()


def status(name: str) -> str:
    """How a Job is: running, success or failed; one that is gone has failed."""
    said = kubectl("get", name, "--output", "json", "--ignore-not-found")
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
    commands.add_parser("cancel").add_argument("name", nargs="+")
    given = vars(parser.parse_args(arguments))
    command = given.pop("command")
    if command == "submit":
        job = manifest(**given)
        print(kubectl("create", "--filename", "-", "--output", "name", given=json.dumps(job)))
    elif command == "status":
        print(status(given["name"]))
    else:
        kubectl("delete", *given["name"], "--ignore-not-found", "--wait=false")


if __name__ == "__main__":
    main(sys.argv[1:])
