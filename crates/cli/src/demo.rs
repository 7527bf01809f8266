//! `millgate demo`: everything works, with nothing but the binary.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use millgate_config::load;
use millgate_server::Gateway;

use crate::args::Demo;
use crate::check::report;
use crate::run::{Plan, default_address, init_log, refuses_network, run};
use crate::wrong_usage;

/// The providers that join when their keys are in the environment.
const PROVIDERS: [(&str, &str, &str); 2] =
    [("OPENAI_API_KEY", "openai", "gpt-4o-mini"), ("ANTHROPIC_API_KEY", "anthropic", "claude-haiku-4-5")];

pub(crate) fn demo(arguments: &Demo) -> anyhow::Result<ExitCode> {
    init_log();
    let folder = tempfile::Builder::new().prefix("millgate-demo-").tempdir()?;
    let registry = millgate_models::unpack_demo_store(&folder.path().join("registry"))
        .context("the bundled model store cannot be unpacked")?;
    let found: Vec<_> = PROVIDERS
        .into_iter()
        .filter(|(variable, ..)| std::env::var(variable).is_ok_and(|value| !value.is_empty()))
        .collect();
    let text = document(&registry, &found);
    let loaded = match load(&text) {
        Ok(loaded) => loaded,
        Err(problems) => {
            report("demo", &problems);
            return Ok(wrong_usage());
        }
    };
    let address = default_address(arguments.listen.host, arguments.listen.port);
    if let Some(reason) = refuses_network(&loaded.config, address) {
        eprintln!("error: {reason}");
        return Ok(wrong_usage());
    }
    let real: Vec<_> = found.iter().map(|(_, provider, model)| format!("{provider}/{model}")).collect();
    run(Plan {
        config: loaded.config,
        address,
        data_dir: folder.path().join("data"),
        source: None,
        keeps: false,
        greeting: Box::new(move |gateway, address| greet(gateway, address, &real)),
    })
}

fn document(registry: &str, found: &[(&str, &str, &str)]) -> String {
    let mut providers = String::from("  mock: { kind: mock }\n");
    for (variable, provider, _) in found {
        providers.push_str(&format!("  {provider}: {{ kind: {provider}, api_key: env:{variable} }}\n"));
    }
    include_str!("demo.yaml").replace("#PROVIDERS\n", &providers).replace("#REGISTRY", registry)
}

/// Prints commands that work, once the models are loaded.
fn greet(gateway: &Arc<Gateway>, address: SocketAddr, real: &[String]) {
    let gateway = Arc::clone(gateway);
    let real = real.to_owned();
    tokio::spawn(async move {
        for deployment in gateway.deployments() {
            if !deployment.wait_ready(Duration::from_secs(30)).await {
                let status = deployment.status();
                let reason = status.reason.unwrap_or_default();
                eprintln!("the bundled model `{}` is not ready: {reason}", status.model);
            }
        }
        eprintln!("{}", lines(address, &real));
    });
}

fn lines(address: SocketAddr, real: &[String]) -> String {
    let mut text = include_str!("demo.txt").replace("ADDRESS", &address.to_string());
    if real.is_empty() {
        text.push_str(
            "\nThe LLM is a mock. Set OPENAI_API_KEY or ANTHROPIC_API_KEY to add real ones beside it.\n",
        );
    } else {
        text.push_str(&format!("\nReal models beside the mock: {}\n", real.join(", ")));
    }
    text.push_str("Stop with Ctrl-C.");
    text
}
