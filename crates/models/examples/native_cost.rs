//! What a native prediction costs, from body bytes to answer bytes: `cargo run --release -p millgate-models --example
//! native_cost`. Prints microseconds per call for the demo models.

use std::time::{Duration, Instant};

use bytes::Bytes;
use millgate_models::{
    DeploymentSpec, ModelSettings, Models, PredictRequest, Registry, RegistryConfig, unpack_demo_store,
};
use millgate_types::ModelRef;

#[tokio::main]
#[expect(clippy::print_stdout, reason = "the figures are the output")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = tempfile::tempdir()?;
    let registry = Registry::new(RegistryConfig::new("demo", unpack_demo_store(folder.path())?))?;
    let models = Models::new(
        ModelSettings::new(folder.path().join("data"), "unused"),
        tokio::runtime::Handle::current(),
    );
    let spec = DeploymentSpec::new("iris", registry, ModelRef::parse("models:/iris@champion")?);
    let deployment = models.deploy(spec);
    deployment.wait_ready(Duration::from_secs(10)).await;
    for rows in [1, 10, 100, 1000] {
        let data = vec!["[5.1,3.5,1.4,0.2]"; rows].join(",");
        let columns = r#"["sepal_length","sepal_width","petal_length","petal_width"]"#;
        let body = Bytes::from(format!(r#"{{"dataframe_split":{{"columns":{columns},"data":[{data}]}}}}"#));
        let calls = 20_000 / rows.max(10);
        let began = Instant::now();
        for _ in 0..calls {
            let request = PredictRequest {
                content_type: Some("application/json"),
                body: body.clone(),
                deadline: Instant::now() + Duration::from_secs(10),
            };
            deployment.predict(request).await?;
        }
        println!("{rows:5} rows: {:8.2} us", began.elapsed().as_secs_f64() * 1e6 / calls as f64);
    }
    models.shutdown().await;
    Ok(())
}
