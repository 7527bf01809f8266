"""Saves the models that the benchmark serves, each with a body to ask it with: python bench_model.py FOLDER"""

import json
import pathlib
import sys
import warnings

import mlflow
import numpy as np
import pandas as pd
from mlflow.models import infer_signature
from skl2onnx import to_onnx
from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_iris
from sklearn.ensemble import RandomForestClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

warnings.filterwarnings("ignore")
folder = pathlib.Path(sys.argv[1])
rng = np.random.default_rng(1)
iris = load_iris(as_frame=True)
flowers = iris.data.set_axis(["sepal_length", "sepal_width", "petal_length", "petal_width"], axis=1)
wide = pd.DataFrame(rng.normal(size=(2000, 20)), columns=[f"f{index}" for index in range(20)])
words = [f"word{index}" for index in range(3000)]
texts = pd.DataFrame({"text": [" ".join(rng.choice(words, 60)) for _ in range(1000)]})
kind = (wide["f0"] * wide["f1"] + wide["f2"] > 0).astype(int)


def save(name, model, frame, rows, module=mlflow.sklearn, **options):
    module.save_model(model, str(folder / name), signature=infer_signature(frame), pip_requirements=[], **options)
    table = {"columns": list(frame.columns), "data": frame.iloc[:rows].to_numpy().tolist()}
    (folder / f"{name}.json").write_text(json.dumps({"dataframe_split": table}))


pickled = {"serialization_format": "cloudpickle"}
linear = LogisticRegression(max_iter=500).fit(flowers, iris.target)
save("worker", linear, flowers, 1, **pickled)
scaled = make_pipeline(StandardScaler(), LogisticRegression(max_iter=500)).fit(flowers, iris.target)
save("linear", scaled, flowers, 1, **pickled)
network = make_pipeline(StandardScaler(), MLPClassifier((256, 256, 128), max_iter=20, random_state=1))
save("mlp", network.fit(flowers, iris.target), flowers, 1, **pickled)
forest = RandomForestClassifier(100, random_state=0).fit(wide, kind)
save("forest", forest, wide, 1, **pickled)
save("forest-rows", forest, wide, 1000, **pickled)
vectors = ColumnTransformer([("text", TfidfVectorizer(), "text")])
liked = texts["text"].str.count("1") > texts["text"].str.count("2")
save("text", make_pipeline(vectors, LogisticRegression()).fit(texts, liked.astype(int)), texts, 1, **pickled)
net = MLPRegressor(hidden_layer_sizes=(64, 64), max_iter=20, random_state=0).fit(wide.astype(np.float32).to_numpy(), kind)
save("onnx", to_onnx(net, wide.astype(np.float32).to_numpy()[:1], target_opset=17), wide, 1, module=mlflow.onnx)
