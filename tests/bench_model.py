"""Saves the model that the benchmark serves: python bench_model.py FOLDER"""

import sys

import mlflow.sklearn
from mlflow.models import infer_signature
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression

iris = load_iris(as_frame=True)
frame = iris.data.set_axis(["sepal_length", "sepal_width", "petal_length", "petal_width"], axis=1)
model = LogisticRegression(max_iter=500).fit(frame, iris.target)
mlflow.sklearn.save_model(model, sys.argv[1], signature=infer_signature(frame, model.predict(frame)))
