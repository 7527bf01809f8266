"""Logs and registers models against a running tracking server: `make_real.py URI`. Prints the answers that MLflow's
own scoring functions give to the test's body, one JSON line per model."""

import json
import sys

import mlflow
import pandas as pd
from mlflow import MlflowClient
from mlflow.models import infer_signature
from mlflow.pyfunc import scoring_server
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

uri, body = sys.argv[1:]
mlflow.set_tracking_uri(uri)
client = MlflowClient()
data = load_iris(as_frame=True)
frame = data.data.set_axis(["a", "b", "c", "d"], axis=1)
client.create_registered_model("pipeline")
for target in (data.target, 2 - data.target):
    model = make_pipeline(StandardScaler(), LogisticRegression()).fit(frame, target)
    with mlflow.start_run():
        info = mlflow.sklearn.log_model(
            model,
            name="pipeline",
            signature=infer_signature(frame, target),
            input_example=frame.head(2),
            serialization_format="cloudpickle",
        )
    version = client.create_model_version("pipeline", source=info.model_uri, run_id=info.run_id, model_id=info.model_id)
    loaded = mlflow.pyfunc.load_model(info.model_uri)
    answer = scoring_server.invocations(
        body.encode(), "application/json", loaded, loaded.metadata.get_input_schema()
    )
    print(json.dumps([info.model_id, answer.response, info.run_id]), flush=True)
client.set_registered_model_alias("pipeline", "champion", "1")
client.transition_model_version_stage("pipeline", "1", "Production")
