"""Tokens, teams and browsers as their users have them: Authlib as OpenID Connect client, OpenAI's SDK with a token."""

import subprocess

import httpx
import openai
import pytest
from authlib.integrations.httpx_client import OAuth2Client

from conftest import GATEWAY, Gateway, Issuer, environment, until

OWNER = "mg-owner-key-0123456789ab"
CLIENT, SECRET = "millgate-client", "canary-client-secret-0123456789"


@pytest.fixture
def issuer(tmp_path):
    child = Issuer(tmp_path / "issuer")
    yield child
    child.stop()


@pytest.fixture
def gateway(tmp_path, issuer):
    # The port must be known before: browsers come back to it.
    config = f"""\
version: 1
providers: {{ mock: {{ kind: mock }} }}
endpoints:
  - {{ name: chat, type: llm/v1/chat, route: mock/echo }}
  - {{ name: internal, type: llm/v1/chat, route: mock/echo }}
access:
  keys: required
  static: [ {{ name: owner, key: {OWNER}, roles: [admin] }} ]
  issuers:
    - name: corp
      issuer: {issuer.url}
      audience: [millgate]
      roles:
        - {{ when: "'admins' in claims.groups", roles: [admin] }}
        - {{ when: "true", roles: [invoke], deny: [internal] }}
  sign_on: {{ issuer: corp, client_id: {CLIENT}, client_secret: env:CLIENT_SECRET, public_url: 'http://127.0.0.1:1' }}
"""
    child = Gateway(tmp_path, config, env={"CLIENT_SECRET": SECRET})
    child.config.write_text(config.replace("http://127.0.0.1:1'", f"{child.url}'"))
    owner = {"Authorization": f"Bearer {OWNER}"}
    shown = lambda: child.http.get("/admin/v1/config", headers=owner).text  # noqa: E731
    until(lambda: child.url in shown(), "the address to be known")
    yield child
    child.stop()


def ask(gateway, token, model="chat"):
    client = openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=token, max_retries=0)
    answer = client.chat.completions.create(model=model, messages=[{"role": "user", "content": "hello"}])
    return answer.choices[0].message.content


def test_a_real_oidc_clients_token_is_an_api_key(gateway, issuer):
    found = httpx.get(f"{issuer.url}/.well-known/openid-configuration").json()
    with OAuth2Client(
        CLIENT, SECRET, scope="openid", redirect_uri="http://127.0.0.1:1/back", code_challenge_method="S256"
    ) as client:
        verifier = "v" * 64
        place, state = client.create_authorization_url(
            found["authorization_endpoint"], code_verifier=verifier, nonce="n-1", login_hint="carol"
        )
        back = httpx.get(place).headers["location"]
        tokens = client.fetch_token(
            found["token_endpoint"], authorization_response=back, state=state, code_verifier=verifier
        )
    assert until(lambda: "hello" in ask(gateway, tokens["access_token"]), "the token to be good")
    with pytest.raises(openai.NotFoundError):
        ask(gateway, tokens["access_token"], "internal")
    with pytest.raises(openai.AuthenticationError):
        ask(gateway, tokens["id_token"])  # made for the client, not for the gateway
    issuer.tell("rotate")
    assert "hello" in ask(gateway, issuer.token(sub="dave"))
    for kind in ["none", "hs", "foreign", "expired", "not-yet", "audience", "issuer"]:
        with pytest.raises(openai.AuthenticationError):
            ask(gateway, issuer.token(kind))
    # Who called, and why others could not, stands in the log; what they showed does not.
    lines = until(lambda: "another audience" in gateway.log and gateway.log, "the log to be written")
    assert '"corp:carol"' in lines and "the signature is not the issuer's" in lines
    assert tokens["access_token"] not in lines and SECRET not in lines


def test_people_sign_on_with_a_browser_and_manage_teams_by_the_command_line(gateway, issuer):
    issuer.tell("claims", groups=["admins"])
    browser = httpx.Client(follow_redirects=True)
    done = until(
        lambda: (answer := browser.get(f"{gateway.url}/auth/login?return_to=/admin/v1/users")).status_code == 200
        and answer,
        "somebody to be signed on",
    )
    assert done.url.path == "/admin/v1/users" and done.json() == {"principals": []}
    assert browser.post(f"{gateway.url}/admin/v1/teams", json={"name": "x"}).status_code == 403
    made = browser.post(f"{gateway.url}/admin/v1/teams", json={"name": "x"}, headers={"Origin": gateway.url})
    assert made.status_code == 201 and made.json()["created_by"] == "corp:alice"
    assert httpx.get(f"{gateway.url}/admin/v1/users").status_code == 401

    def millgate(*arguments):
        env = environment(MILLGATE_ADMIN_KEY=OWNER, MILLGATE_URL=gateway.url)
        return subprocess.run([GATEWAY, *arguments], capture_output=True, text=True, timeout=60, env=env)

    def did(*arguments):
        ran = millgate(*arguments)
        assert ran.returncode == 0, ran.stderr
        return ran.stdout

    did("teams", "create", "search", "--endpoint", "chat", "--tag", "cost=17")
    assert did("users", "create", "erin", "--in", "search") == "erin: active\n"
    listed = did("teams", "list")
    assert "ORGANIZATION" in listed and "erin" in listed
    key = did("keys", "create", "app", "--team", "search").strip()
    assert "hello" in ask(gateway, key)
    with pytest.raises(openai.NotFoundError):
        ask(gateway, key, "internal")
    did("teams", "change", "search", "--disable")
    with pytest.raises(openai.AuthenticationError):
        ask(gateway, key)
    with pytest.raises(openai.AuthenticationError):
        ask(gateway, issuer.token(sub="erin"))
    assert "suspended" in did("keys", "list")
    did("teams", "change", "search", "--enable", "--endpoint", "internal")
    assert "hello" in ask(gateway, key, "internal")
    assert did("users", "remove", "erin") == "erin: removed\n"
    assert "the name was removed" in millgate("users", "create", "erin").stderr
    assert browser.post(f"{gateway.url}/auth/logout", follow_redirects=False).status_code == 303
    assert browser.get(f"{gateway.url}/admin/v1/users").status_code == 401
