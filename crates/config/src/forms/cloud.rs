//! MLflow's settings of Bedrock (`aws_config`) and Vertex AI (`vertex_project` and its relatives).

use super::Problems;
use crate::node::Node;

/// Takes a setting of these, as far as there is a counterpart. False: it is none of them.
pub(super) fn field(
    name: &str,
    value: &Node,
    settings: &mut Vec<(&'static str, Node)>,
    problems: &mut Problems,
) -> bool {
    match name {
        "aws_config" => aws(value, settings, problems),
        "vertex_project" => settings.push(("project", value.clone())),
        "vertex_location" => settings.push(("location", value.clone())),
        "vertex_credentials" => {
            if value.text().is_some_and(|text| text.trim_start().starts_with('{')) {
                let hint = "put it into a file and write the file's path";
                problems.error(value, "credentials do not stand in the configuration itself", hint);
            } else {
                let google = value.with_map(vec![("credentials_file", value.clone())]);
                settings.push(("credential", value.with_map(vec![("google", google)])));
            }
        }
        _ => return false,
    }
    true
}

fn aws(config: &Node, settings: &mut Vec<(&'static str, Node)>, problems: &mut Problems) {
    let mut keys = Vec::new();
    for (key, value) in config.members() {
        match key.name.as_str() {
            "aws_region" => settings.push(("region", value.clone())),
            "aws_bearer_token" => settings.push(("api_key", value.clone())),
            "aws_access_key_id" => keys.push(("access_key_id", value.clone())),
            "aws_secret_access_key" => keys.push(("secret_access_key", value.clone())),
            "aws_session_token" => keys.push(("session_token", value.clone())),
            "aws_role_arn" => {
                let hint = "give keys, a bearer token, or leave them to the environment";
                problems.error(value, "AWS roles are not assumed", hint);
            }
            other => problems.warning(value, format!("`{other}` is not used"), ""),
        }
    }
    if !keys.is_empty() {
        let aws = config.with_map(keys);
        settings.push(("credential", config.with_map(vec![("aws", aws)])));
    }
}
