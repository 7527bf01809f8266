//! Native predictions against the bytes that MLflow's own scoring functions answered (`fixtures/make_native.py`).

use std::path::Path;

use millgate_models::RuntimeChoice;

use crate::observed;
use crate::support::{Bench, PATIENCE, json, registry, spec, text};

#[tokio::test]
async fn native_answers_are_byte_for_byte_those_of_mlflow() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/native");
    let bench = Bench::new(|_| {});
    let registry = registry(&folder.display().to_string());
    let mut tried = 0;
    let mut rows = Vec::new();
    for entry in std::fs::read_dir(&folder).unwrap() {
        let model = entry.unwrap().path();
        let name = model.file_name().unwrap().to_str().unwrap().to_owned();
        let mut spec = spec(registry.clone(), &format!("file://{}", model.display()));
        spec.runtime = RuntimeChoice::Native;
        let deployment = bench.models.deploy(spec);
        let native = deployment.wait_ready(PATIENCE).await;
        assert!(native, "{name}: {:?}", deployment.status());
        let cases: Vec<(String, String)> =
            serde_json::from_slice(&std::fs::read(model.join("cases.json")).unwrap()).unwrap();
        for (body, expected) in cases {
            let answer = json(&deployment, &body).await.unwrap_or_else(|fault| panic!("{name}: {fault}"));
            assert_eq!(text(&answer), expected, "{name}");
            tried += 1;
        }
        rows.push(observed::seen(&deployment, &model, "the same bytes"));
    }
    observed::compare("read", rows);
    assert!(tried >= 30, "only {tried} cases");
    bench.models.shutdown().await;
}
