"""Model servers elsewhere behind endpoints: MLflow's own, one that speaks the Open Inference Protocol, and one of its own kind."""

import json
import os
import signal
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import numpy
import pytest
import tritonclient.http as triton

from conftest import COLUMNS, IRIS, Gateway, environment, free_port, until

SERVER = """\
version: 1
registries: {{ default: {{ uri: "{url}" }} }}
endpoints:
  - {{ name: trees, type: predict, route: "models:/trees@champion" }}
access: {{ keys: required, static: [ {{ name: front, key: mg-remote-0123456789 }} ] }}
"""

FRONT = """\
version: 1
providers:
  mlflow: {{ kind: mlflow-scoring, base_url: "{mlflow}" }}
  v2: {{ kind: open-inference, base_url: "{v2}", api_key: env:V2_KEY }}
  own:
    kind: http-scorer
    base_url: "{own}"
    scorer:
      path: "/models/{{model}}/score"
      request: {{ payload: {{ rows: $rows, names: $columns }}, settings: $params, note: "$5 a row" }}
      response: /result/values
  gone: {{ kind: mlflow-scoring, base_url: "http://127.0.0.1:{gone}" }}
endpoints:
  - {{ name: by-mlflow, type: predict, path: /predict/mlflow, route: mlflow/iris }}
  - {{ name: by-v2, type: predict, route: v2/trees }}
  - {{ name: by-own, type: predict, route: own/sum }}
  - {{ name: unknown, type: predict, route: v2/nobody }}
  - {{ name: saved, type: predict, route: {{ fallback: [ gone/iris, mlflow/iris ] }} }}
  - {{ name: lost, type: predict, route: gone/iris }}
"""


class Own(BaseHTTPRequestHandler):
    """Adds up rows; refuses rows that cannot be added."""

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.seen = (self.path, body)
        rows = body["payload"]["rows"]
        good = all(isinstance(cell, (int, float)) for row in rows for cell in row)
        answer = {"result": {"values": [sum(row) for row in rows]}} if good else {"error": "no numbers"}
        text = json.dumps(answer).encode()
        self.send_response(200 if good else 400)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def scorer():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Own)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()


@pytest.fixture(scope="module")
def mlflow_server(registry, tmp_path_factory):
    port = free_port()
    log = (tmp_path_factory.mktemp("serve") / "log").open("w")
    process = subprocess.Popen(
        [sys.executable, "-m", "mlflow", "models", "serve", "-m", "models:/IrisClassifier/1", "--port", str(port),
         "--env-manager", "local"],
        env=environment(MLFLOW_TRACKING_URI=registry.url, MLFLOW_DISABLE_TELEMETRY="true"),
        stdout=log, stderr=log, start_new_session=True,
    )  # fmt: skip
    url = f"http://127.0.0.1:{port}"

    def up():
        try:
            return httpx.get(url + "/ping").status_code == 200
        except httpx.TransportError:
            return False

    until(up, "MLflow's model server", 90)
    yield url
    os.killpg(process.pid, signal.SIGTERM)
    process.wait(20)


@pytest.fixture(scope="module")
def front(registry, scorer, mlflow_server, tmp_path_factory):
    server = Gateway(tmp_path_factory.mktemp("server"), SERVER.format(url=registry.url))
    server.predicts("/endpoints/trees/invocations", headers={"Authorization": "Bearer mg-remote-0123456789"})
    config = FRONT.format(
        mlflow=mlflow_server, v2=server.url, own=f"http://127.0.0.1:{scorer.server_port}", gone=free_port()
    )
    child = Gateway(tmp_path_factory.mktemp("front"), config, env={"V2_KEY": "mg-remote-0123456789"})
    child.direct = server
    yield child
    child.stop()
    server.stop()


def predictions(answer):
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-millgate-runtime"] == "remote"
    return answer.json()["predictions"]


def test_mlflows_own_server(front, registry, mlflow_server):
    said = httpx.post(mlflow_server + "/invocations", json=IRIS).json()
    assert {"predictions": predictions(front.post("/predict/mlflow", IRIS))} == said
    csv = registry.frame[:3].to_csv(index=False)
    answer = front.http.post("/predict/mlflow", content=csv, headers={"content-type": "text/csv"})
    assert len(predictions(answer)) == 3
    assert answer.headers["x-millgate-target"] == "mlflow/iris"
    refused = front.post("/predict/mlflow", {"dataframe_split": {"columns": ["a"], "data": [[1]]}})
    assert (refused.status_code, refused.json()["code"]) == (400, "upstream_invalid_request")
    # And by the other protocol.
    client = triton.InferenceServerClient(f"127.0.0.1:{front.port}")
    inputs = []
    for name in COLUMNS:
        column = registry.frame[[name]][:4].to_numpy()
        inputs.append(triton.InferInput(name, [4, 1], "FP64").set_data_from_numpy(column, binary_data=True))
    wanted = [triton.InferRequestedOutput("output-1", binary_data=True)]
    answer = client.infer("by-mlflow", inputs, outputs=wanted).as_numpy("output-1")
    assert answer.ravel().tolist() == registry.sklearn.predict(registry.frame[:4]).tolist()


def test_the_open_inference_protocol(front, registry):
    frame = registry.frame[::15]
    body = {"dataframe_split": {"columns": COLUMNS, "data": frame.values.tolist()}}
    said = registry.trees.predict(frame).tolist()
    assert predictions(front.post("/endpoints/by-v2/invocations", body)) == said
    records = {"dataframe_records": frame.to_dict(orient="records")}
    assert predictions(front.post("/endpoints/by-v2/invocations", records)) == said
    # Between two that speak it, tensors pass as they are. The path names the endpoint, not the server's model.
    client = triton.InferenceServerClient(f"127.0.0.1:{front.port}")
    table = triton.InferInput("rows", list(frame.shape), "FP32")
    table.set_data_from_numpy(frame.to_numpy(numpy.float32), binary_data=True)
    answer = client.infer("by-v2", [table])
    assert answer.as_numpy("output-1").ravel().tolist() == said
    unknown = front.post("/endpoints/unknown/invocations", body)
    assert (unknown.status_code, unknown.json()["code"]) == (404, "upstream_not_found"), unknown.text


def test_an_api_of_its_own(front, scorer):
    answer = front.post("/endpoints/by-own/invocations", {**IRIS, "params": {"k": 1}})
    assert predictions(answer) == [pytest.approx(sum(row)) for row in IRIS["dataframe_split"]["data"]]
    path, body = scorer.seen
    assert path == "/models/sum/score"
    assert body["payload"]["names"] == COLUMNS
    assert (body["settings"], body["note"]) == ({"k": 1}, "$5 a row")
    refused = front.post("/endpoints/by-own/invocations", {"instances": [["a"]]})
    assert refused.status_code == 400
    csv = front.http.post("/endpoints/by-own/invocations", content="a\n1\n", headers={"content-type": "text/csv"})
    assert csv.status_code == 415


def test_a_server_that_is_gone(front):
    answer = front.post("/endpoints/saved/invocations", IRIS)
    assert len(predictions(answer)) == len(IRIS["dataframe_split"]["data"])
    assert answer.headers["x-millgate-attempts"] == "2"
    lost = front.post("/endpoints/lost/invocations", IRIS)
    assert (lost.status_code, lost.json()["code"]) == (502, "upstream_error")
