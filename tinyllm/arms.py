"""The arms of a study: what is compared, and the teachers that an arm names.

    ARM = METHOD[:xN][+lora[:RANK]]

| METHOD | what the student learns |
|---|---|
| `inference` | nothing: it is scored without training (no `+lora`) |
| `finetune` | the answer only |
| `lora`, `lora:RANK` | short for `finetune+lora`, `finetune+lora:RANK` |
| `kd`, `kd:T` | the answer, and the teachers' mean distribution over the options at temperature T |
| `dss:TEACHER` | the answer and one teacher's rationales (Distilling Step-by-Step) |
| `tinyllm` | the answer and every teacher's rationales (the paper) |
| `tinyllm-TEACHER` | ablation: one teacher left out |
| `tinyllm:no-examples` | ablation: teachers prompted without in-context examples |
| `tinyllm:no-forcing` | ablation: teachers prompted without the gold answer |
| `tinyllm:repaired` | beyond the paper: invented questions and unfinished sentences removed |
| `tinyllm:routed-similar` | beyond the paper: one rationale per question, the most similar to it |
| `tinyllm:routed-quality` | beyond the paper: one rationale per question, the best by text rules |
| `tinyllm:routed-random` | control for these two: one rationale per question, at random |
| `tinyllm:alpha-auto` | beyond the paper: alpha adapts to the losses (`students/loss.py`) |
| `tinyllm:shuffled` | control: each teacher's rationales permuted among the questions |
| `tinyllm:scrambled` | control: words permuted among a teacher's rationales, position by position |
| `tinyllm:gibberish` | control: an additional teacher that writes random words |

`finetune:x3` trains for three times the epochs. LoRA adds a low-rank update to every linear layer
except the output layer (and trains the cross-attention of `minilm-ed` in full), for every method:
`tinyllm+lora`, `tinyllm+lora:16`. RANK defaults to 8 and T to 1. TEACHER is a teacher's URI or the
part after its kind: `dss:release:llama2` or `dss:llama2`, `dss:hf:google/flan-t5-xl` or
`dss:google/flan-t5-xl`.

`shuffled` and `scrambled` keep the words, lengths and cost of `tinyllm`. `arms: [all]` selects the
paper's arms and its controls, each once (LoRA with fine-tuning only), as far as the teachers allow:
not those beyond the paper, and no `:xN`.
"""

import contextlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, JsonValue, field_validator

# Kinds of teachers and the names that each allows; None allows any name.
TEACHERS = {"micro": ("a", "b"), "release": ("flan-t5", "llama2"), "hf": None, "openai": None}
OWN = {"model", "messages", "prompt", "stream", "n", "temperature", "max_tokens"}
OWN |= {"max_completion_tokens", "max_new_tokens"}  # request fields that `extra` may not contain
SECRET = re.compile(  # names of fields, or starts of values, that look like a key, in JSON
    r'(?i)"((?!prompt_cache_key)[-\w]*keys?'
    r"|(\w+[-_])?(api|access|auth|secret|private|bearer|client|session|hf)"
    r"[-_]?(token|secret)s?|(x[-_])?(token|secret|passw(or)?d|auth(orization)?|credentials?"
    r'|bearer))": |"(sk-|gsk_|xai-|hf_\w{9}|bearer )'
)
LORA_RANK = 8
GIBBERISH = "gibberish"  # name of the additional teacher that writes random words


@dataclass(frozen=True)
class Arm:
    """The settings of one arm."""

    name: str  # as written in the parameter `arms`
    trained: bool = True  # False: the student is scored without training
    teachers: tuple[str, ...] = ()  # whose rationales are targets, in the study's order
    moved: Literal["", "rationales", "words"] = ""  # what is permuted among training questions
    gibberish: bool = False  # add a teacher that writes random words
    routed: Literal["", "random", "similar", "quality"] = ""  # how to choose a teacher; "": use all
    auto_alpha: bool = False  # the weights of the teachers' losses adapt to the losses
    asked: dict[str, Any] = field(default_factory=dict)  # changed parameters for prompting teachers
    cleaning: tuple[str, ...] = ()  # steps added to the parameter `cleaning`
    scorers: tuple[str, ...] = ()  # teachers whose mean distribution over the options is a target
    temperature: float = 1.0  # of the softmax of these distributions and of the student's
    lora: int = 0  # rank of the adapters; 0 trains the whole model
    passes: int = 1  # factor that multiplies the study's epochs

    def settings(self) -> dict[str, Any]:
        """The fields that differ from plain fine-tuning, for specs and for display."""
        plain = vars(Arm(self.name))
        return {name: value for name, value in vars(self).items() if value != plain[name]}


METHODS: dict[str, dict[str, Any]] = {"inference": {"trained": False}, "finetune": {}}
TINYLLM: dict[str, dict[str, Any]] = {
    "no-examples": {"asked": {"examples": "none"}},
    "no-forcing": {"asked": {"teacher_forcing": False}},
    "repaired": {"cleaning": ("repair",)},
    "shuffled": {"moved": "rationales"},
    "scrambled": {"moved": "words"},
    "gibberish": {"gibberish": True},
    "routed-random": {"routed": "random"},
    "routed-similar": {"routed": "similar"},
    "routed-quality": {"routed": "quality"},
    "alpha-auto": {"auto_alpha": True},
}
BEYOND = ("repaired", "routed-random", "routed-similar", "routed-quality", "alpha-auto")
ALLOWED = (
    f"{', '.join(METHODS)}, lora, lora:RANK, kd, kd:TEMPERATURE, dss:TEACHER, "
    f"tinyllm, tinyllm-TEACHER and {', '.join(f'tinyllm:{name}' for name in TINYLLM)}; all except "
    "inference may be followed by :xN, then by +lora or +lora:RANK (N and RANK from 1)"
)
GRAMMAR = r"(?s)(?P<method>.*?)(:x(?P<passes>[1-9]\d*))?(\+lora(?P<rank>(?::[1-9]\d*)?))?"


def teacher(uri: str) -> tuple[str, str]:
    """Kind and name of a teacher's URI: `hf:google/flan-t5-xl` is ("hf", "google/flan-t5-xl")."""
    kind, _, name = uri.partition(":")
    return kind, name


def check_teacher(uri: str) -> None:
    """Raise ValueError if a teacher's URI is incomplete or contains a secret."""
    kind, name = teacher(uri)
    parts = urlsplit(name)
    if kind == "openai" and (parts.username or parts.password or "?" in name):
        raise ValueError("remove the password or ?query from this URL: manifests would contain it")
    address = parts.scheme in ("http", "https") and parts.hostname and parts.fragment
    known = name and kind in TEACHERS and name in (TEACHERS[kind] or [name])
    if not known or (kind == "openai" and not address):
        raise ValueError(
            f"{uri!r} is not a teacher; allowed are micro:a, micro:b, release:flan-t5, "
            "release:llama2, hf:MODEL and openai:URL#MODEL (openai:http://127.0.0.1:8000/v1#m)"
        )


class Server(BaseModel):
    """Request settings of one OpenAI-compatible server (parameter `servers`)."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    limit: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    temperature: Annotated[float, Field(ge=0)] | None = 0  # 0: the study's; None: not sent
    system: str = ""  # a system message before the prompt
    extra: dict[str, JsonValue] = {}  # further request fields, such as {reasoning_effort: low}
    context: int = Field(0, ge=0)  # maximum tokens of prompt and completion; 0: unknown

    @field_validator("extra")
    @classmethod
    def _allowed(cls, value: dict[str, Any]) -> dict[str, Any]:
        if SECRET.search(json.dumps(value)):
            raise ValueError("manifests would contain this key; set OPENAI_API_KEY instead")
        if own := OWN & set(value):
            raise ValueError(f"{min(own)!r} is set by the study or by another setting, not here")
        return value


def resolve(name: str, teachers: Sequence[str]) -> Arm:
    """The arm called `name` in a study with `teachers`.

    Raises ValueError if there is no such arm, or if it needs more than recorded teachers offer.
    """
    method, passes, rank = name, None, None
    try:
        arm = _method(name, name, tuple(teachers))  # a model's name may end in :x2 or +lora
    except ValueError:
        whole = f"finetune+{name}" if re.match("lora(:|$)", name) else name
        method, passes, rank = re.fullmatch(GRAMMAR, whole).group("method", "passes", "rank")
        arm = _method(name, method, tuple(teachers))
    if not arm.trained and (passes or rank is not None):
        raise ValueError(f"{name!r}: {method!r} is not trained, so it takes no :xN and no +lora")
    if method not in METHODS and not arm.teachers and not arm.scorers:
        raise ValueError(f"{name!r}: needs a teacher, but none is left")
    arm = replace(
        arm, passes=int(passes or 1), lora=0 if rank is None else int(rank[1:] or LORA_RANK)
    )
    needs = "be prompted" if arm.asked else "score the options" if arm.scorers else ""
    if needs and any(uri.startswith("release:") for uri in (*arm.teachers, *arm.scorers)):
        raise ValueError(f"{name!r}: its teachers must {needs}; recorded ones cannot, use hf:MODEL")
    return arm


def _method(name: str, method: str, teachers: tuple[str, ...]) -> Arm:
    if method in METHODS:
        return Arm(name, **METHODS[method])
    distilled = re.fullmatch(r"kd(?::(\d+(?:\.\d+)?))?", method)
    if distilled and (temperature := float(distilled[1] or 1)) > 0:
        return Arm(name, scorers=teachers, temperature=temperature)
    if method.startswith("dss:"):
        return Arm(name, teachers=(_meant(name, method.removeprefix("dss:"), teachers),))
    if method.startswith("tinyllm-"):
        absent = _meant(name, method.removeprefix("tinyllm-"), teachers)
        return Arm(name, teachers=tuple(uri for uri in teachers if uri != absent))
    base, _, variant = method.partition(":")
    if variant.startswith("routed-") and len(teachers) == 1:
        raise ValueError(f"{name!r}: one teacher leaves nothing to choose; use a dss arm")
    if base == "tinyllm" and (method == base or variant in TINYLLM):
        return Arm(name, teachers=teachers, **TINYLLM.get(variant, {}))
    raise ValueError(f"{name!r} is unknown; allowed are {ALLOWED}")


def _meant(name: str, written: str, teachers: tuple[str, ...]) -> str:
    """The study's teacher whose URI, or the name part of it, is `written`."""
    meant = [uri for uri in teachers if written in (uri, teacher(uri)[1])]
    if len(meant) != 1:
        raise ValueError(f"{name!r}: {written!r} names {len(meant)} of {', '.join(teachers)}")
    return meant[0]


def everything(teachers: Sequence[str]) -> list[str]:
    """The arms that `all` selects: each method once, if these teachers allow it."""
    short = {uri: teacher(uri)[1] for uri in teachers}
    labels = [name if [*short.values()].count(name) == 1 else uri for uri, name in short.items()]
    names = [*METHODS, "lora", "kd", *(f"dss:{label}" for label in labels), "tinyllm"]
    names += [f"tinyllm-{label}" for label in labels if len(labels) > 2]  # of two: a dss arm
    names += [f"tinyllm:{name}" for name in TINYLLM if name not in BEYOND]
    possible: list[str] = []
    for name in names:
        with contextlib.suppress(ValueError):
            check([*possible, name], teachers)  # with one teacher, `tinyllm` equals its dss arm
            possible.append(resolve(name, teachers).name)
    return possible


def check(names: Sequence[str], teachers: Sequence[str]) -> None:
    """Raise ValueError if an arm does not exist, or if two names mean the same students."""
    known: list[Arm] = []
    for arm in (resolve(name, teachers) for name in names):
        for other in known:
            if replace(arm, name=other.name) == other:
                raise ValueError(f"{arm.name!r} and {other.name!r} are the same; keep one of them")
        known.append(arm)


def alpha(name: str, weights: Mapping[str, float]) -> dict[str, float]:
    """The weights of an arm's teachers; their mean for each if the arm chooses one per question."""
    arm = resolve(name, list(weights))
    alphas = {uri: weights[uri] for uri in arm.teachers}
    return dict.fromkeys(alphas, fmean(alphas.values())) if arm.routed else alphas
