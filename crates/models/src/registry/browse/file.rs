//! The file store: `models/<name>/{meta.yaml, tags/<key>, aliases/<alias>, version-N/{meta.yaml, tags/<key>}}`.

use std::collections::BTreeMap;
use std::path::Path;

use super::super::file::FileStore;
use super::super::{RegistryError, read_yaml, text_of};
use super::{ModelVersion, RegisteredModel};

impl FileStore {
    /// All models.
    pub(super) fn models(&self) -> Result<Vec<RegisteredModel>, RegistryError> {
        self.probe()?;
        let Ok(entries) = std::fs::read_dir(self.models_folder()) else { return Ok(Vec::new()) };
        let folders = entries.filter_map(|entry| Some(entry.ok()?.path()));
        Ok(folders.filter_map(|folder| Self::read_model(&folder)).collect())
    }

    pub(super) fn model(&self, name: &str) -> Result<(RegisteredModel, Vec<ModelVersion>), RegistryError> {
        self.probe()?;
        let folder = self.models_folder().join(self.plain(name)?);
        let model = Self::read_model(&folder).ok_or_else(|| self.none(format!("model `{name}`")))?;
        let version = |number: u64| {
            let folder = folder.join(format!("version-{number}"));
            let meta = read_yaml(&folder.join("meta.yaml")).ok()?;
            let text = |field: &str| text_of(meta.get(field)).filter(|text| !text.is_empty());
            let time = |field: &str| text(field)?.parse().ok();
            Some(ModelVersion {
                version: number.to_string(),
                stage: text("current_stage"),
                status: text("status"),
                aliases: Vec::new(),
                description: text("description"),
                run_id: text("run_id"),
                source: text("source"),
                created_ms: time("creation_timestamp"),
                updated_ms: time("last_updated_timestamp"),
                tags: small_files(&folder.join("tags")),
            })
        };
        Ok((model, Self::versions(&folder).into_iter().filter_map(version).collect()))
    }

    fn read_model(folder: &Path) -> Option<RegisteredModel> {
        let meta = read_yaml(&folder.join("meta.yaml")).ok()?;
        let text = |field: &str| text_of(meta.get(field)).filter(|text| !text.is_empty());
        let time = |field: &str| text(field)?.parse().ok();
        Some(RegisteredModel {
            name: text("name")?,
            description: text("description"),
            created_ms: time("creation_timestamp"),
            updated_ms: time("last_updated_timestamp"),
            tags: small_files(&folder.join("tags")),
            aliases: small_files(&folder.join("aliases")),
            latest_version: Self::versions(folder).into_iter().max().map(|version| version.to_string()),
        })
    }
}

/// A folder whose files are names and values.
fn small_files(folder: &Path) -> BTreeMap<String, String> {
    let Ok(entries) = std::fs::read_dir(folder) else { return BTreeMap::new() };
    let read = |entry: std::io::Result<std::fs::DirEntry>| {
        let entry = entry.ok()?;
        if entry.metadata().ok()?.len() > 64 << 10 {
            return None;
        }
        let value = std::fs::read_to_string(entry.path()).ok()?;
        Some((entry.file_name().into_string().ok()?, value.trim().to_owned()))
    };
    entries.filter_map(read).collect()
}
