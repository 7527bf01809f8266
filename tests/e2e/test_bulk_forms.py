"""Bulk scoring in the forms that Python's own libraries write and read: Arrow streams, Parquet files, gzip; of models in process,
by ONNX and in workers. And the document of what is served after a promotion."""

import gzip
import io
import json
import sys

import cloudpickle
import jsonschema
import mlflow
import numpy
import onnxruntime
import pandas
import pyarrow
import pyarrow.parquet
import pytest
from mlflow.models import infer_signature
from skl2onnx import to_onnx
from sklearn.neural_network import MLPClassifier

from conftest import COLUMNS, Gateway, until

LINES = "application/x-ndjson"
ARROW = "application/vnd.apache.arrow.stream"
PARQUET = "application/vnd.apache.parquet"
CONFIG = """\
version: 1
registries: {{ default: {{ uri: "{url}", poll_interval: 1s }} }}
endpoints:
  - {{ name: trees, type: predict, route: "models:/trees@champion" }}
  - {{ name: worker, type: predict, route: "models:/IrisClassifier/1", serving: {{ runtime: worker }} }}
  - {{ name: net, type: predict, route: "models:/net/1", serving: {{ runtime: onnx }} }}
  - {{ name: mixed, type: predict, route: "models:/mixed/1" }}
  - {{ name: moving, type: predict, route: "models:/moving@live" }}
"""

# A worker cannot import this file.
cloudpickle.register_pickle_by_value(sys.modules[__name__])


class Mixed(mlflow.pyfunc.PythonModel):
    """Columns of several types out, one of them by params."""

    def predict(self, context, model_input, params=None):
        size = (params or {}).get("size", 1.0)
        when, kind = pandas.to_datetime(model_input["at"]), model_input["kind"]
        return pandas.DataFrame({"day": when.dt.day, "share": model_input["x"] * size, "word": kind.str.upper()})


class Sum(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        return model_input.sum(axis=1).tolist()


def mixed_rows(count):
    at = pandas.date_range("2026-01-01", periods=count, freq="D")
    kind = pandas.Categorical(["ab", "c"] * (count // 2), categories=["c", "ab"])
    return pandas.DataFrame({"x": numpy.arange(count) / 8, "kind": kind, "at": at})


@pytest.fixture(scope="module")
def served(tmp_path_factory, registry):
    mlflow.set_tracking_uri(registry.url)
    mlflow.set_registry_uri(registry.url)
    frame = registry.frame
    inputs = frame.to_numpy("float32")
    net = MLPClassifier((8,), max_iter=300, random_state=1).fit(inputs, registry.sklearn.predict(frame))
    graph = to_onnx(net, inputs[:1], options={"zipmap": False})
    session = onnxruntime.InferenceSession(graph.SerializeToString())
    answers = dict(zip([output.name for output in session.get_outputs()], session.run(None, {"X": inputs})))
    rows = mixed_rows(4)
    plain = rows.assign(kind=rows.kind.astype(str))
    signature = infer_signature(plain, Mixed().predict(None, plain), {"size": 1.0})
    with mlflow.start_run():
        mlflow.onnx.log_model(
            graph, name="net", registered_model_name="net", signature=infer_signature(inputs, answers)
        )
        mlflow.pyfunc.log_model(
            name="mixed", python_model=Mixed(), registered_model_name="mixed", pip_requirements=[], signature=signature,
        )
        for more in ([], ["extra"]):
            table = pandas.DataFrame({name: [1.0] for name in ["a", "b", *more]})
            mlflow.pyfunc.log_model(
                name="moving", python_model=Sum(), registered_model_name="moving", pip_requirements=[],
                signature=infer_signature(table, Sum().predict(None, table)),
            )
    registry.client.set_registered_model_alias("moving", "live", "1")
    child = Gateway(tmp_path_factory.mktemp("bulk"), CONFIG.format(url=registry.url))
    child.inputs, child.answers = inputs, answers

    def live():
        models = {model["endpoint"]: model for model in child.http.get("/readyz").json()["models"]}
        failed = [model for model in models.values() if model["state"] == "FAILED"]
        assert not failed, failed
        return models if all(model["state"] == "LIVE" for model in models.values()) else None

    child.models = until(live, "all models", 120)
    yield child
    child.stop()


def ask(served, name, kind, body, accept=LINES, params=None, **headers):
    query = {"params": json.dumps(params)} if params else None
    return served.http.post(
        f"/endpoints/{name}/invocations", content=body, params=query,
        headers={"content-type": kind, "accept": accept, **headers},
    )


def stream(table):
    sink = pyarrow.BufferOutputStream()
    with pyarrow.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=300)
    return sink.getvalue().to_pybytes()


def parquet(frame, **options):
    sink = io.BytesIO()
    frame.to_parquet(sink, index=False, **options)
    return sink.getvalue()


def read(answer):
    assert (answer.status_code, answer.headers["content-type"]) == (200, ARROW), answer.text
    assert answer.content.endswith(b"\xff\xff\xff\xff\0\0\0\0")
    return pyarrow.ipc.open_stream(answer.content).read_all()


def test_an_onnx_model_scores_rows_of_every_form(served):
    assert served.models["net"]["runtime"] == "onnx", served.models["net"]
    labels = served.answers["label"].tolist()
    lines = "".join(json.dumps(row) + "\n" for row in served.inputs.tolist())
    answer = ask(served, "net", LINES, lines)
    assert answer.status_code == 200, answer.text
    found = [json.loads(line) for line in answer.text.splitlines()]
    assert [row["label"] for row in found] == labels
    lists = pyarrow.array(served.inputs.tolist(), pyarrow.list_(pyarrow.float32(), 4))
    for kind, body in ((LINES, lines), (ARROW, stream(pyarrow.table({"X": lists})))):
        table = read(ask(served, "net", kind, body, ARROW))
        assert table.schema.field("label").type == pyarrow.int64()
        assert table.schema.field("probabilities").type == pyarrow.list_(pyarrow.float32(), 3)
        assert table["label"].to_pylist() == labels
        shares = numpy.array(table["probabilities"].to_pylist(), "float32")
        assert numpy.array_equal(shares, served.answers["probabilities"])


@pytest.mark.parametrize("name", ["trees", "worker"])
@pytest.mark.parametrize("options", [{}, {"compression": "zstd", "row_group_size": 100}, {"compression": "gzip"}])
def test_parquet_files_of_pandas_are_scored(served, registry, name, options):
    model = registry.trees if name == "trees" else registry.sklearn
    labels = [int(label) for label in model.predict(registry.frame)]
    body = parquet(registry.frame, **options)
    answer = ask(served, name, PARQUET, body)
    assert answer.status_code == 200, answer.text
    assert [int(line) for line in answer.text.splitlines()] == labels
    table = read(ask(served, name, PARQUET, body, ARROW))
    assert table.column(0).to_pylist() == labels
    # MLflow's own form, in process too.
    answer = ask(served, name, PARQUET, body, "application/json")
    assert (answer.status_code, answer.json()["predictions"]) == (200, labels)
    assert answer.headers["x-millgate-runtime"] == ("native" if name == "trees" else "worker")
    narrow = parquet(registry.frame[COLUMNS[:3]])
    answer = ask(served, name, PARQUET, narrow, "application/json")
    assert (answer.status_code, answer.headers["x-millgate-error"]) == (400, "schema_mismatch")


def test_columns_keep_their_types_from_end_to_end(served):
    rows = mixed_rows(1500)
    expected = Mixed().predict(None, rows.assign(kind=rows.kind.astype(str)), {"size": 2.0})
    table = pyarrow.Table.from_pandas(rows, preserve_index=False)
    for kind, body in ((ARROW, stream(table)), (PARQUET, parquet(rows))):
        for headers, sent in (({}, body), ({"content-encoding": "gzip"}, gzip.compress(body))):
            found = read(ask(served, "mixed", kind, sent, ARROW, {"size": 2.0}, **headers))
            types = {field.name: str(field.type) for field in found.schema}
            assert types == {"day": "int32", "share": "double", "word": "string"}
            for name in expected:
                assert found[name].to_pylist() == expected[name].tolist(), (kind, name)
    answer = ask(served, "mixed", ARROW, stream(table), params={"size": "much"})
    assert (answer.status_code, answer.headers["x-millgate-error"]) == (400, "schema_mismatch")


def test_a_promotion_is_seen_in_the_document(served, registry):
    def schemas():
        return served.http.get("/openapi.json").json()["components"]["schemas"]

    def fits(body):
        schema = {"$ref": "#/components/schemas/moving.Request", "components": {"schemas": schemas()}}
        return jsonschema.Draft202012Validator(schema).is_valid(body)

    old, new = ({"dataframe_records": [dict.fromkeys(names, 1.5)]} for names in (["a", "b"], ["a", "b", "extra"]))
    before = schemas()
    assert fits(old) and served.post("/endpoints/moving/invocations", old).status_code == 200
    registry.client.set_registered_model_alias("moving", "live", "2")
    until(lambda: served.post("/endpoints/moving/invocations", old).status_code == 400, "the promotion", 60)
    assert not fits(old) and fits(new)
    assert served.post("/endpoints/moving/invocations", new).json()["predictions"] == [4.5]
    assert "extra" in json.dumps(schemas()["moving.Row"]) and "extra" not in json.dumps(before["moving.Row"])
