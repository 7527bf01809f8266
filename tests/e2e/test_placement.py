"""Where workers run: cores, devices, their place behind the gateway's, and times of the week."""

import datetime
import sys

import cloudpickle
import mlflow
import pandas
import pytest
from mlflow.models import infer_signature

from conftest import until

CONFIG = """\
version: 1
registries: {{ default: {{ uri: "{url}", poll_interval: 300ms }} }}
models: {{ instance_classes: {{ small: {{ cpus: 1, threads: 1 }}, gpu: {{ device: "cuda:1" }} }} }}
endpoints:
  - {{ name: small, type: predict, route: models:/whereabouts/1, serving: {{ instance_class: small }} }}
  - {{ name: gpu, type: predict, route: models:/whereabouts/1, serving: {{ instance_class: gpu }} }}
  - name: scheduled
    type: predict
    route: models:/whereabouts/1
    serving: {{ instances: {{ min: 0, max: 2, schedule: [ {{ from: "{start}", to: "{end}", min: 2 }} ] }}, idle_timeout: 1s }}
  - {{ name: trees, type: predict, route: models:/trees/1, serving: {{ device: cuda }} }}
"""


# A worker cannot import this file.
cloudpickle.register_pickle_by_value(sys.modules[__name__])


class Whereabouts(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        import os

        told = (len(os.sched_getaffinity(0)), os.environ.get("CUDA_VISIBLE_DEVICES"), os.nice(0))
        return [str(told)] * len(model_input)


@pytest.fixture(scope="module")
def whereabouts(registry):
    text = pandas.DataFrame({"text": ["a"]})
    with mlflow.start_run():
        mlflow.pyfunc.log_model(
            name="whereabouts", python_model=Whereabouts(), registered_model_name="whereabouts",
            signature=infer_signature(text, ["x"]), pip_requirements=[],
        )


def test_workers_are_where_the_configuration_puts_them(gateway, registry, whereabouts):
    now = datetime.datetime.now(datetime.timezone.utc)
    hour = datetime.timedelta(hours=1)
    start, end = (f"{time:%H:%M}" for time in (now - hour, now + hour))
    running = gateway(CONFIG.format(url=registry.url, start=start, end=end))
    body = {"dataframe_split": {"columns": ["text"], "data": [["a"]]}}
    told = lambda name: running.predicts(f"/endpoints/{name}/invocations", body).json()["predictions"]  # noqa: E731
    assert told("small") == ["(1, '', 5)"]
    assert told("gpu")[0].split(", ")[1:] == ["'1'", "5)"]
    # The schedule holds now: two are there though nobody asks.
    status = lambda name: running.http.get(f"/admin/v1/deployments/{name}").json()  # noqa: E731
    until(lambda: status("scheduled")["workers_ready"] == 2, "the scheduled workers")
    until(lambda: status("trees")["state"] == "LIVE", "the trees")
    trees = status("trees")
    assert (trees["runtime"], trees["runtime_reason"]) == ("worker", "a GPU is configured (`device`)")

    outside = CONFIG.format(url=registry.url, start=f"{now + 2 * hour:%H:%M}", end=f"{now + 3 * hour:%H:%M}")
    running.config.write_text(outside)
    until(lambda: status("scheduled")["workers_wanted"] == 0, "the last worker to leave", 90)
