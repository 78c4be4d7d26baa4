"""The arms of a study: what is compared, and the teachers that an arm names.

An arm is a few fields of data; `students/` trains it.

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

Any of them but `inference` may end in `:xN`, as in `finetune:x3`: the same, in N times as many
passes. How far does longer training alone go? TEACHER is a teacher's URI or its name in it:
`dss:release:llama2` or `dss:llama2`. RANK is 8 and T is 1 unless given. LoRA adds a low-rank update
to every linear layer but the output layer, whatever the method, so `tinyllm+lora` trains a model by
TinyLLM that is too large to train whole.

The controls have equal words, lengths and cost. `all` alone stands for the paper's arms and the
controls once (LoRA for fine-tuning only), as far as the teachers allow. A further arm is one more
line in METHODS or TINYLLM.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from tinyllm.params import Params

# Kinds of teachers, and the names that a kind allows; None where any name may do.
TEACHERS = {"micro": ("a", "b"), "release": ("flan-t5", "llama2"), "hf": None, "openai": None}
LORA_RANK = 8
GIBBERISH = "gibberish"  # name of the teacher that writes random words


@dataclass(frozen=True)
class Arm:
    """What one arm trains with.

    name: as written in the parameter `arms`.
    trained: False for the student as it is.
    teachers: whose rationales are targets, in the order of the parameter `teachers`.
    moved: what is permuted among the training questions: nothing, whole `rationales` or `words`.
    gibberish: one more teacher writes random words.
    routed: how one teacher is chosen for each question (`teachers.choose`); nothing: all.
    auto_alpha: the weights of the teachers' losses follow the losses.
    asked: parameters that are other than the study's when the teachers are asked.
    cleaning: steps of the parameter `cleaning` that this arm adds to the study's.
    scorers: whose distributions over the options are learned from, averaged.
    temperature: at which those and the student's are compared.
    lora: rank of the adapters; 0 trains the whole model.
    passes: by how much its epochs exceed the study's.
    """

    name: str
    trained: bool = True
    teachers: tuple[str, ...] = ()
    moved: Literal["", "rationales", "words"] = ""
    gibberish: bool = False
    routed: Literal["", "random", "similar", "quality"] = ""
    auto_alpha: bool = False
    asked: dict[str, Any] = field(default_factory=dict)
    cleaning: tuple[str, ...] = ()
    scorers: tuple[str, ...] = ()
    temperature: float = 1.0
    lora: int = 0
    passes: int = 1

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
    "inference with :xN, +lora or +lora:RANK behind it"
)


def teacher(uri: str) -> tuple[str, str]:
    """Kind and name of a teacher's URI: `hf:google/flan-t5-xl` is ("hf", "google/flan-t5-xl")."""
    kind, _, name = uri.partition(":")
    return kind, name


def check_teacher(uri: str) -> None:
    """ValueError if a teacher's URI lacks a part, or holds what must not be written down."""
    kind, name = teacher(uri)
    if not name or kind not in TEACHERS or name not in (TEACHERS[kind] or [name]):
        raise ValueError(
            f"{uri!r} is no teacher; allowed are micro:a, micro:b, release:flan-t5, "
            "release:llama2, hf:MODEL and openai:URL#MODEL"
        )
    if kind != "openai":
        return
    parts = urlsplit(name)
    if parts.username or parts.password or parts.query:
        raise ValueError(
            f"openai:…#{parts.fragment}: a URL with a name, password or query would be in every "
            "manifest; put the key into the environment variable OPENAI_API_KEY"
        )
    if parts.scheme not in ("http", "https") or not parts.hostname or not parts.fragment:
        raise ValueError(
            f"{uri!r}: expected openai:URL#MODEL, as openai:http://127.0.0.1:8000/v1#m"
        )


def resolve(name: str, teachers: Sequence[str]) -> Arm:
    """The arm called `name` in a study with `teachers`.

    Raises ValueError, naming the arm and why, if there is none such, or if recorded teachers
    (`release:`) cannot give what it needs.
    """
    adapters = re.fullmatch(r"(?:lora|(.+)\+lora)(?::(.*))?", name)
    method = (adapters[1] or "finetune") if adapters else name
    whole = any(method.endswith(uri) for uri in teachers)  # a model may be called m:x2
    longer = None if whole else re.fullmatch(r"(.+):x([1-9]\d*)", method)
    arm = _method(name, longer[1] if longer else method, tuple(teachers))
    if longer:
        if not arm.trained:
            raise ValueError(f"{name!r}: {longer[1]!r} trains nothing, so it has no passes")
        arm = replace(arm, passes=int(longer[2]))
    if adapters:
        rank = str(LORA_RANK) if adapters[2] is None else adapters[2]
        if not re.fullmatch(r"[1-9]\d*", rank):
            raise ValueError(
                f"{name!r}: expected +lora or +lora:RANK, a whole number from 1; passes come "
                "first, as in finetune:x2+lora"
            )
        if not arm.trained:
            raise ValueError(f"{name!r}: {adapters[1]!r} trains nothing, so it has no adapters")
        arm = replace(arm, lora=int(rank))
    needs = "must be asked anew" if arm.asked else "must score the options" if arm.scorers else ""
    recorded = [uri for uri in (*arm.teachers, *arm.scorers) if uri.startswith("release:")]
    if needs and recorded:
        raise ValueError(
            f"{name!r}: its teachers {needs}, but {recorded[0]!r} is recorded text; leave this arm "
            "out, or prompt that model (hf:MODEL)"
        )
    return arm


def _method(name: str, method: str, teachers: tuple[str, ...]) -> Arm:
    if method in METHODS:
        return Arm(name, **METHODS[method])
    kind, mark, rest = re.fullmatch(r"(dss|kd|tinyllm)?([:-]?)(.*)", method).groups()
    if kind in ("kd", "tinyllm") and not teachers:
        raise ValueError(f"{name!r}: needs at least one teacher")
    if method == "kd":
        return Arm(name, scorers=teachers)
    if kind == "kd" and mark == ":" and rest:
        if not re.fullmatch(r"\d+(\.\d+)?", rest) or float(rest) == 0:
            raise ValueError(f"{name!r}: {rest!r} is no temperature; allowed are numbers above 0")
        return Arm(name, scorers=teachers, temperature=float(rest))
    if kind == "dss" and mark == ":":
        return Arm(name, teachers=(_meant(name, rest, teachers),))
    if method == "tinyllm":
        return Arm(name, teachers=teachers)
    if kind == "tinyllm" and mark == ":" and rest in TINYLLM:
        if rest.startswith("routed-") and len(teachers) == 1:
            raise ValueError(f"{name!r}: with one teacher there is no choice; that is a dss arm")
        return Arm(name, teachers=teachers, **TINYLLM[rest])
    if kind == "tinyllm" and mark == "-":
        absent = _meant(name, rest, teachers)
        if len(teachers) == 1:
            raise ValueError(f"{name!r}: leaves no teacher; that is the arm finetune")
        return Arm(name, teachers=tuple(uri for uri in teachers if uri != absent))
    raise ValueError(f"{name!r} is unknown; allowed are {ALLOWED}")


def _meant(name: str, written: str, teachers: tuple[str, ...]) -> str:
    """The one teacher of the study that is written as its URI or as its name in it."""
    meant = [uri for uri in teachers if written in (uri, teacher(uri)[1])]
    if len(meant) != 1:
        known = ", ".join(teachers)
        raise ValueError(f"{name!r}: {written!r} names {len(meant)} of the teachers {known}")
    return meant[0]


def everything(teachers: Sequence[str]) -> list[str]:
    """The arms that `all` stands for: each method once, as far as these teachers can serve it.

    A teacher is left out only where more than one remains (else that is a `dss` arm).
    """
    short = [teacher(uri)[1] for uri in teachers]
    pairs = zip(teachers, short, strict=True)
    own = [name if short.count(name) == 1 else uri for uri, name in pairs]
    names = [*METHODS, "lora", "kd", *(f"dss:{name}" for name in own), "tinyllm"]
    names += [f"tinyllm-{name}" for name in own if len(own) > 2]
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
    """The parameters with which an arm's teachers were asked: they name its rationale stores."""
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
