"""Parameters: shipped files load, notebook cells are accepted, invalid input is named."""

import json

import parameter_cells
import pytest
import yaml
from tiny import write_yaml

from tinyllm import params as module
from tinyllm import paths
from tinyllm.batch import grid
from tinyllm.data import files
from tinyllm.params import STAGES, ParameterError, Params

SHIPPED = sorted((paths.ROOT / "params").rglob("*.yaml"))
SHIPPED = [file for file in SHIPPED if file.parent.name != "grid"]  # tested in test_grid
SERVER = "openai:http://127.0.0.1:9/v1#m"
LLAMA = {"source": "release", "dataset": "obqa", "teachers": ["release:llama2"]}


@pytest.mark.parametrize("stage", STAGES)
def test_parameters_cells_have_typed_stage_parameters_with_micro_values(stage):
    source, namespace = parameter_cells.source(stage), {}
    exec(source, namespace)
    types = namespace.pop("__annotations__")
    namespace.pop("__builtins__")
    assert set(types) == set(namespace) == set(STAGES[stage].split()) <= set(Params.model_fields)
    micro = Params.from_yaml(module.MICRO)
    assert namespace == {name: getattr(micro, name) for name in namespace}
    # papermill overrides the cell's values with a file's: the result must equal the file.
    for file in SHIPPED:
        values = yaml.safe_load(file.read_text(encoding="utf-8"))
        given, whole = Params.from_notebook(namespace | values), Params.from_yaml(file)
        for name in STAGES[stage].split():
            assert getattr(given, name) == getattr(whole, name), (file, name)


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ({"lr": "1e-4"}, ["lr", "'1e-4'", "1.0e-04"]),
        ({"epoch": 3.0}, ["epoch", "unknown", "did you mean `epochs`"]),
        ({"source": "web"}, ["source", "'web'", "micro, release, hub or file:PATH"]),
        ({"alpha": [1.0, 2.0, 3.0]}, ["alpha", "[1.0, 2.0, 3.0]", "2 teachers"]),
        ({"alpha": [float("nan")]}, ["alpha", "nan"]),
        ({"seeds": [1, 1]}, ["seeds", "[1, 1]", "twice"]),
        ({"arms": ["fintune"]}, ["arms: 'fintune'", "tinyllm-TEACHER"]),
        ({"arms": ["finetune:x0"]}, ["arms: 'finetune:x0'", ":xN"]),
        ({"arms": ["inference:x2"]}, ["arms: 'inference:x2'", "no :xN"]),
        ({"arms": ["kd:hot"]}, ["arms: 'kd:hot'", "kd:TEMPERATURE"]),
        ({"arms": ["dss:gpt"]}, ["arms: 'dss:gpt'", "micro:a, micro:b"]),
        ({"arms": ["dss:a"], "teachers": ["micro:a", "hf:a"]}, ["arms", "names 2 of"]),
        ({"arms": ["tinyllm-a"], "teachers": ["micro:a"]}, ["arms", "needs a teacher"]),
        ({"arms": ["kd"], "teachers": []}, ["arms", "needs a teacher"]),
        (LLAMA | {"arms": ["kd:2+lora"]}, ["arms", "recorded ones cannot, use hf:MODEL"]),
        (LLAMA | {"arms": ["tinyllm:no-examples"]}, ["arms", "recorded ones cannot"]),
        ({"teachers": ["micro:z"]}, ["teachers", "micro:z", "micro:a, micro:b"]),
        ({"api_key": "pw"}, ["api_key", "unknown"]),
        ({"servers": "pw"}, ["servers", "***"]),
        ({"servers": {"openai:http://host/v1?key=pw#m": {}}}, ["servers", "?***#m"]),
        ({"teachers": ["openai:http://u:pw@host/v1#m"]}, ["teachers", "remove the password"]),
        ({"teachers": ["openai:http://u:p@pw@host/v1#m"]}, ["teachers", "remove the password"]),
        ({"teachers": ["openai:http://host/v1?key=pw#m"]}, ["teachers", "?query", "?***#m"]),
        ({"teachers": ["openai:http://host/v1#m?key=pw"]}, ["teachers", "?query"]),
        ({"teachers": ["openai:host/v1"]}, ["teachers", "openai:URL#MODEL"]),
        ({"study": "my study"}, ["study", "'my study'", "A-Za-z0-9"]),
        ({"study": "mine-"}, ["study", "'mine-'"]),  # its folder would be that of `mine`
        ({"source": "release"}, ["teachers", "micro", "'release'"]),
        ({"dataset": "obqa"}, ["dataset", "'obqa'", "source: release"]),
        ({"source": "file:x.csv", "teachers": [], "arms": ["finetune"]}, ["dataset", "micro"]),
        ({"samples": 2}, ["samples: 2", "micro:a", "temperature above 0"]),
        ({"samples": 2, "temperature": 1.0, **LLAMA}, ["samples", "['release:llama2']"]),
        (  # a seed in `extra` replaces the study's
            {"samples": 2, "temperature": 1.0, "teachers": [SERVER]}
            | {"servers": {SERVER: {"extra": {"seed": 1}}}},
            ["samples", SERVER],
        ),
        ({"servers": {"openai:other": {}}}, ["servers", "openai:other"]),
        (LLAMA | {"dataset": "piqa"}, ["teachers", "release:llama2", "flan-t5"]),
    ],
)
def test_bad_parameters_are_reported_in_one_line_with_name_and_value(bad, words):
    with pytest.raises(ParameterError) as caught:
        Params.checked(**bad)
    message = str(caught.value)
    assert "\n" not in message and "pw" not in message
    assert all(word in message for word in words), message


def test_errors_in_a_parameter_file_name_the_file(tmp_path):
    file = tmp_path / "study.yaml"
    file.write_text("lr: 1e-4\n")
    with pytest.raises(ParameterError, match=r"study.yaml: lr: '1e-4'"):
        Params.from_yaml(file)
    assert Params.from_yaml(file, lr=0.5).lr == 0.5
    file.write_text("lr: 0.1\nepochs: 1.0\nlr: 0.2\n")  # YAML would use the last value
    with pytest.raises(ParameterError, match=r"study.yaml: lr: appears twice"):
        Params.from_yaml(file)
    for text in ("limit: {train: 5, train: 9}\n", "points:\n- {seeds: [0], train: 1, train: 2}\n"):
        file.write_text(text)
        with pytest.raises(ParameterError, match=r"study.yaml: train: appears twice"):
            module.read_yaml(file)
    file.write_text("params: [micro.yaml]\n1: 2\n")
    with pytest.raises(ParameterError, match=r"study.yaml: 1: 2: Extra inputs"):
        grid.load(file)
    file.write_bytes(b"lr: 0.1 # \xfc\n")
    with pytest.raises(ParameterError, match=r"study.yaml: .*utf-8"):
        Params.from_yaml(file)
    file.write_text("lr: 0.1: 2\n")  # no YAML
    with pytest.raises(ParameterError, match=r"study.yaml: mapping values"):
        Params.from_yaml(file)
    file.write_text("lrr: 0.1\n")
    with pytest.raises(ParameterError) as error:
        grid.load(file)
    assert str(error.value).count("study.yaml") == 1
    with pytest.raises(ParameterError, match=str(tmp_path / "absent.yaml")):
        Params.from_yaml(tmp_path / "absent.yaml")


def test_relative_file_sources_are_resolved_from_the_parameter_file(tmp_path, monkeypatch):
    """Otherwise from the working folder; errors give the full path of a missing file."""
    own, elsewhere = tmp_path / "my studies", tmp_path / "elsewhere"
    for folder in (own, elsewhere):
        folder.mkdir()
    monkeypatch.chdir(elsewhere)
    values = {"study": "own", "dataset": "mine", "source": "file:q.csv"}
    values |= {"teachers": [], "arms": ["finetune"]}
    write_yaml(own / "a.yaml", **values)
    (elsewhere / "q.csv").touch()
    assert Params.from_yaml("../my studies/a.yaml").source == f"file:{elsewhere}/q.csv"
    (own / "q.csv").touch()
    assert Params.from_yaml(own / "a.yaml").source == f"file:{own}/q.csv"
    absent = Params.from_yaml(own / "a.yaml", source="file:absent.csv").source.removeprefix("file:")
    with pytest.raises(ValueError, match=str(tmp_path)):
        files.questions(absent, 0)


def test_unknown_names_that_papermill_may_have_injected_are_rejected():
    with pytest.raises(ParameterError, match=r"epochz.*did you mean `epochs`"):
        Params.from_notebook({"epochz": 0.1, "In": [], "Out": {}, "_ih": [], "pd": json})
    namespace = {"lr": 0.1}
    assert Params.from_notebook(namespace).lr == 0.1
    namespace |= {"accuracy": [0.5], "lr": 0.2}  # set by later cells before a rerun
    assert Params.from_notebook(namespace).lr == 0.2
    namespace |= {"width": 3.0, "__annotations__": {"width": float}}  # a later cell of the user
    assert Params.from_notebook(namespace).lr == 0.2
    namespace |= {"epoch": 9.0, "__annotations__": {"epoch": float}}  # a parameters cell, edited
    with pytest.raises(ParameterError, match=r"epoch: .*did you mean `epochs`"):
        Params.from_notebook(namespace)
