use insta::assert_snapshot;

use super::problems;

#[test]
fn every_problem_is_reported_with_its_place_and_a_hint() {
    let text = r"
version: 2
colour: red
providers:
  openai: { kind: opnai, api_key: env:MILLGATE_NOT_SET }
  local: { kind: openai-compatible, base_url: 'file:///etc/passwd' }
  box: { kind: openai-compatible }
  claude: { kind: anthropic, api: responses }
endpoints:
  - name: chat
    type: llm/v1/caht
    route: openai/gpt
  - name: 'bad name'
    type: llm/v1/chat
    rout: openai/gpt
    route: box/gpt
  - name: twice
    type: llm/v1/chat
    path: /v1/mine
    route: { split: { box/a: 0, nowhere/b: 0 } }
  - name: twice
    type: llm/v1/chat
    route: box/
    limits: [ { requests: 0, per: 3 weeks } ]
  - { name: p, type: predict, route: box/gpt }
  - { name: q, type: predict, route: 'models:/Iris' }
server: { max_body: lots, drain_delay: 5 }
";
    assert_snapshot!("structure", problems(text));
}

#[test]
fn references_and_cycles_are_checked() {
    let text = r"
providers: { mock: { kind: mock } }
endpoints:
  - { name: a, type: llm/v1/chat, route: { fallback: [ b, mock/echo ] } }
  - { name: b, type: llm/v1/chat, route: c }
  - { name: c, type: llm/v1/chat, route: a }
  - { name: d, type: llm/v1/chat, route: embed }
  - { name: embed, type: llm/v1/embeddings, route: mock/echo }
  - { name: e, type: llm/v1/chat, route: mok/echo }
  - { name: f, type: llm/v1/chat, route: embde }
  - { name: g, type: predict, route: models:/Iris/1 }
";
    assert_snapshot!("references", problems(text));
}

#[test]
fn providers_own_apis_are_checked() {
    let text = r"
providers:
  mock: { kind: mock }
  openai: { kind: openai, base_url: 'http://127.0.0.1:1/v1' }
endpoints:
  - { name: a, type: llm/v1/chat, path: /openai/chat, route: mock/echo }
native:
  openai: { provider: openai, limits: [ { requests: 0, per: 0s } ] }
  v1: { provider: openai }
  rerank: { provider: openai }
  a/b: { provider: openai }
  other: { provider: opnai }
  pretend: { provider: mock }
";
    assert_snapshot!("native", problems(text));
}

#[test]
fn limits_and_budgets_are_checked() {
    let text = r"
providers:
  mock: { kind: mock, limits: [ { requests: 1, per: second, when: request.stream, cap_output: true }, { tokens: 9, per: second, by: cel:request.team } ] }
endpoints:
  - { name: a, type: llm/v1/chat, route: mock/echo, limits: [ { requests: 1 }, { concurrent: 0, per: day }, { requests: 1, tokens: 2, per: day } ] }
limits:
  - { requests: 5, per: day, burst: 0, cap_output: true, endpoints: [b] }
  - { requests: 5, per: 7m, window: calendar, burst: 3, queue: { wait: 0s, size: 0, high: { ips: [x] } }, shadow: true }
  - { requests: 5, per: day, by: [key, 'cel:request.team +'], when: caller.team == 'x' }
budgets:
  - { name: '', usd: 0, per: 1m, alerts: [0, 101] }
  - { name: x, usd: 5, per: month, starts: 2026-01-05, by: [ip, 'cel:request.team'] }
  - { name: x, usd: 5, per: 10d, starts: soon, only: { ips: [10.0.0.0/8] } }
shared: { redis: 'http://x', replicas: 0, budgets_on_error: allow }
";
    assert_snapshot!("limits", problems(text));
}

#[test]
fn yaml_itself_is_checked() {
    assert_snapshot!("yaml_unclosed", problems("endpoints: [\n"));
    assert_snapshot!("yaml_duplicate", problems("a: 1\na: 2\n"));
    assert_snapshot!("yaml_two_documents", problems("a: 1\n---\nb: 2\n"));
    assert_snapshot!("yaml_list", problems("- a\n"));
    assert_snapshot!("yaml_empty", problems(""));
}

#[test]
fn other_forms_are_checked_in_their_own_words() {
    let text = r"
routes:
  - name: iris
    route_type: mlflow-model
    model: { name: Iris, stage: Production, version: 3 }
  - name: iris2
    route_type: mlflow-model
    model: { nme: Iris }
  - name: chat
    route_type: llm/v1/chat
    model: { provider: openai, name: gpt, openai_config: { openai_api_kee: x } }
    rate_limit: { calls: 10 }
  - route_type: llm/v1/chat
    model: { provider: mock, name: echo }
    endpint: /x
";
    assert_snapshot!("routes_form", problems(text));
    let mlflow = r"
endpoints:
  - { name: chat, endpoint_type: llm/v1/chat, model: { provider: openai, name: gpt, config: { openai_api_key: $MILLGATE_NOT_SET } } }
routes:
  - { name: r, task_type: llm/v1/chat, destinations: [ { name: chat, traffic_percentage: 50 }, { name: chat2, traffic_percentage: 40 } ] }
";
    assert_snapshot!("mlflow_form", problems(mlflow));
}

#[test]
fn an_alias_bomb_is_refused() {
    let mut text = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for level in 1..12 {
        let inner = vec![format!("*a{}", level - 1); 10].join(", ");
        text.push_str(&format!("a{level}: &a{level} [{inner}]\n"));
    }
    assert!(!problems(&text).is_empty());
}

#[test]
fn credentials_are_checked() {
    let text = r"
version: 1
providers:
  both: { kind: azure, base_url: 'https://r.openai.azure.com', api_key: env:PATH,
          credential: { entra: { tenant_id: t, client_id: c, client_secret: env:PATH } } }
  clear: { kind: azure, base_url: 'https://r.openai.azure.com',
           credential: { entra: { tenant_id: 'a/b', client_id: c, client_secret: secret, authority: 'ftp://x' } } }
  no_url: { kind: openai-compatible, base_url: 'https://x.example',
            credential: { oauth: { client_id: c, client_secret: env:PATH } } }
  unknown: { kind: openai, credential: { kerberos: {} } }
  two: { kind: openai, credential: { google: {}, entra: {} } }
  field: { kind: openai, credential: { google: { credential_file: x } } }
  no_file: { kind: openai, credential: { google: { credentials_file: /nowhere/key.json, metadata_host: 'a/b' } } }
  signed: { kind: openai, credential: { aws: { access_key_id: env:PATH, profile: p } } }
  placed: { kind: openai, api_key: env:PATH, region: eu-west-1 }
  bricks: { kind: databricks, base_url: 'https://w.example/serving-endpoints',
            credential: { oauth: { client_id: c, client_secret: env:PATH } } }
";
    assert_snapshot!("credentials", problems(text));
}

#[test]
fn names_and_models_are_checked() {
    let text = r"
providers:
  mock:
    kind: mock
    models:
      'a*b': { context_tokens: 0 }
      c: { usd_per_million_tokens: { input: -1 }, capabilities: { flying: true } }
      d: { usd_per_search: -0.5 }
      e: { usd_per_million_tokens: { output: 1 } }
endpoints:
  - { name: a, aliases: [ 'b c', a, twice, twice ], type: llm/v1/chat, route: mock/echo }
  - { name: twice, type: llm/v1/chat, route: 'mock/*' }
  - { name: '*-*', type: llm/v1/chat, route: mock/echo }
  - { name: 'g-*', aliases: [ g ], type: llm/v1/chat, route: 'mock/*' }
  - { name: f, type: llm/v1/chat, route: 'g-*' }
catalogue: { max_age: soon }
";
    assert_snapshot!("names", problems(text));
}

#[test]
fn how_workers_are_used_is_checked() {
    let text = r"
registries: { default: { uri: ./mlruns } }
endpoints:
  - { name: a, type: predict, route: models:/m/1, serving: { workers: 2, instances: { min: 1, max: 2 } } }
  - { name: b, type: predict, route: models:/m/1, serving: { instances: { min: 3, max: 2 }, threads: 0 } }
  - { name: c, type: predict, route: models:/m/1, serving: { batching: { max_rows: 0 } } }
  - { name: d, type: predict, route: models:/m/1, serving: { batching: { max_wait: 90s }, idle_timeout: 0s } }
  - { name: e, type: llm/v1/chat, route: models:/m/1, serving: { runtime: native } }
  - { name: f, type: llm/v1/embeddings, route: models:/m/1 }
  - { name: g, type: predict, route: models:/m/1, serving: { environment: /nonexistent, env_manager: uv } }
  - { name: h, type: predict, route: models:/m/1, serving: { usd_per_million_tokens: { input: 1 } } }
  - { name: i, type: llm/v1/chat, route: models:/m/1, serving: { usd_per_million_tokens: { input: -1 } } }
";
    assert_snapshot!("workers", problems(text));
    let text = r#"
registries: { default: { uri: ./mlruns } }
models: { instance_classes: { large: { cpus: 4 }, none: { cpus: 0, device: tpu } } }
endpoints:
  - { name: a, type: predict, route: models:/m/1, serving: { instance_class: lage, device: "cuda:x", runtime: native } }
  - { name: b, type: predict, route: models:/m/1, serving: { instance_class: none } }
  - name: c
    type: predict
    route: models:/m/1
    serving: { instances: { min: 0, max: 2, schedule: [ { from: "08:00", to: "08:00", min: 3 } ] } }
"#;
    assert_snapshot!("placement", problems(text));
    for (wrong, said) in [
        ("days: weekdays, from: \"08:00\", to: \"09:00\"", "`weekdays` is no day"),
        ("from: \"8\", to: \"09:00\"", "`8` is no time of day"),
        ("from: \"08:00\", to: \"09:00\", timezone: Middle/Earth", "`Middle/Earth` is no time zone"),
    ] {
        let text = format!(
            "registries: {{ default: {{ uri: ./mlruns }} }}\nendpoints:\n  - {{ name: a, type: predict, route: models:/m/1, \
             serving: {{ instances: {{ min: 0, max: 1, schedule: [ {{ {wrong}, min: 1 }} ] }} }} }}\n"
        );
        assert!(problems(&text).contains(said), "{}", problems(&text));
    }
    let text = "registries: { default: { uri: ./mlruns } }\nendpoints:\n  - { name: a, type: predict, route: models:/m/1, \
                serving: { batching: { rows: 3 } } }\n";
    assert_snapshot!("batching", problems(text));
}

#[test]
fn graphs_are_checked() {
    let text = r"
providers:
  mock: { kind: mock }
  remote: { kind: open-inference, base_url: 'http://127.0.0.1:1' }
registries: { default: { uri: ./mlruns } }
endpoints:
  - { name: a, type: predict, route: 'models:/A/1' }
  - { name: loop, type: predict, route: { ensemble: { of: [ a, { chain: [ back ] } ], by: mean } } }
  - { name: back, type: predict, route: { switch: { of: a, cases: [ { when: 'result > 1', to: loop } ] } } }
  - name: cascade
    type: predict
    route:
      switch:
        of: a
        cases:
          - { when: 'score < 0.8', to: 'models:/B/1' }
          - { when: 'result <', to: a }
          - { when: 'result.all(a, a.all(b, b.all(c, c > 0)))', to: nowhere/x }
  - { name: one, type: predict, route: { ensemble: { of: [ a ], by: vote, weights: [ 1, 2 ], at_least: 3 } } }
  - { name: heavy, type: predict, route: { ensemble: { of: [ a, remote/m ], by: max, weights: [ 1, 2 ] } } }
  - { name: odd, type: predict, route: { ensemble: { of: [ a, mock/echo ], by: mode } } }
  - { name: chat, type: llm/v1/chat, route: { ensemble: { of: [ a, a ], by: mean } } }
  - { name: explain, type: predict, route: { chain: [ a, { to: mock/echo, body: { messages: '{{ score }}' } } ] } }
  - { name: prompt, type: predict, route: { chain: [ mock/echo, a ] } }
  - { name: ends, type: llm/v1/chat, route: { chain: [ mock/echo, a ] } }
  - { name: starts, type: llm/v1/chat, route: { chain: [ a, mock/echo ] } }
  - { name: mixed, type: predict, route: { chain: [ a, { fallback: [ a, mock/echo ] } ] } }
  - { name: vectors, type: llm/v1/embeddings, route: { chain: [ mock/echo ] } }
  - { name: twice, type: predict, route: { chain: [ { to: a, split: { a: 1 } } ] } }
";
    assert_snapshot!("graphs", problems(text));
}

#[test]
fn issuers_and_proxies_are_checked() {
    let text = r"
providers: { mock: { kind: mock } }
endpoints: [ { name: chat, type: llm/v1/chat, route: mock/echo } ]
access:
  keys: required
  issuers:
    - { name: corp, issuer: 'http://login.example', audience: [], algorithms: [none, RS256] }
    - { name: corp, issuer: 'https://login.example', audience: [a], algorithms: [HS256, RS256, RS255] }
    - { name: proxy, issuer: 'https://user:pw@login.example', audience: [a], user: token.sub, clock_skew: 1h }
    - name: fine
      issuer: http://127.0.0.1:9000
      audience: [a]
      jwks_uri: http://keys.example/jwks
      roles: [ { when: 'claims.groups ==', roles: [invoke] }, { when: 'true', roles: [], endpoints: [a] } ]
  sign_on: { issuer: crop, client_id: a, public_url: 'http://gateway.example/x', scopes: [email], session: 60d }
  certificates: { user: claims.sub }
  introspection: { url: 'http://login.example/introspect', client_id: a, client_secret: env:HOME, cache: 0s }
  trusted_proxies:
    from: [10.0.0.0/40, 0.0.0.0/0, proxy.example]
    user: header['x']
server: { tls: { cert: a, key: b, client_certificates: required } }
";
    assert_snapshot!("sign_on", problems(text));
    let open = r"
providers: { mock: { kind: mock } }
endpoints: [ { name: chat, type: llm/v1/chat, route: mock/echo } ]
access:
  issuers: [ { name: corp, issuer: 'https://login.example', audience: [a] } ]
  trusted_proxies: { from: [], roles: [ { when: 'true', roles: [admin] } ] }
";
    assert_snapshot!("sign_on_open", problems(open));
}

#[test]
fn providers_keys_retries_and_breakers_have_their_rules() {
    let text = "version: 1
providers:
  two:
    kind: openai
    api_key: env:PATH
    api_keys: [ env:PATH, { key: env:HOME, weight: 0, name: 'a b' } ]
    retries: { attempts: 11, budget_percent: 101, max_wait: 2m }
    breaker: { failures: 0, pause: 0s }
  same:
    kind: openai
    api_keys: [ env:PATH, { key: env:PATH, name: '1', limits: [ { requests: 0, per: hour } ] } ]
    breaker: { pause: 1m }
  none: { kind: ollama, api_keys: [ env:PATH ] }
  clear: { kind: openai, api_keys: [ sk-in-clear-text ], pacing: sometimes }
  empty: { kind: openai, api_keys: [ {} ] }
  many: { kind: openai, api_keys: [ { key: env:PATH, wieght: 2 } ] }
endpoints: [ { name: chat, type: llm/v1/chat, route: two/m } ]
";
    assert_snapshot!("upkeep", problems(text));
}
