//! A tracking server: its registry's search and read calls.

use std::collections::BTreeMap;

use serde_json::Value;

use super::super::http::HttpRegistry;
use super::super::{RegistryError, text_of};
use super::{ModelPage, ModelVersion, RegisteredModel, Search};

const API: &str = "api/2.0/mlflow/";
/// Pages of versions that are read for one model.
const PAGES: usize = 20;

impl HttpRegistry {
    pub(super) async fn search(&self, search: &Search) -> Result<ModelPage, RegistryError> {
        let count = search.max_results.to_string();
        let mut query = vec![("max_results", count.as_str())];
        // The filter's quotes cannot be escaped; a name that holds one is looked for here alone.
        let filter = search.name.as_ref().filter(|name| !name.contains(['\'', '"', '`', '%', '_', '\\']));
        let filter = filter.map(|name| format!("name ILIKE '%{name}%'"));
        query.extend(filter.as_deref().map(|filter| ("filter", filter)));
        query.extend(search.page_token.as_deref().map(|token| ("page_token", token)));
        let answer =
            self.get(&format!("{API}registered-models/search"), &query, || "models".to_owned()).await?;
        let models = list(&answer, "registered_models").iter().filter_map(read_model);
        Ok(ModelPage {
            models: models.filter(|model| model.fits(search)).collect(),
            next_page_token: text_of(answer.get("next_page_token")).filter(|token| !token.is_empty()),
        })
    }

    pub(super) async fn model(
        &self,
        name: &str,
    ) -> Result<(RegisteredModel, Vec<ModelVersion>), RegistryError> {
        let missing = || format!("model `{name}`");
        let answer = self.get(&format!("{API}registered-models/get"), &[("name", name)], missing).await?;
        let mut model = answer
            .get("registered_model")
            .and_then(read_model)
            .ok_or_else(|| self.refused("the answer holds no model"))?;
        let quote = if name.contains('\'') { '"' } else { '\'' };
        if name.contains(quote) {
            return Err(self.refused("a name with both kinds of quotes cannot be searched for"));
        }
        let filter = format!("name={quote}{name}{quote}");
        let mut versions = Vec::new();
        let mut page: Option<String> = None;
        for _ in 0..PAGES {
            let mut query = vec![("filter", filter.as_str()), ("max_results", "1000")];
            query.extend(page.as_deref().map(|token| ("page_token", token)));
            let answer = self.get(&format!("{API}model-versions/search"), &query, missing).await?;
            versions.extend(list(&answer, "model_versions").iter().filter_map(read_version));
            page = text_of(answer.get("next_page_token")).filter(|token| !token.is_empty());
            if page.is_none() {
                break;
            }
        }
        let latest = versions.iter().filter_map(|version| version.version.parse::<u64>().ok()).max();
        model.latest_version = latest.map(|latest| latest.to_string()).or(model.latest_version);
        Ok((model, versions))
    }
}

fn list<'a>(value: &'a Value, field: &str) -> &'a [Value] {
    value.get(field).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

/// A list of objects with a name and a value.
fn pairs(value: &Value, field: &str, name: &str, of: &str) -> BTreeMap<String, String> {
    let pair = |entry: &Value| Some((text_of(entry.get(name))?, text_of(entry.get(of))?));
    list(value, field).iter().filter_map(pair).collect()
}

fn text(value: &Value, field: &str) -> Option<String> {
    text_of(value.get(field)).filter(|text| !text.is_empty())
}

fn time(value: &Value, field: &str) -> Option<u64> {
    text(value, field)?.parse().ok()
}

fn read_model(value: &Value) -> Option<RegisteredModel> {
    let versions = list(value, "latest_versions").iter();
    let latest = versions.filter_map(|version| text(version, "version")?.parse::<u64>().ok()).max();
    Some(RegisteredModel {
        name: text(value, "name")?,
        description: text(value, "description"),
        created_ms: time(value, "creation_timestamp"),
        updated_ms: time(value, "last_updated_timestamp"),
        tags: pairs(value, "tags", "key", "value"),
        aliases: pairs(value, "aliases", "alias", "version"),
        latest_version: latest.map(|latest| latest.to_string()),
    })
}

fn read_version(value: &Value) -> Option<ModelVersion> {
    Some(ModelVersion {
        version: text(value, "version")?,
        stage: text(value, "current_stage"),
        status: text(value, "status"),
        aliases: Vec::new(),
        description: text(value, "description"),
        run_id: text(value, "run_id"),
        source: text(value, "source"),
        created_ms: time(value, "creation_timestamp"),
        updated_ms: time(value, "last_updated_timestamp"),
        tags: pairs(value, "tags", "key", "value"),
    })
}
