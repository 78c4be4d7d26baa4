"""Arms: each name has the meaning given in the module's table (test_params: invalid names)."""

import pytest

from tinyllm import arms
from tinyllm.arms import Arm
from tinyllm.params import ParameterError, Params

A, B = "micro:a", "micro:b"
BOTH = {"teachers": (A, B)}
MEANT = {
    "inference": {"trained": False},
    "finetune": {},
    "finetune:x4": {"passes": 4},
    "lora:16": {"lora": 16},
    "kd": {"scorers": (A, B)},
    "kd:2.5+lora": {"scorers": (A, B), "temperature": 2.5, "lora": 8},
    "dss:a:x2+lora:4": {"teachers": (A,), "passes": 2, "lora": 4},
    "tinyllm": BOTH,
    "tinyllm-a": {"teachers": (B,)},
    "tinyllm:no-examples": BOTH | {"asked": {"examples": "none"}},
    "tinyllm:no-forcing": BOTH | {"asked": {"teacher_forcing": False}},
    "tinyllm:repaired": BOTH | {"cleaning": ("repair",)},
    "tinyllm:shuffled": BOTH | {"moved": "rationales"},
    "tinyllm:scrambled": BOTH | {"moved": "words"},
    "tinyllm:gibberish": BOTH | {"gibberish": True},
    "tinyllm:routed-quality:x2": BOTH | {"routed": "quality", "passes": 2},
    "tinyllm:alpha-auto": BOTH | {"auto_alpha": True},
}


def test_arm_names_resolve_to_the_expected_fields():
    for name, fields in MEANT.items():
        arm = arms.resolve(name, [A, B])
        assert arm == Arm(name, **fields) and arm.settings() == fields


def test_all_expands_to_every_arm_the_teachers_support():
    asked = set(Params.checked(teachers=[A, B], arms=["all"]).arms)
    assert {"inference", "kd", "dss:a", "dss:b", "tinyllm", "tinyllm:no-examples"} < asked
    recorded = arms.everything(["release:flan-t5", "release:llama2"])
    assert "tinyllm:shuffled" in recorded
    assert not {"kd", "tinyllm:no-examples"} & set(recorded)  # they cannot be prompted
    assert arms.everything([]) == ["inference", "finetune", "lora"]
    names = arms.everything(["hf:llama2", "release:llama2", "hf:other"])  # equal short names
    assert {"dss:hf:llama2", "dss:release:llama2", "dss:other", "tinyllm-hf:llama2"} <= set(names)


def test_two_names_of_the_same_students_are_rejected_and_all_has_one_of_them():
    alone = arms.everything([A])
    assert "dss:a" in alone and "tinyllm" not in alone and "tinyllm:shuffled" in alone
    for names in (["dss:a", "tinyllm"], ["lora", "finetune+lora:8"], ["finetune:x1", "finetune"]):
        with pytest.raises(ParameterError, match="are the same; keep one"):
            Params.checked(teachers=[A], arms=names)
    assert Params.checked(teachers=[A, B], arms=["dss:a", "dss:b", "tinyllm"])


def test_model_names_may_end_like_arm_suffixes():
    uri = "openai:http://h/v1#m:x2"
    assert arms.resolve(f"dss:{uri}", [uri, A]) == Arm(f"dss:{uri}", teachers=(uri,))
    assert arms.resolve(f"dss:{uri}:x3", [uri, A]).passes == 3
    for name in ("hf:m:x2", "hf:m+lora"):
        arm = arms.resolve(f"dss:{name}", ["hf:m", name])
        assert (arm.teachers, arm.passes, arm.lora) == ((name,), 1, 0)
