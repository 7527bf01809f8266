"""The Open Inference Protocol, by Triton's client: JSON and binary tensors, natively and in a worker."""

import json

import numpy
import pytest
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

from conftest import COLUMNS, Gateway

KEY = "mg-inference-0123456789"
CONFIG = """\
version: 1
registries: {{ default: {{ uri: "{url}" }} }}
endpoints:
  - {{ name: trees, type: predict, path: /predict/trees, route: "models:/trees@champion" }}
  - {{ name: iris, type: predict, path: /predict/iris, route: "models:/IrisClassifier/1" }}
  - {{ name: chat, type: llm/v1/chat, route: mock/echo }}
providers: {{ mock: {{ kind: mock }} }}
access: {{ keys: required, static: [ {{ name: tests, key: {key} }} ] }}
"""
# Triton's client adds to the headers that it is given: it gets copies.
HEADERS = {"Authorization": f"Bearer {KEY}"}


@pytest.fixture(scope="module")
def served(tmp_path_factory, registry):
    child = Gateway(tmp_path_factory.mktemp("inference"), CONFIG.format(url=registry.url, key=KEY))
    for name, path in (("trees", "/predict/trees"), ("iris", "/predict/iris")):
        child.predicts(path, split(registry.frame[:1]), headers=HEADERS)
    yield child
    child.stop()


@pytest.fixture
def client(served):
    return triton.InferenceServerClient(f"127.0.0.1:{served.port}")


def split(frame):
    return {"dataframe_split": {"columns": COLUMNS, "data": frame.values.tolist()}}


def columns(frame, binary):
    inputs = []
    for name in COLUMNS:
        one = triton.InferInput(name, [len(frame), 1], "FP64")
        inputs.append(one.set_data_from_numpy(frame[[name]].to_numpy(), binary_data=binary))
    return inputs


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("name", ["trees", "iris"])
def test_tensors_say_what_the_scoring_protocol_says(served, client, registry, name, binary):
    frame = registry.frame[::10]
    said = served.post(f"/predict/{name}", split(frame), headers=HEADERS).json()["predictions"]
    wanted = [triton.InferRequestedOutput("output-1", binary_data=binary)]
    answer = client.infer(name, columns(frame, binary), outputs=wanted, headers=dict(HEADERS), request_id="r1")
    assert answer.as_numpy("output-1").ravel().tolist() == said
    assert answer.as_numpy("output-1").shape == (len(frame), 1)
    assert (answer.get_response()["model_version"], answer.get_response()["id"]) == ("1", "r1")
    # One tensor with all columns, and the version in the path.
    table = triton.InferInput("rows", list(frame.shape), "FP32")
    table.set_data_from_numpy(frame.to_numpy(numpy.float32), binary_data=binary)
    answer = client.infer(name, [table], model_version="1", headers=dict(HEADERS))
    assert answer.as_numpy("output-1").ravel().tolist() == said


def test_what_the_server_and_its_models_are(client):
    assert client.is_server_live() and client.is_server_ready()
    assert client.is_model_ready("iris", headers=HEADERS)
    assert client.get_server_metadata(headers=HEADERS)["extensions"] == ["binary_tensor_data"]
    metadata = client.get_model_metadata("iris", headers=HEADERS)
    assert [one["name"] for one in metadata["inputs"]] == COLUMNS
    assert {one["datatype"] for one in metadata["inputs"]} == {"FP64"}
    assert [one["datatype"] for one in metadata["outputs"]] == ["INT64"]
    assert metadata["versions"] == ["1"]


def test_what_is_wrong_is_said(served, client, registry):
    def refused(name="iris", inputs=None, **more):
        with pytest.raises(InferenceServerException) as caught:
            client.infer(name, inputs or columns(registry.frame[:1], True), **{"headers": dict(HEADERS), **more})
        return caught.value.status(), caught.value.message()

    assert refused(headers={})[0] == "401"
    assert refused("nobody")[0] == "404"
    status, message = refused(model_version="9")
    assert status == "404" and "serves version 1" in message
    assert refused("chat")[1] == "`chat` is a llm/v1/chat endpoint, not a registered model"
    status, message = refused(inputs=columns(registry.frame[:1], True)[:2])
    assert status == "400" and COLUMNS[2] in message
    text = triton.InferInput(COLUMNS[0], [1, 1], "BYTES")
    text.set_data_from_numpy(numpy.array([["secret"]], dtype=object), binary_data=True)
    status, message = refused(inputs=[text, *columns(registry.frame[:1], True)[1:]])
    assert status == "400" and COLUMNS[0] in message and "secret" not in message
    asked = [triton.InferRequestedOutput("nothing")]
    assert "no output `nothing`" in refused(outputs=asked)[1]
    answer = served.post("/v2/models/iris/infer", {"inputs": 1}, headers=HEADERS)
    assert answer.status_code == 400 and "no inference request" in json.loads(answer.text)["error"]
