"""Chains, ensembles and cascades of models that MLflow saved, bulk scoring, and the document of what is served."""

import asyncio
import json
import pathlib
import sys

import aiohttp
import cloudpickle
import jsonschema
import mlflow
import numpy
import pandas
import pyarrow
import pytest
from mlflow.models import infer_signature
from openapi_spec_validator import OpenAPIV31SpecValidator

from conftest import COLUMNS, IRIS, Gateway, until

CONFIG = """\
version: 1
providers: {{ openai: {{ kind: openai, base_url: '{fake}', api_key: env:FAKE_KEY }} }}
registries: {{ default: {{ uri: "{url}" }} }}
endpoints:
  - {{ name: iris, type: predict, path: /predict/iris, route: "models:/IrisClassifier/1" }}
  - {{ name: trees, type: predict, route: "models:/trees@champion" }}
  - {{ name: scaled, type: predict, route: "models:/scale/1" }}
  - {{ name: worker, type: predict, route: "models:/IrisClassifier/1", serving: {{ runtime: worker }} }}
  - name: chain
    type: predict
    route: {{ chain: [ "models:/scale/1", "models:/trees@champion" ] }}
  - name: ensemble
    type: predict
    route: {{ ensemble: {{ of: [ worker, trees, iris ], by: vote }} }}
  - name: cascade
    type: predict
    route: {{ switch: {{ of: trees, cases: [ {{ when: "result == 1", to: worker }} ] }} }}
  - name: explained
    type: predict
    route:
      chain:
        - iris
        - to: openai/ok
          body: {{ messages: [ {{ role: user, content: "These {{{{ rows }}}} flowers are {{{{ result }}}}." }} ] }}
  - name: broken
    type: predict
    route: {{ chain: [ iris, "models:/trees@champion" ] }}
  - {{ name: chat, type: llm/v1/chat, route: openai/ok }}
"""


# A worker cannot import this file.
cloudpickle.register_pickle_by_value(sys.modules[__name__])


class Scale(mlflow.pyfunc.PythonModel):
    """Columns in, columns out."""

    def predict(self, context, model_input, params=None):
        return model_input * 0.5


@pytest.fixture(scope="module")
def served(tmp_path_factory, registry, fake):
    mlflow.set_tracking_uri(registry.url)
    mlflow.set_registry_uri(registry.url)
    frame = registry.frame
    with mlflow.start_run():
        mlflow.pyfunc.log_model(
            name="scale", python_model=Scale(), registered_model_name="scale", pip_requirements=[],
            signature=infer_signature(frame, frame * 0.5),
        )
    child = Gateway(tmp_path_factory.mktemp("graphs"), CONFIG.format(url=registry.url, fake=fake.base))
    for name in ("iris", "trees", "scaled", "worker"):
        child.predicts(f"/endpoints/{name}/invocations")
    yield child
    child.stop()


def predict(served, name, frame):
    body = {"dataframe_split": {"columns": COLUMNS, "data": frame.values.tolist()}}
    answer = served.post(f"/endpoints/{name}/invocations", body)
    assert answer.status_code == 200, answer.text
    return answer.json()["predictions"]


def test_models_put_together_answer_what_python_answers(served, registry, fake):
    frame = registry.frame
    trees = lambda rows: [int(label) for label in registry.trees.predict(rows)]
    linear = [int(label) for label in registry.sklearn.predict(frame)]
    assert predict(served, "chain", frame) == trees(frame * 0.5)
    votes = numpy.array([linear, trees(frame), linear])
    expected = [int(numpy.bincount(column).argmax()) for column in votes.T]
    assert predict(served, "ensemble", frame) == expected
    assert predict(served, "cascade", frame) == [b if a == 1 else a for a, b in zip(trees(frame), linear)]
    fake.forget()
    assert predict(served, "explained", frame[:2]) == ["Hello from the fake provider."]
    said = json.dumps(fake.last()["body"] if "body" in fake.last() else fake.last())
    assert "These 2 flowers are [0, 0]." in said, said


def test_models_that_do_not_go_together_are_told(served):
    answer = served.post("/endpoints/broken/invocations", IRIS)
    assert (answer.status_code, answer.headers["x-millgate-error"]) == (503, "model_unavailable")
    reason = "1 values a row are answered, the model takes 4 columns"
    assert reason in answer.json()["message"]
    (problem,) = served.http.get("/readyz").json()["routes"]
    assert problem["endpoint"] == "broken" and reason in problem["reason"]


def test_the_document_is_valid_and_says_what_the_gateway_does(served):
    document = served.http.get("/openapi.json").json()
    OpenAPIV31SpecValidator(document).validate()
    schemas = document["components"]["schemas"]

    def fits(name, body):
        schema = {"$ref": f"#/components/schemas/{name}", "components": {"schemas": schemas}}
        return jsonschema.Draft202012Validator(schema).is_valid(body)

    row = dict(zip(COLUMNS, [5.1, 3.5, 1.4, 0.2]))
    short = {name: row[name] for name in COLUMNS[:3]}
    for body in (
        IRIS,
        {"dataframe_records": [row]},
        {"instances": [row]},
        {"inputs": {name: [cell] for name, cell in row.items()}},
        {"dataframe_records": [{**row, "sepal_length": 5}]},
        {"dataframe_records": [{**row, "sepal_length": "5"}]},
        {"dataframe_records": [short]},
        {"instances": [[5.1, 3.5, 1.4, 0.2]]},
        {"dataframe_split": {"columns": COLUMNS}},
        {"dataframe_split": IRIS["dataframe_split"], "dataframe_records": [row]},
        {"rows": [row]},
    ):
        for name in ("iris", "worker", "chain"):
            answer = served.post(f"/endpoints/{name}/invocations", body)
            assert (answer.status_code == 200) == fits(f"{name}.Request", body), (name, body, answer.text)
            kind = f"{name}.Answer" if answer.status_code == 200 else "ScoringError"
            assert fits(kind, answer.json()), (name, answer.text)
    assert fits("iris.Row", row) and fits("iris.Row", [5.1, 3.5, 1.4, 0.2]) and not fits("iris.Row", short)
    paths = document["paths"]
    assert {"/predict/iris", "/v2/models/iris/infer", "/v1/messages", "/gateway/chat/invocations"} <= set(paths)


def rss(child):
    status = pathlib.Path(f"/proc/{child.process.pid}/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmRSS"))


def peak(child):
    status = pathlib.Path(f"/proc/{child.process.pid}/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM"))


async def bulk(served, name, pieces):
    """Sends pieces while it reads; gives the lines and whether the body ended properly."""
    headers = {"Content-Type": "application/x-ndjson"}
    timeout = aiohttp.ClientTimeout(total=300)
    lines, whole, rest = [], True, b""
    async with aiohttp.ClientSession(timeout=timeout) as session:
        url = f"{served.url}/endpoints/{name}/invocations"
        async with session.post(url, data=pieces, headers=headers) as answer:
            assert answer.status == 200, await answer.text()
            try:
                async for chunk in answer.content.iter_any():
                    *done, rest = (rest + chunk).split(b"\n")
                    lines.extend(done)
            except aiohttp.ClientError:
                whole = False
    return lines, whole


@pytest.mark.parametrize(("name", "rows"), [("iris", 20_000), ("worker", 20_000), ("chain", 5_000)])
def test_rows_of_every_runtime_are_answered_in_order(served, registry, name, rows):
    frame = pandas.concat([registry.frame] * (rows // len(registry.frame) + 1))[:rows]
    records = [json.dumps(record) + "\n" for record in frame.to_dict("records")]

    async def pieces():
        for start in range(0, rows, 777):
            yield "".join(records[start:start + 777]).encode()

    lines, whole = asyncio.run(bulk(served, name, pieces()))
    rows_of = frame * 0.5 if name == "chain" else frame
    model = registry.trees if name == "chain" else registry.sklearn
    assert whole and [int(line) for line in lines] == [int(label) for label in model.predict(rows_of)]


@pytest.mark.parametrize("name", ["iris", "worker"])
def test_arrow_streams_are_answered_row_by_row(served, registry, name):
    frame = pandas.concat([registry.frame] * 20)
    table = pyarrow.Table.from_pandas(frame, preserve_index=False)
    sink = pyarrow.BufferOutputStream()
    with pyarrow.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=700)
    headers = {"Content-Type": "application/vnd.apache.arrow.stream"}
    path = f"/endpoints/{name}/invocations"
    answer = served.http.post(path, content=sink.getvalue().to_pybytes(), headers=headers)
    assert answer.status_code == 200, answer.text
    assert [int(line) for line in answer.text.splitlines()] == [int(one) for one in registry.sklearn.predict(frame)]
    answer = served.http.post(path, content=sink.getvalue().to_pybytes()[:-200], headers=headers)
    assert (answer.status_code, answer.headers["x-millgate-error"]) == (400, "bad_encoding"), answer.text


def test_a_million_rows_take_no_more_memory_than_some(served):
    """About 70 MB in and 2 MB out; held whole, rows alone would be several hundred MB."""
    row = b'{"sepal_length": 6.7, "sepal_width": 3.0, "petal_length": 5.2, "petal_width": 2.3}\n'
    before = rss(served)
    pathlib.Path(f"/proc/{served.process.pid}/clear_refs").write_text("5")

    async def pieces(count):
        for _ in range(count // 1000):
            yield row * 1000

    lines, whole = asyncio.run(bulk(served, "iris", pieces(1_000_000)))
    grown = peak(served) - before
    print(f"peak {grown / 1e6:.1f} MB over {before / 1e6:.1f} MB")
    assert whole and len(lines) == 1_000_000 and set(lines) == {b"2"}
    assert grown < 48e6, grown


def test_an_error_behind_the_first_rows_is_the_last_line_of_a_broken_body(served):
    row = json.dumps(dict(zip(COLUMNS, [5.1, 3.5, 1.4, 0.2]))).encode() + b"\n"

    async def pieces():
        for _ in range(700):
            yield row * 1000
        yield b'{"sepal_length": "x"}\n'
        yield row

    lines, whole = asyncio.run(bulk(served, "iris", pieces()))
    error = json.loads(lines[-1])["error"]
    assert not whole and len(lines) > 500_000
    assert error["code"] == "schema_mismatch" and "row 700000" in error["message"]

    def logged():
        lines = [json.loads(line) for line in served.log.splitlines() if '"schema_mismatch"' in line]
        return next((line for line in lines if line.get("stream")), None)

    entry = until(logged, "the access log")
    assert entry["rows"] >= 690_000 and {hop["outcome"] for hop in entry["hops"]} == {"completed", "failed"}
