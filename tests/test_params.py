"""Parameters: shipped files load, notebooks carry the defaults, bad input is named."""

import json

import nbformat
import pytest
import yaml

from tinyllm import params as module
from tinyllm import paths
from tinyllm.params import ParameterError, Params

FILES = sorted((paths.ROOT / "params").rglob("*.yaml"))
FILES = [file for file in FILES if file.parent.name != "grid"]  # those are in test_grid
NOTEBOOKS = sorted((paths.ROOT / "notebooks").glob("0*.ipynb"))


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(paths.ROOT)))
def test_every_shipped_parameter_file_loads(file):
    Params.from_yaml(file)


def test_micro_file_is_the_default():
    assert Params.from_yaml(paths.ROOT / "params" / "micro.yaml") == Params()


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda f: f.stem)
def test_parameters_cell_of_every_notebook_is_the_default(file):
    cells = nbformat.read(file, as_version=4).cells
    tagged = [c.source for c in cells if "parameters" in c.metadata.get("tags", [])]
    assert tagged == [module.cell()]
    namespace = {}
    exec(tagged[0], namespace)
    namespace.pop("__builtins__")
    assert Params.from_notebook(namespace) == Params()


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ({"lr": "1e-4"}, ["lr", "'1e-4'", "1.0e-04"]),
        ({"learning_rate": 0.1}, ["learning_rate", "0.1", "unknown"]),
        ({"epoch": 3.0}, ["epoch", "did you mean `epochs`"]),
        ({"source": "web"}, ["source", "'web'", "micro, release, hub or file:PATH"]),
        ({"task_prefix": "both"}, ["task_prefix", "'both'", "'encoder' or 'decoder'"]),
        ({"alpha": [1.0, 2.0, 3.0]}, ["alpha", "[1.0, 2.0, 3.0]", "2 teachers"]),
        ({"alpha": [-1.0]}, ["alpha", "-1.0", "at least 0"]),
        ({"seeds": [1, 1]}, ["seeds", "[1, 1]", "different"]),
        ({"seeds": 3}, ["seeds", "3", "list"]),
        ({"arms": ["dss:release:gpt"]}, ["arms", "release:gpt", "micro:a, micro:b"]),
        ({"teachers": ["micro:z"]}, ["teachers", "micro:z", "micro:a, micro:b"]),
        ({"teachers": ["release:llama"]}, ["teachers", "release:llama", "release:llama2"]),
        (
            {"teachers": ["release:llama2"], "source": "release", "dataset": "piqa"},
            ["teachers", "release:llama2", "use release:flan-t5 alone"],
        ),
        ({"arms": ["dss:a"], "teachers": ["micro:a", "hf:a"]}, ["arms", "names 2 of"]),
        ({"arms": ["fintune"]}, ["arms", "'fintune'", "finetune"]),
        ({"limit": {"dev": 5}}, ["limit", "dev", "train, valid and test"]),
        ({"batch_size": 0}, ["batch_size", "0", "greater than or equal to 1"]),
        ({"batch_size": True}, ["batch_size", "True"]),
        ({"examples": "two"}, ["examples", "'two'", "random:K"]),
        ({"teachers": ["gpt-4"]}, ["teachers", "'gpt-4'", "hf:MODEL"]),
        ({"source": "release"}, ["teachers", "micro:a", "source is 'release'"]),
        (
            {"source": "release", "teachers": ["release:llama2"], "arms": ["finetune"]},
            ["dataset", "'micro'", "obqa"],
        ),
        ({"source": "file:x.csv", "teachers": [], "arms": ["finetune"]}, ["dataset", "micro"]),
        ({"teachers": [], "arms": ["tinyllm"]}, ["teachers", "at least one"]),
        ({"study": "../up"}, ["study", "'../up'", "letters"]),
    ],
)
def test_bad_parameters_end_with_one_line_that_names_them(bad, words):
    with pytest.raises(ParameterError) as caught:
        Params.checked(**bad)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message


def test_yaml_reads_numbers_without_point_as_text_and_the_error_says_so(tmp_path):
    file = tmp_path / "study.yaml"
    file.write_text("lr: 1e-4\n")
    assert yaml.safe_load(file.read_text()) == {"lr": "1e-4"}
    with pytest.raises(ParameterError, match=r"study.yaml: lr: '1e-4' .*write 1.0e-04"):
        Params.from_yaml(file)


def test_a_name_that_papermill_injected_but_no_parameter_bears_is_an_error():
    with pytest.raises(ParameterError, match="learnrate"):
        Params.from_notebook({"learnrate": 0.1, "In": [], "Out": {}, "_ih": [], "pd": json})


def test_the_cell_may_be_run_again_after_cells_that_left_plain_values():
    namespace = {"lr": 0.1}
    assert Params.from_notebook(namespace).lr == 0.1
    namespace |= {"columns": ["a"], "lr": 0.2}
    assert Params.from_notebook(namespace).lr == 0.2


def test_one_number_for_alpha_counts_for_all_teachers():
    assert Params.checked(alpha=2).alpha == [2.0]
