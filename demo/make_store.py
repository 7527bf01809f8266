"""Makes the demo registry: a small local MLflow store with two gradient-boosted models saved by real MLflow.

    python demo/make_store.py crates/models/demo/store

Needs mlflow 3.17.2, xgboost and scikit-learn. The store is MLflow's file store (`mlruns` layout): plain YAML and
model files, readable in a diff and without a database. MLflow writes absolute `file://` addresses and the
author's user name into it; both are taken out, because Millgate resolves addresses inside a local store by their
last parts.
"""

import os
import pathlib
import re
import shutil
import sys
import tempfile

os.environ["MLFLOW_ALLOW_FILE_STORE"] = "true"

import mlflow  # noqa: E402
import numpy as np  # noqa: E402
import xgboost  # noqa: E402
from mlflow import MlflowClient  # noqa: E402
from mlflow.models import infer_signature  # noqa: E402
from sklearn.datasets import load_diabetes, load_iris  # noqa: E402

PLACE = "file:///demo-store"


def register(client, name, model, frame, stage, alias, description):
    signature = infer_signature(frame, model.predict(frame))
    with mlflow.start_run(run_name=name):
        info = mlflow.xgboost.log_model(
            model, name=name, signature=signature, input_example=frame.head(2), model_format="ubj"
        )
    client.create_registered_model(name, description=description)
    version = client.create_model_version(name, source=info.model_uri, run_id=info.run_id)
    client.transition_model_version_stage(name, version.version, stage)
    client.set_registered_model_alias(name, alias, version.version)


def main(target: pathlib.Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder) / "mlruns"
        mlflow.set_tracking_uri(root.as_uri())
        mlflow.set_registry_uri(root.as_uri())
        client = MlflowClient()
        mlflow.set_experiment("demo")

        data = load_iris(as_frame=True)
        frame = data.data.rename(columns=lambda c: c.replace(" (cm)", "").replace(" ", "_"))
        iris = xgboost.XGBClassifier(n_estimators=8, max_depth=3, n_jobs=1, random_state=0).fit(frame, data.target)
        register(client, "iris", iris, frame, "Production", "champion", "Iris species (0 setosa, 1 versicolor, 2 virginica)")

        data = load_diabetes(as_frame=True, scaled=False)
        frame = data.data.astype(np.float64)
        diabetes = xgboost.XGBRegressor(n_estimators=20, max_depth=3, n_jobs=1, random_state=0).fit(frame, data.target)
        register(client, "diabetes", diabetes, frame, "Staging", "champion", "Disease progression after one year")

        if target.exists():
            shutil.rmtree(target)
        shutil.copytree(root, target, ignore=shutil.ignore_patterns(".trash", "traces", "metrics", "params", "inputs", "tags"))

    for path in sorted(target.rglob("*")):
        if path.is_file() and path.suffix != ".ubj":
            text = path.read_text()
            text = text.replace(root.as_uri(), PLACE).replace(str(root), "/demo-store")
            text = re.sub(r"^(user_id|run_uuid_user): .*$", r"\1: demo", text, flags=re.M)
            path.write_text(text)


def write_list(target: pathlib.Path) -> None:
    """Writes the Rust list of the store's files, for embedding."""
    names = sorted(str(path.relative_to(target)) for path in target.rglob("*") if path.is_file())
    lines = "".join(f'    ("{n}", include_bytes!("../demo/store/{n}")),\n' for n in names)
    text = "//! The demo store's files. Made by `demo/make_store.py`; do not edit.\n\n"
    text += "#[rustfmt::skip]\npub(crate) const FILES: &[(&str, &[u8])] = &[\n" + lines + "];\n"
    (target.parent.parent / "src" / "demo_files.rs").write_text(text)


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
    write_list(pathlib.Path(sys.argv[1]))
