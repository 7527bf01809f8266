"""The two files that started this project, as they were written."""

import httpx
import pytest
from mlflow.deployments import get_deploy_client

from conftest import IRIS, PROVIDER_KEY, ROWS

ARTICLE = """\
routes:
  - name: iris-classifier-prod
    route_type: mlflow-model
    model:
      name: IrisClassifier
      stage: Production
    endpoint: /predict/iris
"""

OPENAI = """\
routes:
  - name: openai-chat-route
    route_type: llm/v1/chat
    model:
      provider: openai
      name: ok
      openai_config:
        openai_api_key: "{{ ENV_OPENAI_API_KEY }}"
        openai_api_base: "FAKE"
    endpoint: /llm/openai/chat
    rate_limit:
      calls: 10
      period: 60s
"""


def test_the_registry_model_is_served_at_its_path(gateway, registry):
    answer = gateway(ARTICLE).predicts("/predict/iris")
    assert answer.json() == {"predictions": [0, 2]}
    assert answer.headers["x-millgate-model-version"] == "1"


def test_the_chat_route_calls_the_provider_and_limits_its_callers(gateway, fake):
    running = gateway(OPENAI.replace("FAKE", fake.base), env={"ENV_OPENAI_API_KEY": PROVIDER_KEY})
    fake.forget()
    chat = {"messages": [{"role": "user", "content": "Hello"}]}
    answers = [running.post("/llm/openai/chat", chat) for _ in range(12)]
    assert [a.status_code for a in answers] == [200] * 10 + [429] * 2
    assert 1 <= int(answers[-1].headers["retry-after"]) <= 60
    assert answers[-1].json()["error"]["code"] == "rate_limit_exceeded"
    assert answers[0].json()["choices"][0]["message"]["content"] == "Hello from the fake provider."
    assert dict(fake.last()["headers"])["authorization"] == f"Bearer {PROVIDER_KEY}"
    assert len(fake.requests()) == 10


def test_mlflows_deployment_client_works(gateway, fake):
    text = OPENAI.replace("FAKE", fake.base) + ARTICLE.removeprefix("routes:\n")
    running = gateway(text, env={"ENV_OPENAI_API_KEY": PROVIDER_KEY})
    running.predicts("/predict/iris")
    client = get_deploy_client(running.url)
    endpoints = {endpoint.name: endpoint for endpoint in client.list_endpoints()}
    assert "openai-chat-route" in endpoints
    endpoint = client.get_endpoint("openai-chat-route")
    assert (endpoint.endpoint_type, endpoint.model.provider, endpoint.model.name) == ("llm/v1/chat", "openai", "ok")
    assert endpoint.limit is not None
    answer = client.predict(endpoint="openai-chat-route", inputs={"messages": [{"role": "user", "content": "x"}]})
    assert answer["choices"][0]["message"]["content"] == "Hello from the fake provider."
    assert client.predict(endpoint="iris-classifier-prod", inputs=IRIS) == {"predictions": [0, 2]}
    with pytest.raises(Exception, match="404"):
        client.get_endpoint("nobody")


@pytest.mark.parametrize(
    "body",
    [
        {"dataframe_split": IRIS["dataframe_split"]},
        {"dataframe_records": [dict(zip(IRIS["dataframe_split"]["columns"], row)) for row in ROWS]},
        {"inputs": {c: [row[i] for row in ROWS] for i, c in enumerate(IRIS["dataframe_split"]["columns"])}},
    ],
    ids=["split", "records", "inputs"],
)
def test_every_scoring_form_gives_the_same_answer(body, shared_iris):
    assert shared_iris.post("/predict/iris", body).json() == {"predictions": [0, 2]}


def test_csv_is_taken(shared_iris):
    lines = [",".join(IRIS["dataframe_split"]["columns"])] + [",".join(map(str, row)) for row in ROWS]
    answer = httpx.post(
        shared_iris.url + "/predict/iris", content="\n".join(lines), headers={"Content-Type": "text/csv"}
    )
    assert answer.json() == {"predictions": [0, 2]}


@pytest.mark.parametrize(
    "change",
    [
        lambda body: body["columns"].__setitem__(0, "colour"),
        lambda body: body["data"][0].__setitem__(0, "red"),
        lambda body: body["data"][0].pop(),
    ],
    ids=["column", "type", "ragged"],
)
def test_input_that_does_not_fit_is_400_and_says_where(change, shared_iris):
    import copy

    body = copy.deepcopy(IRIS)
    change(body["dataframe_split"])
    answer = shared_iris.post("/predict/iris", body)
    assert (answer.status_code, answer.headers["x-millgate-error"]) == (400, "schema_mismatch"), answer.text


@pytest.fixture(scope="module")
def shared_iris(tmp_path_factory, registry):
    from conftest import Gateway

    child = Gateway(tmp_path_factory.mktemp("iris"), ARTICLE, env={"MLFLOW_TRACKING_URI": registry.url})
    child.predicts("/predict/iris")
    yield child
    child.stop()
