"""Models that crash, hang, leak, lie or cannot be loaded, saved by MLflow: neither the gateway nor the other models notice."""

import os
import pathlib
import sys
import time
import zipfile

import cloudpickle
import mlflow
import pandas
import pytest
from mlflow.models import infer_signature

import naughty
from conftest import Callers, Constant, Gateway, until

cloudpickle.register_pickle_by_value(naughty)
WORDS = pandas.DataFrame({"word": ["a"]})
# Models from code that fail while they are imported, by name, and what the status says then.
IMPORTS = {
    "raises": ("raise RuntimeError('not today')", "loading the model raised", "not today"),
    "exits": ("import sys; sys.exit(4)", "the worker died while it loaded the model", "exit status"),
    "forks": ("import os, time\nif os.fork() == 0: time.sleep(1000)\nraise ValueError('forked')", "loading the model raised", "forked"),
    "missing-package": ("import not_to_be_had", "No module named 'not_to_be_had'", "not-to-be-had is missing (wants 1.0)"),
    "sleeps": ("import time; time.sleep(1000)", "", ""),
}
CONFIG = """\
version: 1
models: {{ python: "{python}" }}
endpoints:
  - {{ name: good, type: predict, path: /predict/good, route: "file://{models}/good", serving: {{ timeout: 10s }} }}
  - name: naughty
    type: predict
    path: /predict/naughty
    route: "file://{models}/naughty"
    serving: {{ timeout: 2s, memory_limit: 700MiB, idempotent: false }}
"""
ENDPOINT = '  - {{ name: {name}, type: predict, path: /predict/{name}, route: "file://{models}/{name}" }}\n'


def save_all(models):
    signature = infer_signature(WORDS, ["a"])
    pip = {"pip_requirements": []}
    mlflow.pyfunc.save_model(str(models / "good"), python_model=Constant("fine"), signature=signature, **pip)
    mlflow.pyfunc.save_model(str(models / "naughty"), python_model=naughty.Naughty(), signature=signature, **pip)
    # MLflow runs a model's code when it saves it: the fault is put in afterwards.
    code = models / "code.py"
    code.write_text(
        pathlib.Path(naughty.__file__).read_text() + "\nfrom mlflow.models import set_model\nset_model(Naughty())\n"
    )
    for name, (line, *_) in IMPORTS.items():
        mlflow.pyfunc.save_model(str(models / name), python_model=str(code), signature=signature, **pip)
        (models / name / "code.py").write_text(line + "\n" + code.read_text())
    (models / "missing-package/requirements.txt").write_text("not_to_be_had==1.0\n")
    mlflow.pyfunc.save_model(str(models / "newer"), python_model=Constant("newer"), signature=signature, **pip)
    described = (models / "newer/MLmodel").read_text()
    described = described.replace(f"mlflow_version: {mlflow.__version__}", "mlflow_version: 99.1.0\nfrom_the_future: {a: 1}")
    (models / "newer/MLmodel").write_text(described)
    mlflow.pyfunc.save_model(str(models / "link"), python_model=Constant("link"), signature=signature, **pip)
    (models / "link/data").symlink_to("/etc")
    # A zip whose members climb out, in the place of a model.
    mlflow.pyfunc.save_model(str(models / "archive"), python_model=Constant("x"), signature=signature, **pip)
    described = (models / "archive/MLmodel").read_text().replace("loader_module: mlflow.pyfunc.model", "loader_module: mlflow.sklearn\n    model_path: model.skops")
    described = described.replace("flavors:", "flavors:\n  sklearn: {pickled_model: model.skops, serialization_format: skops, sklearn_version: 1.9.1, skops_trusted_types: null}")
    (models / "archive/MLmodel").write_text(described)
    with zipfile.ZipFile(models / "archive/model.skops", "w") as archive:
        archive.writestr("schema.json", '{"__class__": "system", "__module__": "os", "__loader__": "TypeNode"}')
        archive.writestr("../../../../../tmp/millgate-archive-escape", "out")


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    folder = tmp_path_factory.mktemp("faults")
    models = folder / "models"
    models.mkdir()
    save_all(models)
    config = CONFIG.format(python=sys.executable, models=models)
    for name in [*IMPORTS, "newer", "link", "archive"]:
        config += ENDPOINT.format(name=name, models=models)
    child = Gateway(folder / "gateway", config)
    child.models = models
    child.predicts("/predict/good", says("a"))
    child.predicts("/predict/naughty", says("a"))
    # From here on the good model is asked all the time, and must not notice.
    slowest = [0.0]

    def call():
        began = time.monotonic()
        answer = child.post("/predict/good", says("a"))
        slowest[0] = max(slowest[0], time.monotonic() - began)
        assert answer.json() == {"predictions": ["fine"]}, answer.text
        time.sleep(0.02)

    callers = Callers(call, 1)
    yield child
    callers.stop()
    assert not callers.failures, callers.failures[:3]
    assert len(callers.seen) > 100 and slowest[0] < 5, slowest
    status = child.http.get("/readyz").json()
    good = next(model for model in status["models"] if model["endpoint"] == "good")
    assert (good["state"], good["worker_restarts"]) == ("LIVE", 0), good
    child.stop()
    assert "canary" not in child.out_path.read_text()


def says(*words):
    return {"dataframe_split": {"columns": ["word"], "data": [[word] for word in words]}}


def asked(served, *words):
    answer = served.post("/predict/naughty", says(*words))
    code = answer.headers.get("x-millgate-error")
    return answer.status_code, code, answer


def back(served):
    until(lambda: asked(served, "a")[0] == 200, "the model to be back", 60)


@pytest.mark.parametrize(
    "word, status, code",
    [
        ("exit", 502, "worker_crashed"),
        ("abort", 502, "worker_crashed"),
        ("sleep", 504, "worker_timeout"),
        ("nan", 500, "model_failed"),
        ("inf", 500, "model_failed"),
        ("object", 500, "model_failed"),
        ("raise", 400, "model_rejected_input"),
    ],
)
def test_what_a_model_does_is_answered_for_this_request_alone(served, word, status, code):
    back(served)
    said, named, answer = asked(served, word)
    assert (said, named) == (status, code), answer.text
    assert "canary" not in answer.text and "Traceback" not in answer.text
    back(served)


def test_a_crash_on_the_tenth_row_takes_one_request(served):
    back(served)
    asked(served, "abort", "for a fresh one")
    back(served)
    seen = []
    for _ in range(12):
        seen.append(asked(served, "tenth")[0])
        if seen[-1] != 200:
            break
    assert seen[-1] == 502 and len(seen) > 1, seen
    back(served)
    # All in one request, too.
    assert asked(served, *["tenth"] * 12)[0] == 502
    back(served)


def test_a_gigabyte_is_not_to_be_had(served):
    back(served)
    status, code, answer = asked(served, "leak")
    assert code in ("worker_crashed", "model_failed", "model_rejected_input"), answer.text
    assert status in (400, 500, 502)
    back(served)


def test_two_megabytes_of_print_are_drained(served):
    back(served)
    assert asked(served, "print")[0] == 200
    status, _, answer = asked(served, "short", "short")
    # Alone in its call nobody else gets its rows: the answer is what the model says, as MLflow would pass it on.
    assert (status, answer.json()) == (200, {"predictions": ["only one"]})


def processes(served):
    """What runs in the gateway's tree, by the folder of its workers' privates."""
    found = 0
    for entry in pathlib.Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and str(served.models.parent / "gateway/data/run") in os.readlink(entry / "cwd"):
                found += 1
        except OSError:
            pass
    return found


def test_what_a_model_forks_ends_with_its_worker(served):
    back(served)
    before = processes(served)
    assert asked(served, "fork")[0] in (200, 502)
    asked(served, "abort", "with its children")
    back(served)
    until(lambda: processes(served) <= before + 2, "the forked processes to be gone", 30)


@pytest.mark.parametrize("name", [name for name in IMPORTS if name != "sleeps"])
def test_what_cannot_be_imported_says_why(served, name):
    def told():
        answer = served.post(f"/predict/{name}", says("a"))
        assert answer.status_code == 503, answer.text
        text = answer.json().get("message") or answer.text
        return text if "being loaded" not in text else None

    text = until(told, "the reason", 120)
    for part in IMPORTS[name][1:]:
        assert part in text, text
    assert str(served.models) not in text


def test_a_model_that_never_comes_up_is_being_loaded(served):
    answer = served.post("/predict/sleeps", says("a"))
    assert (answer.status_code, answer.headers["x-millgate-error"]) == (503, "model_unavailable")
    assert answer.headers["retry-after"]


def test_a_model_of_a_newer_mlflow_is_served_where_this_one_can(served):
    answer = served.predicts("/predict/newer", says("a"))
    assert answer.json() == {"predictions": ["newer"]}


def test_hostile_files_are_refused(served):
    def reason(name, word):
        return until(
            lambda: (a := served.post(f"/predict/{name}", says("a"))) and word in a.text and a.text, name, 120
        )

    assert "link" in reason("link", "link")
    reason("archive", "loading the model raised")
    assert not pathlib.Path("/tmp/millgate-archive-escape").exists()
    data = served.models.parent / "gateway/data"
    assert not [path for path in data.rglob("*") if "passwd" in path.name]
