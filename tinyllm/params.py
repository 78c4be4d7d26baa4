"""The parameters of a study: one model, one flat YAML file, one cell that all notebooks share.

A field's description is its documentation: it stands in the notebooks' `parameters` cell as a
comment.

    python -m tinyllm.params notebooks/*.ipynb   rewrite that cell after a change here (a test holds
                                                 them together), drop run times and paths
    python -m tinyllm.params params/*.yaml       check parameter files
"""

from __future__ import annotations

import json
import re
import sys
import types
from pathlib import Path
from typing import Any, Literal, get_args
from urllib.parse import urlsplit

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

DATASETS = ("obqa", "arc", "piqa", "riddle", "pubmedqa", "bioasq")
CLEANING = ("repair", "drop-empty", "drop-cut", "drop-wrong", "drop-repeated", "drop-foreign")
SPLITS = ("train", "valid", "test")
KERNEL = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
LINE = 100  # letters of a line of code; the formatter would break a longer one
# Kinds of teachers, and the names there are; None where any may be.
TEACHERS = {"micro": ("a", "b"), "release": ("flan-t5", "llama2"), "hf": None, "openai": None}


class ParameterError(ValueError):
    """A parameter that cannot be used; the message names it, its value and what is allowed."""


class Params(BaseModel):
    """All parameters of a study on one dataset. The defaults are the micro study."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    study: str = Field("micro", description="name of the study, a folder under runs/")
    dataset: str = Field("micro", description="name of the dataset, a folder under the study")
    source: str = Field("micro", description="micro, release, hub or file:PATH")
    limit: dict[str, int] = Field(
        {}, description="at most so many rows a split, drawn by data_seed"
    )
    data_seed: int = Field(0, ge=0, description="the world, subsamples and in-context examples")
    teachers: list[str] = Field(
        ["micro:a", "micro:b"],
        description="micro:a, release:llama2, hf:MODEL, openai:URL#MODEL",
    )
    examples: str = Field(
        "random:2", description="in-context examples: random:K, similar:K or none"
    )
    teacher_forcing: bool = Field(True, description="the teacher is given the gold answer")
    teacher_batch: int = Field(64, ge=1, description="prompts a batch, or requests at a time")
    max_prompt: int = Field(480, ge=16, description="tokens of a teacher's prompt; context is cut")
    max_new_tokens: int = Field(24, ge=1, description="tokens generated at most, by any model")
    cleaning: list[str] = Field(
        [], description="of rationales: repair, drop-wrong, … (tinyllm.rationales)"
    )
    student: str = Field("micro-t5", description="alias, folder or hub id")
    task_prefix: Literal["encoder", "decoder"] = Field(
        "encoder", description="where a task's prefix goes; encoder is the paper's way"
    )
    arms: list[str] = Field(
        ["all"], validate_default=True, description="what is compared, see tinyllm.arms"
    )
    alpha: list[float] = Field([1.0], description="weight of a teacher's loss; one, or one each")
    seeds: list[int] = Field([0, 1, 2, 3, 4, 5], description="one student an arm and seed")
    lr: float = Field(2e-3, gt=0, description="peak learning rate (AdamW, linear decay)")
    batch_size: int = Field(32, ge=1, description="questions a forward pass and process")
    accumulation: int = Field(1, ge=1, description="forward passes an optimiser step")
    epochs: float = Field(6.4, gt=0, description="passes over the training questions")
    warmup: float = Field(0.1, ge=0, lt=1, description="share of the steps with a rising rate")
    max_input: int = Field(128, ge=8, description="tokens of a student's input; context is cut")
    max_target: int = Field(24, ge=2, description="tokens of a target")
    evals: int = Field(4, ge=1, description="times that valid is scored, evenly spaced")
    patience: int = Field(0, ge=0, description="stop after so many scorings without gain; 0 is off")
    precision: Literal["auto", "fp32", "tf32", "bf16"] = Field(
        "auto", description="auto is bf16 on GPUs that have it; tf32 is fp32 where there is none"
    )
    checkpointing: bool = Field(False, description="recompute activations to save memory")
    workers: int = Field(2, ge=1, description="students trained side by side")
    nproc: int = Field(1, ge=1, description="processes (devices) a student, by torchrun")

    @field_validator("study", "dataset")
    @classmethod
    def _folder_name(cls, value: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._+-]*", value):
            raise ValueError("allowed are letters, digits and . _ + - (it names a folder)")
        return value

    @field_validator("source")
    @classmethod
    def _source(cls, value: str) -> str:
        if value not in ("micro", "release", "hub") and not re.fullmatch(r"file:.+", value):
            raise ValueError("allowed are micro, release, hub or file:PATH")
        return value

    @field_validator("limit")
    @classmethod
    def _limit(cls, value: dict[str, int]) -> dict[str, int]:
        if any(split not in SPLITS or rows < 1 for split, rows in value.items()):
            raise ValueError("allowed are train, valid and test, each with a number of at least 1")
        return value

    @field_validator("teachers")
    @classmethod
    def _teachers(cls, value: list[str]) -> list[str]:
        for uri in value:
            kind, _, name = uri.partition(":")
            if not name or kind not in TEACHERS or name not in (TEACHERS[kind] or [name]):
                raise ValueError(
                    f"{uri!r} is no teacher; allowed are micro:a, micro:b, release:flan-t5, "
                    "release:llama2, hf:MODEL and openai:URL#MODEL"
                )
            if kind == "openai":
                _server(uri)
        if len(set(value)) != len(value):
            raise ValueError("a teacher stands twice")
        return value

    @field_validator("examples")
    @classmethod
    def _examples(cls, value: str) -> str:
        if value != "none" and not re.fullmatch(r"(random|similar):[1-9]\d*", value):
            raise ValueError("allowed are random:K, similar:K (K at least 1) or none")
        return value

    @field_validator("cleaning")
    @classmethod
    def _cleaning(cls, value: list[str]) -> list[str]:
        if unknown := [step for step in value if step not in CLEANING]:
            raise ValueError(f"{unknown[0]!r} is unknown; allowed are {', '.join(CLEANING)}")
        return value

    @field_validator("alpha", mode="before")
    @classmethod
    def _alpha_list(cls, value: Any) -> Any:
        one = isinstance(value, int | float) and not isinstance(value, bool)
        return [float(value)] if one else value

    @field_validator("alpha")
    @classmethod
    def _alpha(cls, value: list[float]) -> list[float]:
        if not value or min(value) < 0:
            raise ValueError("allowed is a number of at least 0, or a list of them, one a teacher")
        return value

    @field_validator("seeds")
    @classmethod
    def _seeds(cls, value: list[int]) -> list[int]:
        if not value or min(value) < 0 or len(set(value)) != len(value):
            raise ValueError("allowed is a list of different whole numbers from 0 on")
        return value

    @field_validator("arms")
    @classmethod
    def _arms_once(cls, value: list[str], info: ValidationInfo) -> list[str]:
        from tinyllm import arms

        if value == ["all"]:
            value = arms.everything(info.data.get("teachers", []))
        if not value or len(set(value)) != len(value):
            raise ValueError("allowed is a list of different arms, at least one")
        return value

    @model_validator(mode="after")
    def _combinations(self) -> Params:
        """What each parameter allows by itself, but not together."""
        from tinyllm import arms

        if len(self.alpha) not in (1, len(self.teachers)):
            raise ParameterError(
                f"alpha: {self.alpha!r}: one number, or one for each of the "
                f"{len(self.teachers)} teachers"
            )
        micro = [uri for uri in self.teachers if uri.startswith("micro:")]
        if micro and self.source != "micro":
            raise ParameterError(
                f"teachers: {micro[0]!r} knows only the micro world, but source is "
                f"{self.source!r}; use release:… or hf:… teachers"
            )
        recorded = [uri for uri in self.teachers if uri.startswith("release:")]
        if recorded and self.source != "release":
            raise ParameterError(
                f"teachers: {recorded[0]!r} has recorded rationales for source 'release' only, "
                f"but source is {self.source!r}"
            )
        if self.dataset == "piqa" and "release:llama2" in recorded:
            raise ParameterError(
                "teachers: 'release:llama2': the release holds no rationale of LLaMA 2 for piqa; "
                "use release:flan-t5 alone"
            )
        if self.source in ("release", "hub") and self.dataset not in DATASETS:
            raise ParameterError(
                f"dataset: {self.dataset!r}: source {self.source!r} has {', '.join(DATASETS)}"
            )
        if self.dataset == "micro" and self.source != "micro":
            raise ParameterError(
                f"dataset: 'micro' is the micro world, but source is {self.source!r}; rename it"
            )
        if not self.teachers and any(name.startswith("tinyllm") for name in self.arms):
            raise ParameterError("teachers: []: arm tinyllm needs at least one teacher")
        for name in self.arms:
            try:
                arms.resolve(name, self.teachers)
            except ValueError as error:
                raise ParameterError(f"arms: {error}") from None
        return self

    @classmethod
    def checked(cls, **values: Any) -> Params:
        """`Params(**values)`, with one clear line instead of pydantic's report on bad values."""
        try:
            return cls(**values)
        except ValidationError as error:
            lines = [_line(item) for item in error.errors()]
            raise ParameterError("\n".join(lines)) from None

    @classmethod
    def from_notebook(cls, namespace: dict[str, Any]) -> Params:
        """The parameters that a notebook's `parameters` cells left in its namespace (`globals()`).

        Every plain value found there counts, so that a name that papermill injected but no
        parameter bears is an error too, and not, as papermill has it, a warning.
        """
        plain = (bool, int, float, str, list, dict, types.NoneType)
        found = {
            name: value
            for name, value in namespace.items()
            if type(value) in plain and not name.startswith("_") and name not in ("In", "Out")
        }
        # Cells below leave plain values too; when this one is run again, those are not parameters.
        first = namespace.setdefault("_parameters", set(found))
        return cls.checked(
            **{n: v for n, v in found.items() if n in first or n in cls.model_fields}
        )

    @classmethod
    def from_yaml(cls, file: str | Path, **changes: Any) -> Params:
        """The parameters of a YAML file as papermill reads it, with `changes` on top."""
        file = Path(file)
        if not file.exists():
            raise ParameterError(f"no parameter file {file}")
        values = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
        if not isinstance(values, dict):
            raise ParameterError(f"{file}: expected lines `parameter: value`")
        try:
            return cls.checked(**{**values, **changes})
        except ParameterError as error:
            raise ParameterError(f"{file}: {error}") from None

    def weights(self) -> dict[str, float]:
        """Alpha of each teacher, by URI."""
        alpha = self.alpha * len(self.teachers) if len(self.alpha) == 1 else self.alpha
        return dict(zip(self.teachers, alpha, strict=True))

    def spec(self, *names: str) -> dict[str, Any]:
        """The named parameters as plain values, for a manifest."""
        return {name: json.loads(json.dumps(getattr(self, name))) for name in names}


def _server(uri: str) -> None:
    """ValueError where an openai: URI lacks a part, or holds what must not be written down."""
    url, _, model = uri.removeprefix("openai:").partition("#")
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or not model:
        raise ValueError(
            f"{uri!r}: expected openai:URL#MODEL, as in openai:http://127.0.0.1:8000/v1#my-model"
        )
    if parts.username or parts.password or parts.query:
        raise ValueError(
            f"openai:…#{model}: a URL with a name, password or query would stand in every "
            "manifest; put the key into the environment variable OPENAI_API_KEY"
        )


def _line(item: dict[str, Any]) -> str:
    """One pydantic error as one line: parameter, value, what is allowed."""
    name = ".".join(str(part) for part in item["loc"]) or "parameters"
    value, kind = item["input"], item["type"]
    if kind == "extra_forbidden":
        import difflib

        near = difflib.get_close_matches(name, Params.model_fields, n=1)
        hint = f"; did you mean `{near[0]}`?" if near else "; see tinyllm/params.py"
        return f"{name}: {value!r}: unknown parameter{hint}"
    if kind == "value_error":
        error = item["ctx"]["error"]
        if isinstance(error, ParameterError):
            return str(error)
        shown = re.sub(r"//[^/@\s]*@", "//***@", repr(value))  # a password in a URL
        return f"{name}: {shown}: {error}"
    text = item["msg"].removeprefix("Input should be ")
    allowed = f"{name}: {value!r} ({type(value).__name__}): allowed is {text}"
    field = Params.model_fields.get(str(item["loc"][0])) if item["loc"] else None
    if isinstance(value, str) and field is not None and field.annotation in (int, float):
        try:
            float(value)
            allowed += f"; YAML reads it as text, write {float(value):.1e} without quotes"
        except ValueError:
            pass
    return allowed


def cell() -> str:
    """Source of the `parameters` cell: a literal for every parameter, and a comment if it fits."""
    lines = []
    for name, field in Params.model_fields.items():
        default = json.dumps(field.get_default(call_default_factory=True), ensure_ascii=False)
        literal = {"true": "True", "false": "False", "null": "None"}.get(default, default)
        line = f"{name} = {literal}  # {field.description}"
        lines.append(line if len(line) <= LINE else f"{name} = {literal}")
    return "\n".join(lines)


def main(files: list[str]) -> None:
    """Rewrite the `parameters` cell of notebooks and drop run times and paths; check YAML files."""
    import nbformat

    for file in files:
        if file.endswith(".ipynb"):
            notebook = nbformat.read(file, as_version=4)
            for each in notebook.cells:
                tags = each.metadata.get("tags", [])
                each.metadata = {"tags": tags} if tags else {}
                if "parameters" in tags:
                    each.source = cell()
            notebook.metadata = {"kernelspec": KERNEL, "language_info": {"name": "python"}}
            nbformat.write(notebook, file)
        else:
            Params.from_yaml(file)
        print(f"{file}: well")


def allowed(name: str) -> tuple[str, ...]:
    """The values that a parameter of fixed choices allows."""
    return get_args(Params.model_fields[name].annotation)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except ParameterError as problem:
        sys.exit(str(problem))
