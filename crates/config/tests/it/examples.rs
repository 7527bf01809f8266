use std::fs;
use std::path::Path;

use super::problems;

/// The variables that examples name, and variables that every test process has instead.
const VARIABLES: [(&str, &str); 10] = [
    ("OPENAI_API_KEY", "PATH"),
    ("ANTHROPIC_API_KEY", "PATH"),
    ("AWS_ACCESS_KEY_ID", "PATH"),
    ("AWS_SECRET_ACCESS_KEY", "PATH"),
    ("AZURE_CLIENT_SECRET", "PATH"),
    ("DATABRICKS_CLIENT_SECRET", "PATH"),
    ("COHERE_API_KEY", "PATH"),
    ("VOYAGE_API_KEY", "PATH"),
    ("MILLGATE_KEY_ALICE", "PATH"),
    ("MILLGATE_KEY_BATCH", "CARGO_MANIFEST_DIR"),
];

/// What the documentation shows works: every file of `examples/` loads without an error or a warning.
#[test]
fn every_example_loads_without_a_problem() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples");
    let mut count = 0;
    for entry in fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "yaml") {
            continue;
        }
        let mut text = fs::read_to_string(&path).unwrap();
        for (named, present) in VARIABLES {
            text = text.replace(named, present);
        }
        assert_eq!(problems(&text), "", "{}", path.display());
        assert!(text.starts_with("# "), "{} does not say how to try it", path.display());
        count += 1;
    }
    assert!(count >= 15, "only {count} examples found");
}
