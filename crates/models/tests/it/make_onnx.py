"""Saves ONNX models: `make_onnx.py FOLDER`. Beside each stands `cases.json` with the answers of MLflow's own scoring
functions."""

import json
import pathlib
import sys
import warnings

import mlflow
import numpy as np
import onnx
import pandas as pd
from mlflow.models import infer_signature
from mlflow.pyfunc import scoring_server
from onnx import TensorProto, helper
from skl2onnx import to_onnx
from sklearn.ensemble import RandomForestRegressor
from sklearn.neural_network import MLPClassifier, MLPRegressor

warnings.filterwarnings("ignore")
target = pathlib.Path(sys.argv[1])
rng = np.random.default_rng(2)
frame = pd.DataFrame(rng.normal(size=(200, 4)), columns=list("abcd"))
narrow = frame.astype(np.float32)
score = frame["a"] * frame["b"] + frame["c"]
words = np.where(score > 0, "up", "döwn")
three = pd.qcut(score, 3, labels=False)


def save(name, graph, given):
    folder = target / name
    mlflow.onnx.save_model(graph, str(folder), signature=infer_signature(given), pip_requirements=[])
    loaded = mlflow.pyfunc.load_model(str(folder))
    schema = loaded.metadata.get_input_schema()
    rows = (given.to_numpy() if hasattr(given, "columns") else given)[:30].tolist()
    if hasattr(given, "columns"):
        names = list(given.columns)
        bodies = [{"dataframe_split": {"columns": names, "data": part}} for part in (rows, rows[:1])]
        bodies.append({"dataframe_records": [dict(zip(names, row)) for row in rows[:3]]})
        bodies.append({"inputs": {name: [row[index] for row in rows] for index, name in enumerate(names)}})
    else:
        bodies = [{"inputs": rows}, {"instances": rows[:1]}]
    cases = []
    for body in map(json.dumps, bodies):
        answer = scoring_server.invocations(body.encode(), "application/json", loaded, schema)
        assert answer.status == 200, (name, answer.response)
        cases.append(["application/json", body, answer.response])
    (folder / "cases.json").write_text(json.dumps(cases))


def graph(model, zipmap=True):
    options = None if zipmap else {id(model): {"zipmap": False}}
    return to_onnx(model, narrow.to_numpy()[:1], options=options, target_opset=17)


small = {"hidden_layer_sizes": (8,), "max_iter": 60, "random_state": 0}
classifier = MLPClassifier(**small).fit(narrow.to_numpy(), three)
save("net-array", graph(classifier, zipmap=False), narrow.to_numpy())
texts = MLPClassifier(**small).fit(narrow.to_numpy(), words)
save("net-words", graph(texts, zipmap=False), frame.to_numpy())
save("net-frame", graph(MLPRegressor(**small).fit(narrow.to_numpy(), score)), frame)
save("forest-frame", graph(RandomForestRegressor(10, random_state=0).fit(narrow.to_numpy(), score)), narrow)
wide = helper.make_graph(
    [helper.make_node("Add", ["x", "x"], ["sum"]), helper.make_node("Greater", ["x", "sum"], ["more"])],
    "wide",
    [helper.make_tensor_value_info("x", TensorProto.INT64, [None, 2])],
    [
        helper.make_tensor_value_info("sum", TensorProto.INT64, [None, 2]),
        helper.make_tensor_value_info("more", TensorProto.BOOL, [None, 2]),
    ],
)
made = helper.make_model(wide, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
save("integers", made, pd.DataFrame({"p": np.arange(-5, 5), "q": np.arange(10) ** 3}))
# Weights in a file of their own: left to a worker.
weights = helper.make_tensor("w", TensorProto.FLOAT, [4, 300], np.ones(1200, dtype=np.float32).tobytes(), raw=True)
outside = helper.make_graph(
    [helper.make_node("MatMul", ["x", "w"], ["y"])],
    "outside",
    [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, 4])],
    [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, 300])],
    [weights],
)
made = helper.make_model(outside, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
place = target / "outside.onnx"
onnx.save_model(made, str(place), save_as_external_data=True, size_threshold=0, location="weights.bin")
options = {"save_as_external_data": True, "pip_requirements": []}
mlflow.onnx.save_model(onnx.load(str(place)), str(target / "outside"), signature=infer_signature(narrow.to_numpy()), **options)
place.unlink()
(target / "weights.bin").unlink()
