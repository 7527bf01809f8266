"""Saves the models that the benchmark serves: python bench_model.py FOLDER. They are FOLDER/linear and FOLDER/mlp."""

import os
import sys
import warnings

import mlflow.sklearn
from mlflow.models import infer_signature
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

warnings.filterwarnings("ignore")
iris = load_iris(as_frame=True)
frame = iris.data.set_axis(["sepal_length", "sepal_width", "petal_length", "petal_width"], axis=1)
for name, model in [
    ("linear", LogisticRegression(max_iter=500)),
    ("mlp", make_pipeline(StandardScaler(), MLPClassifier((256, 256, 128), max_iter=20, random_state=1))),
]:
    model.fit(frame, iris.target)
    signature = infer_signature(frame, model.predict(frame))
    more = {"serialization_format": "cloudpickle"} if name == "mlp" else {}
    mlflow.sklearn.save_model(model, os.path.join(sys.argv[1], name), signature=signature, **more)
