"""Saves scikit-learn models that nothing but skl2onnx converts: `make_graphs.py FOLDER`. Beside each stands `cases.json`, a list of
`[content type, body, answer]` with the answers of MLflow's own scoring functions."""

import json
import pathlib
import sys
import warnings

import mlflow
import numpy as np
import pandas as pd
from mlflow.models import infer_signature
from mlflow.pyfunc import scoring_server
from sklearn import neighbors, neural_network, svm
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

warnings.filterwarnings("ignore")
target = pathlib.Path(sys.argv[1])
rng = np.random.default_rng(5)
data = pd.DataFrame(rng.normal(size=(200, 4)), columns=list("abcd"))
score = data.to_numpy() @ np.array([1.0, -0.5, 0.25, 2.0]) + np.sin(data.a.to_numpy())
three = pd.qcut(score, 3, labels=False)
words = np.array(["no", "perhaps", "yes"])[three]


def save(name, model, function="predict"):
    folder = target / name
    signature = infer_signature(data, getattr(model, function)(data))
    mlflow.sklearn.save_model(
        model, str(folder), signature=signature, input_example=data[:5], pyfunc_predict_fn=function,
        serialization_format="cloudpickle", pip_requirements=[],
    )
    loaded = mlflow.pyfunc.load_model(str(folder))
    values = json.loads(data[::7].to_json(orient="split", double_precision=15))
    cases = []
    for rows in (values["data"], values["data"][:1]):
        body = json.dumps({"dataframe_split": {"columns": values["columns"], "data": rows}})
        answer = scoring_server.invocations(body.encode(), "application/json", loaded, loaded.metadata.get_input_schema())
        assert answer.status == 200, answer.response
        cases.append(["application/json", body, answer.response])
    (folder / "cases.json").write_text(json.dumps(cases))


save("neighbours", neighbors.KNeighborsClassifier(5).fit(data, three))
save("neighbours-proba", neighbors.KNeighborsClassifier(5).fit(data, words), "predict_proba")
save("vectors", make_pipeline(StandardScaler(), svm.SVC()).fit(data, words))
save("net", neural_network.MLPRegressor(hidden_layer_sizes=(12,), max_iter=400, random_state=2).fit(data, score))
# skl2onnx does not convert it.
save("unknown", neighbors.RadiusNeighborsRegressor(3.0, weights=lambda far: 1 / (1 + far)).fit(data, score))
