"""From a teacher's URI to a teacher that is ready to write."""

from __future__ import annotations

from typing import Any

from tinyllm import arms, runs
from tinyllm.models import load as models
from tinyllm.params import Params
from tinyllm.teachers import micro
from tinyllm.teachers.base import Teacher
from tinyllm.teachers.hf import HFTeacher
from tinyllm.teachers.openai import ServerTeacher


def load_teacher(params: Params, uri: str) -> Teacher | None:
    """The teacher that a URI names, ready to write; None for recorded ones."""
    kind, name = arms.teacher(uri)
    sizes: dict[str, Any] = {"max_new_tokens": params.max_new_tokens, "batch": params.teacher_batch}
    if kind == "release":
        return None
    sizes |= params.spec("max_prompt", "temperature")
    if kind == "openai":
        return ServerTeacher(name, server=params.servers.get(uri), **sizes)
    sizes["dtype"] = models.precision(params.precision)
    if kind == "hf":
        revision = next(iter(models.content(name).values()), "")
        return HFTeacher(name, revision=revision, **sizes)
    folder, _ = micro.work(params, name)
    return HFTeacher(str(folder / "model"), revision=runs.content(folder), **sizes)
