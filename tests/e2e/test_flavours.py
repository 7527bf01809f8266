"""Models of every flavour that this machine can install, saved by MLflow itself: through the gateway they answer what
MLflow's own scoring functions answer."""

import json
import os
import subprocess
import sys

import pytest
import yaml

from conftest import Gateway, environment, observed, until

PYTHON = os.environ.get("MILLGATE_TEST_FLAVOURS")
if not PYTHON:
    assert not os.environ.get("CI"), "CI must set MILLGATE_TEST_FLAVOURS to an interpreter with the flavours' packages"
    pytest.skip("MILLGATE_TEST_FLAVOURS names no interpreter", allow_module_level=True)
CONFIG = """\
version: 1
models: {{ python: "{python}" }}
registries: {{ default: {{ uri: "sqlite:///{models}/mlflow.db", allow_local_artifacts: true }} }}
endpoints:
"""


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    folder = tmp_path_factory.mktemp("flavours")
    models = folder / "models"
    models.mkdir()
    maker = os.path.join(os.path.dirname(__file__), "make_flavours.py")
    uris = {}
    for which in [], ["tensorflow"]:
        made = subprocess.run(
            [PYTHON, maker, str(models), *which], cwd=folder, env=environment(),
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        assert made.returncode == 0, made.stderr[-4000:]
        uris |= json.loads(made.stdout.splitlines()[-1])
    config = CONFIG.format(python=PYTHON, models=models)
    for name, uri in uris.items():
        kind = "llm/v1/chat" if name == "transformers-chat" else "predict"
        config += f'  - {{ name: {name}, type: {kind}, path: /predict/{name}, route: "{uri}" }}\n'
    child = Gateway(folder / "gateway", config)
    child.models, child.uris = models, uris
    yield child
    child.stop()


def live(served, name):
    def seen():
        models = {model["endpoint"]: model for model in served.http.get("/readyz").json()["models"]}
        assert models[name]["state"] != "FAILED", models[name]
        return models[name] if models[name]["state"] == "LIVE" else None

    return until(seen, name, 240)


def flavour(served, name):
    if name == "pyfunc-logged":
        return "python_function"
    flavours = yaml.safe_load((served.models / name / "MLmodel").read_text())["flavors"]
    return next((word for word in flavours if word != "python_function"), "python_function")


def exactness(ours, theirs):
    return "the same bytes" if ours == theirs else f"{ours} and {theirs}"


def test_each_flavour_answers_as_mlflow_does(served):
    rows = []
    for name in served.uris:
        status = live(served, name)
        cases = json.loads((served.models / name / "cases.json").read_text())
        said = set()
        for kind, body, expected in cases:
            answer = served.http.post(f"/predict/{name}", content=body, headers={"content-type": kind})
            assert answer.status_code == 200, (name, answer.text)
            if name == "transformers-chat":
                (theirs,) = json.loads(expected)
                ours = answer.json()["choices"][0]["message"]["content"]
                said.add("the same words" if ours == theirs["choices"][0]["message"]["content"] else ours)
                assert answer.json()["usage"]["completion_tokens"] == theirs["usage"]["completion_tokens"]
            else:
                said.add(exactness(answer.text, expected))
        assert status["runtime"] == answer.headers["x-millgate-runtime"]
        rows.append(
            {"model": name, "flavour": flavour(served, name), "runtime": status["runtime"], "beside": ", ".join(said)}
        )
    observed("flavours", rows)


def test_params_are_checked_before_the_model_sees_them(served):
    live(served, "pyfunc-params")
    body = {"dataframe_split": {"columns": ["a"], "data": [[1.0]]}}
    answer = served.post("/predict/pyfunc-params", {**body, "params": {"factor": "much"}})
    assert (answer.status_code, answer.headers["x-millgate-error"]) == (400, "schema_mismatch"), answer.text
    answer = served.post("/predict/pyfunc-params", {**body, "params": {"nothing": 1}})
    assert answer.status_code == 400 and "nothing" in answer.text


def test_rows_of_a_tensor_share_calls_where_the_flavour_allows(served):
    if "torch-tensor" not in served.uris:
        pytest.skip("there is no torch")
    assert live(served, "torch-tensor")["batching"].startswith("on"), live(served, "torch-tensor")
    assert live(served, "pyfunc-params")["batching"].startswith("off")
