//! MLflow's file store: `models/<name>/{meta.yaml, version-N/meta.yaml, aliases/<alias>}` beside
//! `<experiment>/models/<id>/{meta.yaml, artifacts}` and `<experiment>/<run>/meta.yaml`.

use std::path::{Path, PathBuf};

use millgate_types::{ModelRef, VersionSelector};
use serde_json::Value;

use super::{Place, RegistryError, Resolved, join, locate, read_yaml, text_of, what};

#[derive(Clone)]
pub(super) struct FileStore {
    registry: String,
    root: PathBuf,
}

impl FileStore {
    pub(super) fn new(registry: String, root: PathBuf) -> Self {
        Self { registry, root }
    }

    pub(super) fn probe(&self) -> Result<(), RegistryError> {
        if self.root.is_dir() { Ok(()) } else { Err(self.unreachable("the folder does not exist")) }
    }

    fn unreachable(&self, reason: impl Into<String>) -> RegistryError {
        RegistryError::Unreachable { registry: self.registry.clone(), reason: reason.into() }
    }

    fn refused(&self, reason: impl Into<String>) -> RegistryError {
        RegistryError::Refused { registry: self.registry.clone(), reason: reason.into() }
    }

    pub(super) fn none(&self, what: String) -> RegistryError {
        RegistryError::NotFound { registry: self.registry.clone(), what }
    }

    pub(super) fn resolve(&self, model: &ModelRef) -> Result<Resolved, RegistryError> {
        self.probe()?;
        match model {
            ModelRef::Registered { name, selector } => self.registered(model, name, selector),
            ModelRef::Logged(id) => {
                let folder = self.logged(id).ok_or_else(|| self.none(what(model)))?;
                Ok(Resolved { version: id.clone(), identity: id.clone(), place: Place::Folder(folder) })
            }
            ModelRef::Run { run_id, path } => {
                let run = self.in_experiments(run_id).ok_or_else(|| self.none(what(model)))?;
                let folder = run.join("artifacts").join(self.plain(path)?);
                let (name, rest) = path.split_once('/').unwrap_or((path, ""));
                if let Some((id, logged)) = Self::logged_by(&run, run_id, name) {
                    let folder = if rest.is_empty() { logged } else { logged.join(rest) };
                    let (place, identity) = (Place::Folder(folder), join(&id, rest));
                    return Ok(Resolved { version: run_id.clone(), identity, place });
                }
                if !folder.is_dir() {
                    return Err(self.none(format!("artifact `{path}` in run `{run_id}`")));
                }
                let identity = format!("{run_id}/{path}");
                Ok(Resolved { version: run_id.clone(), identity, place: Place::Folder(folder) })
            }
            ModelRef::Path(_) => Err(self.none(what(model))),
        }
    }

    pub(super) fn models_folder(&self) -> PathBuf {
        self.root.join("models")
    }

    /// A name as one safe path part.
    pub(super) fn plain<'n>(&self, name: &'n str) -> Result<&'n Path, RegistryError> {
        let path = Path::new(name);
        if path.components().all(|part| matches!(part, std::path::Component::Normal(_))) {
            Ok(path)
        } else {
            Err(self.refused("the name is not a plain path"))
        }
    }

    fn registered(
        &self,
        model: &ModelRef,
        name: &str,
        selector: &VersionSelector,
    ) -> Result<Resolved, RegistryError> {
        let folder = self.root.join("models").join(self.plain(name)?);
        if !folder.join("meta.yaml").is_file() {
            return Err(self.none(format!("model `{name}`")));
        }
        let version = match selector {
            VersionSelector::Version(version) => *version,
            VersionSelector::Alias(alias) => {
                let path = folder.join("aliases").join(self.plain(alias)?);
                let text = std::fs::read_to_string(path).map_err(|_| self.none(what(model)))?;
                text.trim().parse().map_err(|_| self.refused(format!("alias `{alias}` holds no version")))?
            }
            VersionSelector::Latest => {
                Self::versions(&folder).into_iter().max().ok_or_else(|| self.none(what(model)))?
            }
            VersionSelector::Stage(stage) => {
                let in_stage = |version: &u64| {
                    let meta = read_yaml(&folder.join(format!("version-{version}/meta.yaml"))).ok();
                    let current = meta.and_then(|meta| text_of(meta.get("current_stage")));
                    current.is_some_and(|current| current.eq_ignore_ascii_case(stage))
                };
                let found = Self::versions(&folder).into_iter().filter(in_stage).max();
                found.ok_or_else(|| self.none(what(model)))?
            }
        };
        let path = folder.join(format!("version-{version}/meta.yaml"));
        if !path.is_file() {
            return Err(self.none(format!("version {version} of model `{name}`")));
        }
        let meta = read_yaml(&path).map_err(|reason| self.refused(reason))?;
        if let Some(status) = text_of(meta.get("status")).filter(|status| status != "READY") {
            return Err(self.refused(format!("version {version} of model `{name}` is {status}")));
        }
        let place = self.place(&meta).ok_or_else(|| {
            self.refused(format!("the files of version {version} of model `{name}` are not in the store"))
        })?;
        let created = text_of(meta.get("creation_timestamp")).unwrap_or_default();
        let source = text_of(meta.get("source")).unwrap_or_default();
        Ok(Resolved {
            version: version.to_string(),
            identity: format!("{name}/{version}/{created}/{source}"),
            place: Place::Folder(place),
        })
    }

    pub(super) fn versions(folder: &Path) -> Vec<u64> {
        let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
        entries
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.strip_prefix("version-")?.parse().ok())
            .collect()
    }

    fn place(&self, meta: &Value) -> Option<PathBuf> {
        let source = text_of(meta.get("source"));
        if let Some(id) = source.as_deref().and_then(|source| source.strip_prefix("models:/"))
            && let Some(folder) = self.logged(id)
        {
            return Some(folder);
        }
        let storage = text_of(meta.get("storage_location"));
        [storage, source].into_iter().flatten().find_map(|uri| locate(&self.root, &uri))
    }

    /// The artifact folder of a logged model.
    fn logged(&self, id: &str) -> Option<PathBuf> {
        self.plain(id).ok()?;
        let folder = self.in_experiments(&format!("models/{id}"))?.join("artifacts");
        folder.is_dir().then_some(folder)
    }

    /// The newest model of this name that a run logged: MLflow 3 keeps models beside runs.
    fn logged_by(run: &Path, run_id: &str, name: &str) -> Option<(String, PathBuf)> {
        let entries = std::fs::read_dir(run.parent()?.join("models")).ok()?;
        let of_run = entries.filter_map(|entry| {
            let folder = entry.ok()?.path();
            let meta = read_yaml(&folder.join("meta.yaml")).ok()?;
            let is = |field: &str, wanted: &str| text_of(meta.get(field)).as_deref() == Some(wanted);
            let created = text_of(meta.get("creation_timestamp")).and_then(|time| time.parse::<u64>().ok());
            let id = folder.file_name()?.to_str()?.to_owned();
            let artifacts = folder.join("artifacts");
            (is("source_run_id", run_id) && is("name", name) && artifacts.is_dir())
                .then_some((created, id, artifacts))
        });
        of_run.max().map(|(_, id, artifacts)| (id, artifacts))
    }

    fn in_experiments(&self, tail: &str) -> Option<PathBuf> {
        self.plain(tail).ok()?;
        let entries = std::fs::read_dir(&self.root).ok()?;
        entries.filter_map(|entry| Some(entry.ok()?.path().join(tail))).find(|path| path.is_dir())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_leads_to_the_newest_model_it_logged_under_the_name_else_to_its_artifacts() {
        let root = tempfile::tempdir().unwrap();
        let store = FileStore::new("default".to_owned(), root.path().to_owned());
        let experiment = root.path().join("0");
        let put = |path: &str, text: &str| {
            let path = experiment.join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        put("r1/artifacts/old/MLmodel", "");
        for (id, run, name, time) in
            [("m-1", "r1", "m", 5), ("m-2", "r1", "m", 7), ("m-3", "r2", "m", 9), ("m-4", "r1", "n", 9)]
        {
            put(
                &format!("models/{id}/meta.yaml"),
                &format!("source_run_id: {run}\nname: {name}\ncreation_timestamp: {time}\n"),
            );
            put(&format!("models/{id}/artifacts/MLmodel"), "");
        }
        let place = |path: &str| {
            let model = ModelRef::Run { run_id: "r1".to_owned(), path: path.to_owned() };
            store.resolve(&model).map(|resolved| (resolved.identity, resolved.place))
        };
        let folder = |path: &str| Place::Folder(experiment.join(path));
        assert_eq!(place("m").unwrap(), ("m-2".to_owned(), folder("models/m-2/artifacts")));
        assert_eq!(place("old").unwrap(), ("r1/old".to_owned(), folder("r1/artifacts/old")));
        assert!(matches!(place("none"), Err(RegistryError::NotFound { .. })));
        assert!(place("../x").is_err() && place("m/../../x").is_err());
    }
}
