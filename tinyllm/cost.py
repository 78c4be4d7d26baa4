"""What a student takes: parameters and memory (operations are counted in `tinyllm.sizes`)."""

from __future__ import annotations

import contextlib
import resource
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
GB = 1e9


def sizes(model: nn.Module) -> dict[str, int]:
    """Parameters of a model, all and trained; tied ones count once."""
    all_of_them = list(model.parameters())
    return {
        "parameters": sum(p.numel() for p in all_of_them),
        "trained_parameters": sum(p.numel() for p in all_of_them if p.requires_grad),
    }


def start_peak() -> None:
    """From here on `peaks` counts (on Linux and on GPUs; elsewhere since the process began)."""
    if CLEAR.exists():
        with contextlib.suppress(OSError):  # not allowed in some containers
            CLEAR.write_text("5")  # resets VmHWM
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


def peaks() -> dict[str, Any]:
    """Highest memory in use since `start_peak`, in GB: the process, and its GPU where it has one.

    Several students that a process trains one after the other share what it does not give back.
    """
    found = {"peak_rss_gb": round(_peak_rss() / GB, 3)}
    if torch.cuda.is_available():
        found["peak_gpu_gb"] = round(torch.cuda.max_memory_allocated() / GB, 3)
    return found


def _peak_rss() -> int:
    """Bytes."""
    if STATUS.exists():
        for line in STATUS.read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
