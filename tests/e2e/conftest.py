"""The gateway as its users have it: real processes, a real MLflow, real client libraries."""

import base64
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import threading
import time

import cloudpickle
import httpx
import mlflow
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
GATEWAY = pathlib.Path(os.environ.get("MILLGATE_BIN", ROOT / "target/debug/millgate"))
FAKE = pathlib.Path(os.environ.get("FAKE_PROVIDER_BIN", ROOT / "target/debug/fake-provider"))
VENV_BIN = str(pathlib.Path(sys.executable).parent)
PROVIDER_KEY = "sk-canary-provider-4e1f00aa7755"
COLUMNS = ["sepal_length", "sepal_width", "petal_length", "petal_width"]
ROWS = [[5.1, 3.5, 1.4, 0.2], [6.7, 3.0, 5.2, 2.3]]
IRIS = {"dataframe_split": {"columns": COLUMNS, "data": ROWS}}


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def until(condition, what, seconds=60):
    """Polls until the condition gives something true, and gives that."""
    end = time.monotonic() + seconds
    last = None
    while time.monotonic() < end:
        try:
            last = condition()
            if last:
                return last
        except httpx.TransportError as error:
            last = error
        time.sleep(0.05)
    raise AssertionError(f"still waiting: {what}; last seen: {last!r}")


def environment(**more):
    """No proxy, no real keys, the tests' Python first."""
    kept = {k: v for k, v in os.environ.items() if not k.endswith("_API_KEY") and "proxy" not in k.lower()}
    kept["PATH"] = VENV_BIN + os.pathsep + kept.get("PATH", "")
    kept.update(more)
    return kept


class Child:
    """A child process whose output is kept."""

    def __init__(self, arguments, folder, name, **kwargs):
        folder.mkdir(parents=True, exist_ok=True)
        self.out_path = folder / f"{name}.out"
        self.err_path = folder / f"{name}.err"
        with open(self.out_path, "wb") as out, open(self.err_path, "wb") as err:
            self.process = subprocess.Popen(
                [str(a) for a in arguments], stdin=subprocess.DEVNULL, stdout=out, stderr=err, **kwargs
            )

    @property
    def log(self):
        return self.out_path.read_text() + self.err_path.read_text()

    def signal(self, number):
        self.process.send_signal(number)

    def wait(self, seconds=30):
        return self.process.wait(seconds)

    def stop(self):
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


class Gateway(Child):
    """`millgate start`, or another of its commands that serve."""

    def __init__(self, folder, config=None, arguments=None, env=None, name="gateway"):
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.config = folder / "millgate.yaml"
        if config is not None:
            folder.mkdir(parents=True, exist_ok=True)
            self.config.write_text(config)
            arguments = ["start", "--config-path", self.config, "--data-dir", folder / "data"]
        super().__init__(
            [GATEWAY, *arguments, "--port", self.port],
            folder,
            name,
            env=environment(FAKE_KEY=PROVIDER_KEY, **(env or {})),
        )
        self.http = httpx.Client(base_url=self.url, timeout=60)
        until(self.alive, "the gateway to start")

    def alive(self):
        assert self.process.poll() is None, self.log
        return self.http.get("/health").status_code == 200

    def post(self, path, body, **kwargs):
        return self.http.post(path, json=body, **kwargs)

    def predicts(self, path, body=None, seconds=120, **more):
        """Waits for the model behind a path and gives the answer."""

        def ready():
            answer = self.post(path, body or IRIS, **more)
            assert answer.status_code in (200, 503), answer.text
            return answer if answer.status_code == 200 else None

        return until(ready, f"the model at {path}", seconds)


class Issuer(Child):
    """A small OpenID provider; see the test kit's `fake-issuer`."""

    def __init__(self, folder):
        super().__init__([FAKE.with_name("fake-issuer")], folder, "issuer")
        line = until(lambda: self.out_path.read_text(), "the issuer to start")
        self.url = f"http://127.0.0.1:{json.loads(line.splitlines()[0])['port']}"
        self.http = httpx.Client(base_url=self.url)

    def tell(self, what, **body):
        return self.http.post(f"/__{what}", json=body).json()

    def token(self, kind="good", **claims):
        return self.tell("token", kind=kind, claims=claims)["token"]


class Fake(Child):
    """The fake provider; the model's name says how it behaves."""

    def __init__(self, folder):
        super().__init__([FAKE], folder, "fake")
        line = until(lambda: self.out_path.read_text().partition("\n")[0], "the fake provider")
        self.url = f"http://127.0.0.1:{json.loads(line)['port']}"
        self.base = self.url + "/v1"

    def requests(self):
        return httpx.get(self.url + "/__requests").json()

    def last(self):
        return self.requests()[-1]

    def forget(self):
        httpx.delete(self.url + "/__requests")


class Registry(Child):
    """A real MLflow tracking server."""

    def __init__(self, folder, port=None):
        self.folder = folder
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        super().__init__(
            [
                sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", self.port,
                "--backend-store-uri", f"sqlite:///{folder}/mlflow.db",
                "--artifacts-destination", f"{folder}/artifacts", "--workers", "1",
            ],
            folder,
            f"mlflow-{self.port}",
            env=environment(
                MLFLOW_DISABLE_TELEMETRY="true",
                MLFLOW_WEBHOOK_ALLOWED_SCHEMES="http",
                MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS="true",
                MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY=base64.urlsafe_b64encode(bytes(32)).decode(),
                MLFLOW_WEBHOOK_CACHE_TTL="1",
            ),
            start_new_session=True,
        )

    def wait_ready(self):
        until(lambda: httpx.get(self.url + "/health").status_code == 200, "the MLflow server", 90)

    def stop(self):
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGTERM)
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()


# A worker cannot import this file.
cloudpickle.register_pickle_by_value(sys.modules[__name__])


class Constant(mlflow.pyfunc.PythonModel):
    """Tells its version."""

    def __init__(self, word):
        self.word = word

    def predict(self, context, model_input, params=None):
        return [self.word] * len(model_input)


@pytest.fixture(scope="session")
def fake(tmp_path_factory):
    child = Fake(tmp_path_factory.mktemp("fake"))
    yield child
    child.stop()


@pytest.fixture(scope="session")
def registry(tmp_path_factory):
    """A tracking server with IrisClassifier (sklearn, Production), trees (XGBoost, @champion), word (pyfunc)."""
    import pandas
    from mlflow.models import infer_signature
    from sklearn.datasets import load_iris
    from sklearn.linear_model import LogisticRegression
    from xgboost import XGBClassifier

    server = Registry(tmp_path_factory.mktemp("registry"))
    server.wait_ready()
    mlflow.set_tracking_uri(server.url)
    mlflow.set_registry_uri(server.url)
    client = mlflow.MlflowClient()
    iris = load_iris(as_frame=True)
    frame = iris.data.set_axis(COLUMNS, axis=1)
    server.frame = frame
    server.sklearn = LogisticRegression(max_iter=500).fit(frame, iris.target)
    server.trees = XGBClassifier(n_estimators=8, max_depth=3).fit(frame, iris.target)
    signature = infer_signature(frame, server.sklearn.predict(frame))
    with mlflow.start_run():
        mlflow.sklearn.log_model(
            server.sklearn, name="model", signature=signature, input_example=frame.head(2),
            registered_model_name="IrisClassifier",
        )
        mlflow.xgboost.log_model(server.trees, name="trees", signature=signature, registered_model_name="trees")
        text = pandas.DataFrame({"text": ["a"]})
        for word in ("one", "two"):
            mlflow.pyfunc.log_model(
                name=f"word-{word}", python_model=Constant(word), registered_model_name="word",
                signature=infer_signature(text, ["x"]), pip_requirements=[],
            )
    client.transition_model_version_stage("IrisClassifier", "1", "Production")
    client.set_registered_model_alias("trees", "champion", "1")
    client.transition_model_version_stage("word", "1", "Production")
    server.client = client
    yield server
    server.stop()


@pytest.fixture
def gateway(tmp_path, registry):
    """Starts gateways with a configuration; all are stopped, and no secret may stand in their logs."""
    started = []

    def start(config=None, **kwargs):
        folder = tmp_path / f"gateway-{len(started)}"
        env = {"MLFLOW_TRACKING_URI": registry.url, **kwargs.pop("env", {})}
        child = Gateway(folder, config, env=env, **kwargs)
        started.append(child)
        return child

    yield start
    for child in started:
        child.stop()
        assert "canary" not in child.log, "a secret stands in the log"


@pytest.fixture(scope="session")
def llm(tmp_path_factory, fake):
    """A gateway in front of the fake provider, spoken to by every kind of client."""
    models = ["ok", "tool", "reasoning", "json", "status-429-retry-1", "status-500", "cut-stream"]
    # Tests share it: what one of them has fail is not held against the next.
    sent = "breaker: { enabled: false }, pacing: off, retries: { attempts: 0 }"
    lines = [
        "version: 1",
        "providers:",
        f"  openai: {{ kind: openai, base_url: '{fake.base}', api_key: env:FAKE_KEY, {sent} }}",
        f"  claude: {{ kind: anthropic, base_url: '{fake.base}', api_key: env:FAKE_KEY, {sent} }}",
        f"  gemini: {{ kind: gemini, base_url: '{fake.base}', api_key: env:FAKE_KEY, {sent} }}",
        "endpoints:",
        "  - { name: embeddings, type: llm/v1/embeddings, route: openai/ok }",
        "  - { name: vectors, type: llm/v1/embeddings, route: gemini/ok }",
        "  - { name: completions, type: llm/v1/completions, route: openai/ok }",
    ]
    for prefix, provider in (("", "openai"), ("claude-", "claude"), ("gemini-", "gemini")):
        lines.append(f"  - {{ name: {prefix}slow, type: llm/v1/chat, route: {provider}/chunks-20-100ms }}")
    for model in models:
        lines.append(f"  - {{ name: {model}, type: llm/v1/chat, route: openai/{model} }}")
        lines.append(f"  - {{ name: claude-{model}, type: llm/v1/chat, route: claude/{model} }}")
        lines.append(f"  - {{ name: gemini-{model}, type: llm/v1/chat, route: gemini/{model} }}")
    lines.append(
        "access: { keys: required, static: [ { name: tests, key: mg-canary-caller-77aa01 } ] }"
    )
    child = Gateway(tmp_path_factory.mktemp("llm"), "\n".join(lines) + "\n")
    child.key = "mg-canary-caller-77aa01"
    yield child
    child.stop()
    assert "canary" not in child.log, "a secret stands in the log"


OBSERVED = ROOT / "docs/reference/runtimes.json"


def observed(section, rows):
    """Holds what a test saw of runtimes against what the reference says; `UPDATE=1` writes it there."""
    known = json.loads(OBSERVED.read_text())
    rows = sorted(rows, key=lambda row: row["model"])
    if os.environ.get("UPDATE"):
        known[section] = rows
        OBSERVED.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n")
        return
    if not os.environ.get("CI"):
        # A machine may lack a flavour's packages.
        names = {row["model"] for row in rows}
        known[section] = [row for row in known.get(section, []) if row["model"] in names]
    assert known.get(section) == rows, "UPDATE=1 writes docs/reference/runtimes.json, then `cargo xtask gen`"


class Callers:
    """Threads that call until they are stopped, and what they saw."""

    def __init__(self, call, count=4):
        self.seen = []
        self.failures = []
        self.stopping = threading.Event()
        self.threads = [threading.Thread(target=self.run, args=(call, n), daemon=True) for n in range(count)]
        for thread in self.threads:
            thread.start()

    def run(self, call, number):
        while not self.stopping.is_set():
            try:
                self.seen.append((number, call()))
            except Exception as error:  # noqa: BLE001
                self.failures.append(error)

    def stop(self):
        self.stopping.set()
        for thread in self.threads:
            thread.join(30)
