"""The parameters of a study: a pydantic model, filled from a flat YAML file or a notebook cell.

A field's description is also its comment in the `parameters` cells; `STAGES` lists each cell's.
"""

import difflib
import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

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

from tinyllm import arms
from tinyllm.arms import Server

DATASETS = ("obqa", "arc", "piqa", "riddle", "pubmedqa", "bioasq")
Split = Literal["train", "valid", "test"]
SPLITS = get_args(Split)
Cleaning = Literal["repair", "drop-empty", "drop-cut", "drop-wrong", "drop-repeated"]
Half = Literal["encoder", "decoder"]
Part = Literal["answer", "thinking", "both"]
Sample = Literal["each-epoch", "agreeing"]
Precision = Literal["auto", "fp32", "tf32", "bf16"]
Source = Annotated[str, Field(pattern=r"^(micro|release|hub|file:.+)$")]
Examples = Annotated[str, Field(pattern=r"^(none|random:[1-9]\d*)$")]
Alpha = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]  # numpy's range
FolderName = Annotated[str, Field(pattern=r"^[A-Za-z0-9]([A-Za-z0-9._+-]{0,98}[A-Za-z0-9._+])?$")]
MICRO = Path(__file__).parent.parent / "params" / "micro.yaml"  # the notebooks' defaults

_DATA = "study dataset source data_seed"
_ASKED = "teachers examples teacher_forcing max_prompt max_new_tokens samples temperature "
_ASKED += "learn_from cleaning servers"
STAGES = {  # the parameters that each notebook reads
    "data": f"{_DATA} columns limit task_prefix max_input",
    "teachers": f"{_DATA} {_ASKED} teacher_batch max_refused arms precision workers",
    "students": f"{_DATA} {_ASKED} learn_sample student task_prefix arms alpha seeds lr final_lr "
    "batch_size accumulation epochs warmup max_input max_target evals patience precision "
    "checkpointing keep_weights workers nproc",
    "evaluation": "study dataset source teachers student arms seeds",
}


class ParameterError(ValueError):
    """An invalid parameter; the message gives its name, its value and what is allowed."""


class Params(BaseModel):
    """All parameters of a study on one dataset."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    study: FolderName = Field("micro", description="name of the study, and of its folder")
    dataset: FolderName = Field("micro", description="name of the dataset, and of its folder")
    source: Source = Field("micro", description="micro, release, hub or file:PATH")
    columns: dict[str, str] = Field({}, description="your file's column names: {question: ...}")
    limit: dict[Split, Count] = Field({}, description="maximum rows per split, sampled at random")
    data_seed: int = Field(0, ge=0, description="seed of world, splits, subsets and examples")
    teachers: list[str] = Field(
        ["micro:a", "micro:b"], description="release:llama2, hf:MODEL, openai:URL#MODEL, ..."
    )
    examples: Examples = Field("random:2", description="in-context examples: random:K or none")
    teacher_forcing: bool = Field(True, description="the teacher is given the gold answer")
    teacher_batch: int = Field(16, ge=1, description="prompts per batch, or parallel requests")
    max_prompt: int = Field(1024, ge=16, description="maximum prompt tokens; context is cut")
    max_new_tokens: int = Field(64, ge=1, description="maximum tokens that a model generates")
    samples: int = Field(1, ge=1, description="rationales per question and teacher")
    temperature: float = Field(0.0, ge=0, description="teachers' sampling temperature; 0: greedy")
    max_refused: float = Field(0.05, ge=0, le=1, description="maximum share of refused prompts")
    cleaning: list[Cleaning] = Field([], description="of rationales: repair, drop-cut, ...")
    learn_from: Part = Field(
        "answer", description="part of a reasoning teacher's text: answer, thinking or both"
    )
    learn_sample: Sample = Field("each-epoch", description="one per epoch, or one that names gold")
    servers: dict[str, Server] = Field({}, description="settings per URI: limit, system, ...")
    student: str = Field("micro-t5", min_length=1, description="alias, folder or hub id")
    task_prefix: Half = Field("encoder", description="reader of the task prefix; paper: encoder")
    arms: list[str] = Field(
        ["all"], validate_default=True, min_length=1, description="see tinyllm/arms.py"
    )
    alpha: list[Alpha] = Field([1.0], min_length=1, description="weight of each teacher's loss")
    seeds: list[Seed] = Field([0, 1, 2], min_length=1, description="one student per arm and seed")
    lr: float = Field(2e-4, gt=0, description="peak learning rate (AdamW, linear decay)")
    final_lr: float = Field(0.0, ge=0, le=1, description="final learning rate, as a share of lr")
    batch_size: int = Field(32, ge=1, description="questions per forward pass and process")
    accumulation: int = Field(1, ge=1, description="forward passes per optimiser step")
    epochs: float = Field(3.0, gt=0, description="passes over the training questions")
    warmup: float = Field(0.1, ge=0, lt=1, description="share of steps with linear warmup")
    max_input: int = Field(256, ge=8, description="maximum input tokens; context is cut")
    max_target: int = Field(128, ge=2, description="maximum tokens of a target")
    evals: int = Field(4, ge=1, description="number of evaluations on valid, evenly spaced")
    patience: int = Field(0, ge=0, description="evaluations without gain before stopping; 0: off")
    precision: Precision = Field("auto", description="auto: bf16 where a GPU has it, else fp32")
    checkpointing: bool = Field(False, description="recompute activations to save memory")
    keep_weights: bool = Field(True, description="keep trained weights, not only predictions")
    curve: bool = Field(False, description="point of a curve: STUDY-alpha-X or STUDY-data-X")
    workers: int = Field(2, ge=1, description="students trained in parallel")
    nproc: int = Field(1, ge=1, description="processes (devices) per student, with torchrun")

    @field_validator("alpha", mode="before")
    @classmethod
    def _one_alpha(cls, value: Any) -> Any:
        return [value] if isinstance(value, int | float) else value

    @field_validator("teachers", "arms", "seeds")
    @classmethod
    def _different(cls, value: list, info: ValidationInfo) -> list:
        if info.field_name == "teachers":
            for uri in value:
                arms.check_teacher(uri)
        elif value == ["all"]:
            return arms.everything(info.data.get("teachers", []))
        if len(set(value)) != len(value):
            raise ValueError("a value appears twice; remove one")
        return value

    @model_validator(mode="after")
    def _combinations(self) -> Self:
        """Reject values that are valid alone but not in combination."""
        source, dataset = self.source, self.dataset
        recorded = [uri for uri in self.teachers if uri.startswith("release:")]
        foreign = [uri for uri in self.teachers if uri.startswith("micro:") and source != "micro"]
        foreign += recorded if source != "release" else []
        strangers = [u for u in self.servers if u not in self.teachers or u[:7] != "openai:"]
        drawing = [uri for uri, server in self.servers.items() if server.temperature != 0]
        drawing += self.teachers if self.temperature else []
        fixed = [uri for uri, server in self.servers.items() if "seed" in server.extra]
        same = [uri for uri in self.teachers if uri in recorded + fixed or uri not in drawing]
        problems = {
            f"servers: {strangers}: allowed are the URIs of openai: teachers": strangers != [],
            f"alpha: {self.alpha!r}: allowed are one number, or one for each of the "
            f"{len(self.teachers)} teachers": len(self.alpha) not in (1, len(self.teachers)),
            f"teachers: {foreign} only know the questions of their own source, but source is "
            f"{source!r}; use hf: or openai: teachers": foreign != [],
            f"samples: {self.samples}: {same} would repeat one text; set temperature above 0, and "
            "leave out release: teachers and seeds in `extra`": self.samples > 1 and same != [],
            "teachers: the release has no LLaMA-2 rationales for piqa; use release:flan-t5 "
            "alone, not release:llama2": dataset == "piqa" and "release:llama2" in self.teachers,
            f"dataset: {dataset!r}, but source is {source!r}: {', '.join(DATASETS)} need source: "
            "release (or hub, or file:PATH), and 'micro' needs source: micro": (
                (source == "micro" and dataset in DATASETS)
                or (source in ("release", "hub") and dataset not in DATASETS)
                or (source != "micro" and dataset == "micro")
            ),
        }
        for problem, applies in problems.items():
            if applies:
                raise ParameterError(problem)
        try:
            arms.check(self.arms, self.teachers)
        except ValueError as error:
            raise ParameterError(f"arms: {error}") from None
        return self

    @classmethod
    def checked(cls, **values: Any) -> Self:
        """`Params(**values)`, but errors have one line per value instead of pydantic's report."""
        try:
            return cls(**values)
        except ValidationError as error:
            lines = "\n".join(map(_line, error.errors()))
            lines = re.sub(r"//[^/\s]*@", "//***@", lines)  # no passwords
            raise ParameterError(re.sub(r"(//[^\s?]*\?)[^\s#'\"]*", r"\1***", lines)) from None

    @classmethod
    def from_notebook(cls, namespace: dict[str, Any]) -> Self:
        """Read the parameters that a notebook's `parameters` cells defined in its `globals()`.

        Every plain value is taken as a parameter, so a misspelt name from papermill is an error.
        """
        plain = (bool, int, float, str, list, dict, type(None))
        values = {  # not _, In, Out or an imported CONSTANT
            n: v for n, v in namespace.items() if type(v) in plain and n[0].islower()
        }
        # When this cell is run again, values of later cells are ignored, but not a misspelt name.
        own = {*namespace.setdefault("_parameters", set(values)), *cls.model_fields}
        noted = namespace.get("__annotations__", ())  # the parameters cell annotates its names
        own |= {name for name in noted if difflib.get_close_matches(name, cls.model_fields, n=1)}
        known = {name: value for name, value in values.items() if name in own}
        return cls.checked(**{"teachers": [], "arms": ["inference"]} | known)

    @classmethod
    def from_yaml(cls, file: str | Path, *folders: Path, **changes: Any) -> Self:
        """Read the parameters of a YAML file as papermill does, and apply `changes`.

        `source: file:PATH` is relative to `folders` (if changed), the file's or the current folder.
        """
        values = read_yaml(file := Path(file)) | changes
        own = any(values.get(name, "micro") != "micro" for name in ("source", "dataset"))
        own &= values.keys() <= cls.model_fields.keys()  # a misspelt name is another error
        if missing := [name for name in ("study", "dataset") if own and name not in values]:
            raise ParameterError(f"{file}: {missing[0]}: is missing; add {missing[0]}: NAME")
        kind, _, path = str(values.get("source")).partition(":")
        if kind == "file" and path:
            near = (*folders, file.parent) if "source" in changes else (file.parent,)
            places = [f.resolve() / Path(path).expanduser() for f in (*near, Path())]
            values["source"] = f"file:{next(filter(Path.exists, places), places[-1])}"
        try:  # set all
            return cls.checked(**{n: f.default for n, f in cls.model_fields.items()} | values)
        except ParameterError as error:
            raise ParameterError(f"{file}: {error}") from None

    def weights(self) -> dict[str, float]:
        """Alpha of each teacher, by URI."""
        alpha = self.alpha * (len(self.teachers) if len(self.alpha) == 1 else 1)
        return dict(zip(self.teachers, alpha, strict=True))

    def variants(self) -> list[Self]:
        """The distinct parameters for prompting that the arms need, the study's own first."""
        distinct = [self]
        for name in self.arms:
            changed = self.model_copy(update=arms.resolve(name, self.teachers).asked)
            distinct += [changed] if changed not in distinct else []
        return distinct

    def spec(self, *names: str) -> dict[str, Any]:
        """The named parameters as plain values, for a manifest."""
        plain = self.model_dump(mode="json", include=set(names))
        return {name: plain[name] for name in names}


class _Loader(yaml.SafeLoader):
    """Rejects a key that appears twice, of which YAML would use the last value."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        names = [key.value for key, _ in node.value]
        if twice := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"{twice[0]}: appears twice; remove one")
        return super().construct_mapping(node, deep)


def read_yaml(file: Path) -> dict:
    """Read a YAML file; raises ParameterError if it is unreadable or has a duplicate key."""
    try:
        values = yaml.load(file.read_text(encoding="utf-8"), _Loader)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ParameterError(f"parameter file {file.absolute()}: {error}") from None
    if not isinstance(values, dict | None):
        raise ParameterError(f"{file}: expected lines `parameter: value`")
    return {str(name): value for name, value in (values or {}).items()}


def _line(item: dict[str, Any]) -> str:
    """Format a pydantic error as one line: parameter, value and what is allowed."""
    name, kind = ".".join(map(str, item["loc"])), item["type"]
    value = "***" if name.startswith("servers") else item["input"]  # they may contain a key
    if kind == "extra_forbidden":
        fields = Server.model_fields if name.startswith("servers.") else Params.model_fields
        near = difflib.get_close_matches(str(item["loc"][-1]), fields, n=1)
        hint = f"did you mean `{near[0]}`?" if near else f"allowed are {', '.join(fields)}"
        return f"{name}: unknown parameter; {hint}"
    if kind == "value_error":
        error = item["ctx"]["error"]
        return str(error) if isinstance(error, ParameterError) else f"{name}: {value!r}: {error}"
    allowed = item["msg"].removeprefix("Input should be ")
    if kind == "string_pattern_mismatch":
        allowed = f"{Params.model_fields[name].description} ({item['ctx']['pattern']})"
    line = f"{name}: {value!r} ({type(value).__name__}): allowed is {allowed}"
    if isinstance(value, str) and re.fullmatch(r"[\d.]+[eE][+-]?\d+", value):
        line += f"; YAML reads it as text, write {float(value):.1e} without quotes"
    return line
