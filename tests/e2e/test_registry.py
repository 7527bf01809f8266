"""Models out of a real registry: promotion, absence, outage."""

import time

import pytest

from conftest import IRIS, Callers, Gateway, Registry, until

CONFIG = """\
version: 1
registries: {{ default: {{ uri: "{url}", poll_interval: 300ms }} }}
endpoints:
  - {{ name: word, type: predict, path: /predict/word, route: "models:/word/Production" }}
  - {{ name: trees, type: predict, path: /predict/trees, route: "models:/trees@champion" }}
  - {{ name: missing, type: predict, path: /predict/missing, route: "models:/NoSuchModel/1" }}
"""
WORD = {"dataframe_split": {"columns": ["text"], "data": [["a"]]}}


@pytest.fixture
def running(gateway, registry):
    return gateway(CONFIG.format(url=registry.url))


def test_a_promotion_under_load_fails_nobody_and_never_goes_back(running, registry):
    assert running.predicts("/predict/word", WORD).json() == {"predictions": ["one"]}

    def call():
        answer = running.post("/predict/word", WORD)
        assert answer.status_code == 200, answer.text
        return time.monotonic(), answer.headers["x-millgate-model-version"], answer.json()["predictions"][0]

    callers = Callers(call)
    time.sleep(1)
    registry.client.transition_model_version_stage("word", "2", "Production", archive_existing_versions=True)
    promoted = time.monotonic()
    try:
        until(lambda: callers.failures or any(seen[1] == "2" for _, seen in callers.seen), "the new version", 60)
        time.sleep(1)
    finally:
        callers.stop()
        registry.client.transition_model_version_stage("word", "1", "Production", archive_existing_versions=True)
    assert not callers.failures, callers.failures[:3]
    for number in range(4):
        versions = [int(seen[1]) for caller, seen in callers.seen if caller == number]
        assert versions == sorted(versions) and set(versions) == {1, 2}
    assert all(word == {"1": "one", "2": "two"}[version] for _, (_, version, word) in callers.seen)
    first = min(at for _, (at, version, _) in callers.seen if version == "2")
    # Poll interval, download and a worker's start; the last is Python's.
    assert first - promoted < 45, first - promoted


def test_a_tree_model_runs_natively_and_answers_as_python_does(running, registry):
    rows = registry.frame.head(50)
    body = {"dataframe_split": {"columns": list(rows.columns), "data": rows.values.tolist()}}
    answer = running.predicts("/predict/trees", body)
    assert answer.headers["x-millgate-runtime"] == "native"
    assert answer.json()["predictions"] == registry.trees.predict(rows).tolist()


def test_a_model_that_is_not_there_is_503_and_says_which(running):
    def told():
        answer = running.post("/predict/missing", IRIS)
        assert answer.status_code == 503
        return answer if "NoSuchModel" in answer.text and answer.headers.get("x-millgate-error") else None

    answer = until(told, "the reason", 20)
    assert "default" in answer.text, answer.text
    # One broken model does not take the others out of service.
    assert running.http.get("/readyz").status_code == 200


def registry_age(running):
    """Seconds since the registry last answered, as the metrics have it."""
    (line,) = [line for line in running.http.get("/metrics").text.splitlines() if line.startswith("millgate_registry_age_seconds{")]
    assert '{registry="default"}' in line, line
    return float(line.split()[-1])


def test_a_registry_that_is_down_at_start_is_503_until_it_is_back(tmp_path, registry):
    first = Registry(registry.folder)
    first.stop()
    child = Gateway(tmp_path / "down", CONFIG.format(url=first.url))
    back = None
    try:
        answer = until(
            lambda: (a := child.post("/predict/trees", IRIS)) and "registry_unavailable" in a.text and a, "a 503", 20
        )
        assert answer.status_code == 503 and answer.headers["x-millgate-error"] == "registry_unavailable"
        back = Registry(registry.folder, first.port)
        back.wait_ready()
        assert child.predicts("/predict/trees").status_code == 200
        assert registry_age(child) < 10
        # Once loaded, an outage changes nothing but the age of what is known.
        back.stop()
        before = registry_age(child)
        until(lambda: registry_age(child) > before + 2, "what is known to grow old", 20)
        assert child.post("/predict/trees", IRIS).status_code == 200
    finally:
        child.stop()
        if back:
            back.stop()


WEBHOOK = """\
version: 1
registries:
  default: {{ uri: "{url}", poll_interval: 1h, webhook_secret: env:HOOK_SECRET }}
endpoints:
  - {{ name: word, type: predict, path: /predict/word, route: "models:/word@told" }}
"""


def test_a_signed_webhook_is_as_good_as_a_poll(gateway, registry):
    registry.client.set_registered_model_alias("word", "told", "1")
    running = gateway(WEBHOOK.format(url=registry.url), env={"HOOK_SECRET": "whsec-canary-0123456789"})
    assert running.predicts("/predict/word", WORD).json() == {"predictions": ["one"]}
    hook = running.url + "/webhooks/mlflow/default"
    created = registry.client.create_webhook(
        "millgate", hook, ["model_version_alias.created"], secret="whsec-canary-0123456789"
    )
    try:
        registry.client.set_registered_model_alias("word", "told", "2")

        def told():
            return running.post("/predict/word", WORD).json() == {"predictions": ["two"]}

        until(told, "the version that the webhook told of", 60)
    finally:
        registry.client.delete_webhook(created.webhook_id)
    unsigned = running.post("/webhooks/mlflow/default", {"entity": "model_version_alias", "action": "created"})
    assert (unsigned.status_code, unsigned.json()["error"]["code"]) == (401, "invalid_api_key")
    assert running.post("/webhooks/mlflow/other", {}).status_code == 404
