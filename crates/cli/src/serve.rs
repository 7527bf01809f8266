//! `millgate models serve`: one model at `/invocations`.

use std::net::SocketAddr;
use std::process::ExitCode;

use anyhow::Context as _;
use millgate_config::{Loaded, load};
use serde_json::json;

use crate::args::{Compat, EnvManager, Runtime, Serve};
use crate::check::report;
use crate::run::{Plan, data_dir, init_log, run};
use crate::wrong_usage;

pub(crate) fn serve(arguments: &Serve) -> anyhow::Result<ExitCode> {
    init_log();
    if arguments.install_mlflow {
        tracing::info!("--install-mlflow is accepted and not used");
    }
    let uri = model_uri(&arguments.model_uri)?;
    let env_manager = match arguments.env_manager {
        _ if arguments.no_conda => "local",
        EnvManager::Local => "local",
        EnvManager::Uv => "uv",
        EnvManager::Virtualenv | EnvManager::Conda => "virtualenv",
    };
    let compat = match arguments.compat {
        Compat::Strict => "strict",
        Compat::Mlflow => "mlflow",
    };
    let runtime = match arguments.runtime {
        Runtime::Auto => "auto",
        Runtime::Native => "native",
        Runtime::Onnx => "onnx",
        Runtime::Worker => "worker",
    };
    // The same door as every other configuration: what is wrong is reported the same way.
    let mut document = json!({ "routes": [{
        "name": "model",
        "route_type": "mlflow-model",
        "model": { "uri": uri },
        "endpoint": "/invocations",
        "serving": {
            "workers": arguments.workers,
            "timeout": format!("{}s", arguments.timeout.max(1)),
            "env_manager": env_manager,
            "compat": compat,
            "runtime": runtime,
        },
    }] });
    if let Some(tolerance) = arguments.tolerance {
        document["routes"][0]["serving"]["tolerance"] = json!(tolerance);
    }
    let Loaded { mut config, warnings, .. } = match load(&document.to_string()) {
        Ok(loaded) => loaded,
        Err(problems) => {
            report("--model-uri", &problems);
            return Ok(wrong_usage());
        }
    };
    report("--model-uri", &warnings);
    // `mlflow models serve` has no access control; `-h 0.0.0.0` says once that this is meant.
    config.access.allow_open_on_network = true;
    run(Plan {
        config,
        address: SocketAddr::new(arguments.host, arguments.port),
        data_dir: data_dir(&arguments.data)?,
        source: None,
        keeps: false,
        greeting: Box::new(|_, _| {}),
    })
}

/// Folders may be given without a scheme, relative to where we are.
fn model_uri(text: &str) -> anyhow::Result<String> {
    if text.starts_with("models:/") || text.starts_with("runs:/") {
        return Ok(text.to_owned());
    }
    let path = text.strip_prefix("file://").unwrap_or(text);
    let path = std::path::absolute(path).with_context(|| format!("`{path}` is not a path"))?;
    Ok(format!("file://{}", path.display()))
}
