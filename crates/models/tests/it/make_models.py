"""Saves a model of each flavour that this interpreter has: `make_models.py FOLDER`. Prints a JSON line for each: its name and
the answers that MLflow's own scoring functions give to each body."""

import json
import os
import sys
import warnings

warnings.filterwarnings("ignore")
os.environ["MLFLOW_ALLOW_MODEL_CODE_EXECUTION"] = "true"

import lightgbm
import mlflow
import numpy
import pandas
import xgboost
from mlflow.models import infer_signature
from mlflow.pyfunc import scoring_server
from sklearn.compose import make_column_transformer
from sklearn.datasets import load_diabetes, load_iris
from sklearn.ensemble import GradientBoostingRegressor, RandomForestClassifier
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.multioutput import MultiOutputRegressor
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

(folder,) = sys.argv[1:]
iris = load_iris(as_frame=True)
frame = iris.data.set_axis(["a", "b", "c", "d"], axis=1)
names = numpy.array(["setosa", "versicolor", "virginica"])[iris.target]
mixed = pandas.DataFrame(
    {
        "colour": ["red", "green", "blue"] * 50,
        "size": frame["a"].astype("float32"),
        "count": numpy.arange(150, dtype="int64"),
        "small": numpy.arange(150, dtype="int32"),
        "flag": [True, False] * 75,
        "price": frame["b"],
    }
)
encode = make_column_transformer(
    (OneHotEncoder(handle_unknown="ignore"), ["colour"]), remainder="passthrough"
)
diabetes = load_diabetes(as_frame=True)


def tensor():
    class Net:
        pass

    import torch

    torch.manual_seed(1)
    return torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.ReLU(), torch.nn.Linear(16, 3))


def save(name, save_model, model, data, answer, **more):
    path = os.path.join(folder, name)
    save_model(model, path, signature=infer_signature(data, answer), **more)
    loaded = mlflow.pyfunc.load_model(path)
    bodies = []
    if isinstance(data, pandas.DataFrame):
        for rows in (data.head(1), data.iloc[40:47], data.iloc[[3]]):
            bodies.append({"dataframe_split": json.loads(rows.to_json(orient="split", index=False))})
        bodies.append({"dataframe_records": json.loads(data.iloc[60:62].to_json(orient="records"))})
        bodies.append({"inputs": json.loads(data.iloc[90:93].to_json(orient="list") if False else json.dumps(data.iloc[90:93].to_dict(orient="list")))})
    else:
        bodies += [{"inputs": data[:1].tolist()}, {"instances": data[5:9].tolist()}]
    answers = []
    for body in bodies:
        body = json.dumps(body)
        answer = scoring_server.invocations(
            body.encode(), "application/json", loaded, loaded.metadata.get_input_schema()
        )
        answers.append([body, answer.response])
    print(json.dumps([name, answers]), flush=True)


pickle = {"serialization_format": "cloudpickle"}
for name, model, data, target, more in [
    ("pipeline", make_pipeline(StandardScaler(), LogisticRegression()), frame, iris.target, {}),
    ("labels", LogisticRegression(max_iter=500), frame, names, {}),
    ("probabilities", LogisticRegression(max_iter=500), frame, iris.target, {"pyfunc_predict_fn": "predict_proba"}),
    ("forest", RandomForestClassifier(n_estimators=20, random_state=1), frame, iris.target, {}),
    ("boosting", GradientBoostingRegressor(n_estimators=20), diabetes.data, diabetes.target, {}),
    ("linear", LinearRegression(), diabetes.data, diabetes.target, {}),
    ("several", MultiOutputRegressor(LinearRegression()), frame, frame[["a", "b"]].to_numpy(), {}),
    ("mixed", make_pipeline(encode, RandomForestClassifier(n_estimators=10, random_state=1)), mixed, iris.target, {}),
    ("mlp", MLPClassifier((32,), max_iter=30, random_state=1), frame, iris.target, {}),
]:
    model.fit(data, target)
    save(name, mlflow.sklearn.save_model, model, data, model.predict(data), **pickle, **more)
arrays = LogisticRegression(max_iter=500).fit(frame.to_numpy(), iris.target)
save("matrix", mlflow.sklearn.save_model, arrays, frame.to_numpy(), iris.target.to_numpy(), **pickle)
classes = xgboost.XGBClassifier(n_estimators=10).fit(frame, iris.target)
save("xgb", mlflow.xgboost.save_model, classes, frame, classes.predict(frame))
booster = xgboost.train({"objective": "multi:softprob", "num_class": 3}, xgboost.DMatrix(frame, iris.target), 5)
save("booster", mlflow.xgboost.save_model, booster, frame, booster.predict(xgboost.DMatrix(frame)))
lgb = lightgbm.LGBMClassifier(n_estimators=10, verbose=-1).fit(frame, iris.target)
save("lgb", mlflow.lightgbm.save_model, lgb, frame, lgb.predict(frame), **pickle)
rounds = lightgbm.train({"objective": "regression", "verbose": -1}, lightgbm.Dataset(frame, iris.target), 10)
save("rounds", mlflow.lightgbm.save_model, rounds, frame, rounds.predict(frame))
try:
    import onnx  # noqa: F401
    import onnxruntime  # noqa: F401
    import skl2onnx

    initial = [("x", skl2onnx.common.data_types.FloatTensorType([None, 4]))]
    graph = skl2onnx.convert_sklearn(arrays, initial_types=initial, options={"zipmap": False})
    save("onnx", mlflow.onnx.save_model, graph, frame.to_numpy().astype("float32"), iris.target.to_numpy())
except ImportError:
    pass
try:
    net = tensor()
    import torch

    data = frame.to_numpy().astype("float32")
    save("torch", mlflow.pytorch.save_model, net, data, net(torch.tensor(data)).detach().numpy(), serialization_format="pickle")
except ImportError:
    pass
