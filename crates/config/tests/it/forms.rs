use millgate_config::{CredentialConfig, EndpointType, Form, RouteConfig, Sharer};

use super::loaded;

pub(super) const CANONICAL: &str = r"
version: 1
listen: 127.0.0.1:5000
providers:
  openai: { kind: openai, api_key: env:PATH }
  claude: { kind: anthropic, api_key: env:PATH }
  local: { kind: openai-compatible, base_url: 'http://10.0.0.7:8000/v1', timeout: 2m }
registries:
  default: { uri: 'http://mlflow:5000', poll_interval: 500ms }
endpoints:
  - name: iris
    type: predict
    path: /predict/iris
    route: models:/IrisClassifier@champion
    serving: { workers: 2, memory_limit: 2GiB, compat: mlflow }
  - name: support
    type: llm/v1/chat
    route:
      fallback:
        - split: { openai/gpt-5-mini: 95, claude/claude-haiku-4-5: 5 }
        - local/llama-3.1-8b
    limits: [ { requests: 100, per: minute, burst: 20, by: ip } ]
  - { name: alias, type: llm/v1/chat, route: support }
  - name: graph
    type: predict
    route:
      fallback:
        - chain:
            - iris
            - ensemble: { of: [ iris, 'models:/A/1' ], by: mean, weights: [ 2, 1 ], at_least: 1 }
            - { to: openai/gpt-5-mini, body: { messages: [ { role: user, content: 'Why {{ result }}?' } ] } }
        - switch: { of: iris, cases: [ { when: 'max(result) < 0.8', to: 'models:/B/1' } ], else: keep, per: call }
";

#[test]
fn the_canonical_form_is_read_whole() {
    let loaded = loaded(CANONICAL);
    assert_eq!(loaded.form, Form::Canonical);
    assert!(loaded.warnings.is_empty());
    let iris = &loaded.config.endpoints[0];
    assert_eq!(iris.serving.workers, Some(2));
    assert_eq!(iris.serving.memory_limit.unwrap().0, 2 << 30);
    let support = &loaded.config.endpoints[1];
    assert_eq!(support.limits[0].by.0, [Sharer::Ip]);
    let RouteConfig::Fallback(nodes) = &support.route else { panic!("{:?}", support.route) };
    assert!(
        matches!(&nodes[0], RouteConfig::Split(split) if split.0[0] == ("openai/gpt-5-mini".to_owned(), 95))
    );
    assert_eq!(nodes[1], RouteConfig::Target("local/llama-3.1-8b".to_owned()));
}

#[test]
fn how_workers_are_used_is_read() {
    let of = |serving: &str| {
        let text = format!(
            "registries: {{ default: {{ uri: ./mlruns }} }}\nendpoints:\n  - {{ name: m, type: predict, route: models:/m/1, serving: {serving} }}\n"
        );
        loaded(&text).config.endpoints[0].serving.clone()
    };
    let (min, max) = (0, 4);
    let fixed = |min, max| millgate_config::InstancesConfig { min, max, schedule: Vec::new() };
    assert_eq!(of("{}").instances(), fixed(1, 1));
    assert_eq!(of("{ workers: 2 }").instances(), fixed(2, 2));
    let scaled = of("{ instances: { min: 0, max: 4 }, idle_timeout: 30s, batching: false }");
    assert_eq!(scaled.instances(), fixed(min, max));
    assert_eq!(scaled.batching.unwrap().enabled, Some(false));
    let bounds = of("{ batching: { max_rows: 8, max_wait: 5ms } }").batching.unwrap();
    assert_eq!((bounds.enabled, bounds.max_rows, bounds.max_bytes.0), (None, 8, 4 << 20));
    assert_eq!(bounds.max_wait.0, std::time::Duration::from_millis(5));
    assert_eq!(of("{ batching: true }").batching.unwrap().enabled, Some(true));
}

#[test]
fn a_registry_model_route_is_read() {
    let loaded = loaded(
        "routes:\n  - name: iris-classifier-prod\n    route_type: mlflow-model\n    \
         model: {name: IrisClassifier, stage: Production}\n    endpoint: /predict/iris\n",
    );
    assert_eq!(loaded.form, Form::Routes);
    let endpoint = &loaded.config.endpoints[0];
    assert_eq!(endpoint.kind, EndpointType::Predict);
    assert_eq!(endpoint.path.as_deref(), Some("/predict/iris"));
    assert_eq!(endpoint.route, RouteConfig::Target("models:/IrisClassifier/Production".to_owned()));
    assert!(loaded.config.registries.contains_key("default"));
}

#[test]
fn an_llm_route_is_read_with_its_rate_limit_and_its_key_from_the_environment() {
    let loaded = loaded(
        "routes:\n  - name: openai-chat-route\n    route_type: llm/v1/chat\n    model:\n      \
         provider: openai\n      name: gpt-3.5-turbo\n      \
         openai_config: {openai_api_key: \"{{ ENV_PATH }}\", openai_api_base: \"http://127.0.0.1:9/v1\"}\n    \
         endpoint: /llm/openai/chat\n    rate_limit: {calls: 10, period: 60s}\n",
    );
    let endpoint = &loaded.config.endpoints[0];
    assert_eq!(endpoint.route, RouteConfig::Target("openai/gpt-3.5-turbo".to_owned()));
    assert_eq!(endpoint.limits[0].requests, Some(10));
    assert_eq!(endpoint.limits[0].per.unwrap().0.as_secs(), 60);
    let provider = &loaded.config.providers["openai"];
    assert_eq!(provider.api_key.as_ref().unwrap().expose(), std::env::var("PATH").unwrap());
    assert_eq!(provider.base_url.as_ref().unwrap().as_str(), "http://127.0.0.1:9/v1");
}

#[test]
fn routes_with_equal_settings_share_a_provider() {
    let route = |name: &str, key: &str| {
        format!(
            "  - {{name: {name}, route_type: llm/v1/chat, model: {{provider: openai, name: m, config: {{openai_api_key: {key}}}}}}}\n"
        )
    };
    let text = format!("routes:\n{}{}{}", route("a", "$PATH"), route("b", "$PATH"), route("c", "$HOME"));
    let loaded = loaded(&text);
    assert_eq!(loaded.config.providers.keys().collect::<Vec<_>>(), ["openai", "openai-2"]);
    assert_eq!(loaded.config.endpoints[1].route, RouteConfig::Target("openai/m".to_owned()));
    assert_eq!(loaded.config.endpoints[2].route, RouteConfig::Target("openai-2/m".to_owned()));
}

#[test]
fn mlflow_endpoints_and_traffic_routes_are_read() {
    let loaded = loaded(
        "endpoints:\n\
         - {name: chat, endpoint_type: llm/v1/chat, colour: red, model: {provider: OpenAI, name: gpt-4o-mini, config: {openai_api_key: $PATH}}, limit: {calls: 10, renewal_period: 5 minutes, key: null}}\n\
         - {name: chat2, endpoint_type: llm/v1/chat, model: {provider: anthropic, name: claude, config: {anthropic_api_key: $PATH}}}\n\
         routes:\n\
         - {name: both, task_type: llm/v1/chat, destinations: [{name: chat, traffic_percentage: 80}, {name: chat2, traffic_percentage: 20}]}\n",
    );
    assert_eq!(loaded.form, Form::Mlflow);
    let config = &loaded.config;
    assert_eq!(config.endpoints[0].limits[0].per.unwrap().0.as_secs(), 300);
    assert!(
        matches!(&config.endpoints[2].route, RouteConfig::Split(split) if split.0 == [("chat".to_owned(), 80), ("chat2".to_owned(), 20)])
    );
    assert_eq!(loaded.warnings.len(), 1, "{:?}", loaded.warnings);
}

#[test]
fn mlflows_azure_settings_make_an_azure_provider() {
    let text = "endpoints:
  - name: chat
    endpoint_type: llm/v1/chat
    model:
      provider: openai
      name: gpt-5-mini
      config: {openai_api_type: azure, openai_api_key: $PATH, openai_api_base: 'https://r.openai.azure.com',
               openai_api_version: '2024-10-21', openai_deployment_name: my-deployment}
  - name: tokens
    endpoint_type: llm/v1/chat
    model: {provider: openai, name: gpt-5-mini, config: {openai_api_type: azuread, openai_api_key: $PATH,
            openai_api_base: 'https://r.openai.azure.com'}}
";
    let config = loaded(text).config;
    let azure = &config.providers["azure"];
    assert_eq!((azure.kind.as_str(), azure.api_version.as_deref()), ("azure", Some("2024-10-21")));
    assert_eq!(config.providers["azure-ad"].kind, "azure-ad");
    let route = |index: usize| format!("{:?}", config.endpoints[index].route);
    assert!(route(0).contains("azure/my-deployment"), "{}", route(0));
    assert!(route(1).contains("azure-ad/gpt-5-mini"), "{}", route(1));
}

#[test]
fn mlflows_settings_of_bedrock_and_vertex_are_read() {
    let text = "endpoints:
  - name: keys
    endpoint_type: llm/v1/chat
    model: {provider: bedrock, name: 'amazon.nova-lite-v1:0', config: {aws_config: {aws_region: eu-west-1,
            aws_access_key_id: $PATH, aws_secret_access_key: $PATH}}}
  - name: token
    endpoint_type: llm/v1/chat
    model: {provider: amazon-bedrock, name: m, config: {aws_config: {aws_region: us-east-1, aws_bearer_token: $PATH}}}
  - name: vertex
    endpoint_type: llm/v1/chat
    model: {provider: vertex_ai, name: gemini-2.5-flash, config: {vertex_project: p, vertex_location: global,
            vertex_credentials: Cargo.toml}}
";
    let config = loaded(text).config;
    let bedrock = &config.providers["bedrock"];
    assert_eq!(bedrock.region.as_ref().unwrap().as_str(), "eu-west-1");
    let Some(CredentialConfig::Aws(aws)) = &bedrock.credential else { panic!("{bedrock:?}") };
    assert_eq!(aws.access_key_id.as_ref().unwrap().expose(), std::env::var("PATH").unwrap());
    assert!(config.providers["amazon-bedrock"].api_key.is_some());
    let vertex = &config.providers["vertex-ai"];
    assert_eq!(vertex.project.as_ref().unwrap().as_str(), "p");
    let Some(CredentialConfig::Google(google)) = &vertex.credential else { panic!("{vertex:?}") };
    assert_eq!(google.credentials_file.as_ref().unwrap().as_str(), "Cargo.toml");
    let role = text.replace("aws_bearer_token: $PATH", "aws_role_arn: 'arn:aws:iam::0:role/r'");
    assert!(super::problems(&role).contains("AWS roles are not assumed"));
}
