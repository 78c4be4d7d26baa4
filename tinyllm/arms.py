"""The arms of a study: what is compared, and the teachers that an arm names.

    ARM = METHOD[:xN][+lora[:RANK]]

| METHOD | what the student learns |
|---|---|
| `inference` | nothing: it is scored as it is (no `+lora`) |
| `finetune` | the answer alone |
| `lora`, `lora:RANK` | short for `finetune+lora`, `finetune+lora:RANK` |
| `kd`, `kd:T` | the answer, and the teachers' mean distribution over the options at temperature T |
| `dss:TEACHER` | the answer and one teacher's rationales (Distill-step-by-step) |
| `tinyllm` | the answer and every teacher's rationales (the paper) |
| `tinyllm-TEACHER` | ablation: one teacher left out |
| `tinyllm:no-examples` | ablation: teachers asked without in-context examples |
| `tinyllm:no-forcing` | ablation: teachers asked without being told the gold answer |
| `tinyllm:repaired` | beyond the paper: invented questions and unfinished sentences cut off |
| `tinyllm:routed-similar` | beyond: one rationale per question, the closest in meaning to it |
| `tinyllm:routed-quality` | beyond: one rationale per question, the best by plain rules |
| `tinyllm:routed-random` | control of these two: one rationale per question, drawn |
| `tinyllm:alpha-auto` | beyond: alpha follows the losses (`students/loss.py`) |
| `tinyllm:shuffled` | control: each teacher's rationales permuted among the questions |
| `tinyllm:scrambled` | control: each word permuted among the words at its place |
| `tinyllm:gibberish` | control: one teacher more, which writes random words |

`finetune:x3` trains for three times the epochs. LoRA adds a low-rank update to every linear layer
but the output layer, whatever the method. TEACHER is a teacher's URI or its name in it:
`dss:release:llama2` or `dss:llama2`. RANK is 8 and T is 1 unless given.

The controls have equal words, lengths and cost. `all` alone stands for the paper's arms and the
controls once (LoRA for fine-tuning only), as far as the teachers allow. A further arm is one more
line in METHODS or TINYLLM.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean
from typing import TYPE_CHECKING, Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, JsonValue, field_validator

if TYPE_CHECKING:
    from tinyllm.params import Params

# Kinds of teachers, and the names that a kind allows; None where any name may do.
TEACHERS = {"micro": ("a", "b"), "release": ("flan-t5", "llama2"), "hf": None, "openai": None}
OWN = {"model", "messages", "prompt", "stream", "n", "temperature", "max_tokens"}
OWN |= {"max_completion_tokens", "max_new_tokens"}  # fields of a request that are not `extra`
SECRET = re.compile(  # a field's name, or the start of a value, in JSON
    r'(?i)"((\w+[-_])?(api|access|auth|secret|private|bearer|client)[-_]?(key|token|secret)s?'
    r'|(x[-_])?(keys?|token|secret|passw(or)?d|auth(orization)?|credentials?|bearer))": '
    r'|"(sk-|bearer )'
)
LORA_RANK = 8
GIBBERISH = "gibberish"  # name of the teacher that writes random words


@dataclass(frozen=True)
class Arm:
    """What one arm trains with."""

    name: str  # as written in the parameter `arms`
    trained: bool = True  # False for the student as it is
    teachers: tuple[str, ...] = ()  # whose rationales are targets, in the study's order
    moved: Literal["", "rationales", "words"] = ""  # what is permuted among training questions
    gibberish: bool = False  # one more teacher writes random words
    routed: Literal["", "random", "similar", "quality"] = ""  # how one teacher is chosen; "": all
    auto_alpha: bool = False  # the weights of the teachers' losses follow the losses
    asked: dict[str, Any] = field(default_factory=dict)  # parameters with which teachers are asked
    cleaning: tuple[str, ...] = ()  # steps that are added to the parameter `cleaning`
    scorers: tuple[str, ...] = ()  # whose distributions over the options are learned from, averaged
    temperature: float = 1.0  # at which those and the student's are compared
    lora: int = 0  # rank of the adapters; 0 trains the whole model
    passes: int = 1  # by how much its epochs exceed the study's

    def settings(self) -> dict[str, Any]:
        """The fields that differ from a fine-tuned student's, for a spec and to be shown."""
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
    f"tinyllm, tinyllm-TEACHER and {', '.join(f'tinyllm:{name}' for name in TINYLLM)}, each but "
    "inference with :xN, +lora or +lora:RANK (a number from 1), in this order"
)
GRAMMAR = r"(?s)(?P<method>.*?)(:x(?P<passes>[1-9]\d*))?(\+lora(?P<rank>(?::[1-9]\d*)?))?"


def teacher(uri: str) -> tuple[str, str]:
    """Kind and name of a teacher's URI: `hf:google/flan-t5-xl` is ("hf", "google/flan-t5-xl")."""
    kind, _, name = uri.partition(":")
    return kind, name


def check_teacher(uri: str) -> None:
    """ValueError if a teacher's URI lacks a part, or holds what must not be written down."""
    kind, name = teacher(uri)
    parts = urlsplit(name)
    if kind == "openai" and (parts.username or parts.password or parts.query):
        raise ValueError("every manifest would hold this URL's key; set OPENAI_API_KEY instead")
    address = parts.scheme in ("http", "https") and parts.hostname and parts.fragment
    known = name and kind in TEACHERS and name in (TEACHERS[kind] or [name])
    if not known or (kind == "openai" and not address):
        raise ValueError(
            f"{uri!r} is no teacher; allowed are micro:a, micro:b, release:flan-t5, "
            "release:llama2, hf:MODEL and openai:URL#MODEL (openai:http://127.0.0.1:8000/v1#m)"
        )


class Server(BaseModel):
    """What one OpenAI-compatible server takes that others do not (parameter `servers`)."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    limit: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    temperature: Annotated[float, Field(ge=0)] | None = 0  # 0: the study's; None: not sent
    system: str = ""  # a system message before the prompt
    extra: dict[str, JsonValue] = {}  # more fields of the request, as {reasoning_effort: low}
    context: int = Field(0, ge=0)  # tokens of prompt and completion together; 0: not known

    @field_validator("extra")
    @classmethod
    def _allowed(cls, value: dict[str, Any]) -> dict[str, Any]:
        if SECRET.search(json.dumps(value)):
            raise ValueError("every manifest would hold this key; set OPENAI_API_KEY instead")
        if own := OWN & set(value):
            raise ValueError(f"{min(own)!r} is set by the study, or a setting beside extra")
        return value


def resolve(name: str, teachers: Sequence[str]) -> Arm:
    """The arm called `name` in a study with `teachers`.

    Raises ValueError if there is none such, or if recorded teachers cannot give what it needs.
    """
    method, passes, rank = name, None, None
    try:
        arm = _method(name, name, tuple(teachers))  # a model may be called m:x2 or m+lora
    except ValueError:
        whole = f"finetune+{name}" if re.match("lora(:|$)", name) else name
        method, passes, rank = re.fullmatch(GRAMMAR, whole).group("method", "passes", "rank")
        arm = _method(name, method, tuple(teachers))
    if not arm.trained and (passes or rank is not None):
        raise ValueError(f"{name!r}: {method!r} trains nothing: no passes, no adapters")
    if method not in METHODS and not arm.teachers and not arm.scorers:
        raise ValueError(f"{name!r}: needs a teacher, but there is none left")
    arm = replace(
        arm, passes=int(passes or 1), lora=0 if rank is None else int(rank[1:] or LORA_RANK)
    )
    needs = "must be asked anew" if arm.asked else "must score the options" if arm.scorers else ""
    if needs and any(uri.startswith("release:") for uri in (*arm.teachers, *arm.scorers)):
        raise ValueError(f"{name!r}: its teachers {needs}: not recorded ones; use hf:MODEL")
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
        raise ValueError(f"{name!r}: with one teacher there is no choice; that is a dss arm")
    if base == "tinyllm" and (method == base or variant in TINYLLM):
        return Arm(name, teachers=teachers, **TINYLLM.get(variant, {}))
    raise ValueError(f"{name!r} is unknown; allowed are {ALLOWED}")


def _meant(name: str, written: str, teachers: tuple[str, ...]) -> str:
    """The one teacher of the study that is written as its URI or as its name in it."""
    meant = [uri for uri in teachers if written in (uri, teacher(uri)[1])]
    if len(meant) != 1:
        raise ValueError(f"{name!r}: {written!r} names {len(meant)} of {', '.join(teachers)}")
    return meant[0]


def everything(teachers: Sequence[str]) -> list[str]:
    """The arms that `all` stands for: each method once, as far as these teachers can serve it."""
    short = {uri: teacher(uri)[1] for uri in teachers}
    own = [name if list(short.values()).count(name) == 1 else uri for uri, name in short.items()]
    names = [*METHODS, "lora", "kd", *(f"dss:{name}" for name in own), "tinyllm"]
    names += [f"tinyllm-{name}" for name in own if len(own) > 2]  # of two, that is a dss arm
    names += [f"tinyllm:{name}" for name in TINYLLM if name not in BEYOND]
    possible = []
    for name in names:
        with contextlib.suppress(ValueError):
            possible.append(resolve(name, teachers).name)
    return possible


def alpha(name: str, weights: Mapping[str, float]) -> dict[str, float]:
    """Of a study's weights those of an arm's teachers; their mean where one of them is chosen."""
    arm = resolve(name, list(weights))
    own = {uri: weights[uri] for uri in arm.teachers}
    return dict.fromkeys(own, fmean(own.values())) if arm.routed else own


def asked(arm: Arm, params: Params) -> Params:
    """The parameters with which an arm's teachers are asked."""
    return params.model_copy(update=arm.asked)


def variants(params: Params) -> list[Params]:
    """The parameters of every rationale store that a study needs, its own first, none twice."""
    ways = [params]
    for name in params.arms:
        way = asked(resolve(name, params.teachers), params)
        if way not in ways:
            ways.append(way)
    return ways


def scored(params: Params) -> list[str]:
    """The teachers whose distributions over the options a study needs, in its order."""
    needed = {uri for name in params.arms for uri in resolve(name, params.teachers).scorers}
    return [uri for uri in params.teachers if uri in needed]
