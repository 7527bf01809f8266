//! How a model in a registry is named: MLflow's `models:/` URIs.

use std::fmt;

/// Which version of a registered model.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum VersionSelector {
    /// `models:/name/3`
    Version(u64),
    /// `models:/name/Production`; matched without regard to case, as MLflow does.
    Stage(String),
    /// `models:/name@champion`
    Alias(String),
    /// `models:/name/latest`: the highest version number.
    Latest,
}

/// A model in a registry, as written in config.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ModelRef {
    /// A registered model and one of its versions.
    Registered {
        /// The registered model's name. MLflow forbids `/` and `:` in it.
        name: String,
        /// Which version.
        selector: VersionSelector,
    },
    /// A logged model, `models:/m-<id>`.
    Logged(String),
    /// Artifacts of a run, `runs:/<run id>/<path>`.
    Run {
        /// The run's id.
        run_id: String,
        /// The model's folder inside the run's artifacts.
        path: String,
    },
    /// A model folder on this machine (`file:///path` or a bare path), for `models serve`.
    Path(String),
}

/// Why a string is not a [`ModelRef`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelRefError(pub &'static str);

impl fmt::Display for ModelRefError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for ModelRefError {}

impl ModelRef {
    /// Parses `models:/name/3`, `models:/name/Stage`, `models:/name/latest`, `models:/name@alias`,
    /// `models:/m-<id>`, `runs:/<id>/<path>`, `file:///path`.
    pub fn parse(text: &str) -> Result<Self, ModelRefError> {
        if let Some(rest) = text.strip_prefix("runs:/") {
            let rest = rest.trim_start_matches('/');
            let (run_id, path) =
                rest.split_once('/').ok_or(ModelRefError("expected `runs:/<run id>/<path>`"))?;
            return Ok(Self::Run { run_id: run_id.to_owned(), path: path.to_owned() });
        }
        if let Some(path) = text.strip_prefix("file://") {
            return Ok(Self::Path(path.to_owned()));
        }
        let Some(rest) = text.strip_prefix("models:/") else {
            return Err(ModelRefError("expected a `models:/`, `runs:/` or `file://` URI"));
        };
        let rest = rest.trim_start_matches('/');
        if let Some((name, alias)) = rest.split_once('@') {
            check_name(name)?;
            if alias.is_empty() || alias.contains('/') {
                return Err(ModelRefError("the alias after `@` is empty or holds `/`"));
            }
            return Ok(Self::Registered {
                name: name.to_owned(),
                selector: VersionSelector::Alias(alias.to_owned()),
            });
        }
        match rest.split_once('/') {
            Some((name, version)) => {
                check_name(name)?;
                if version.is_empty() || version.contains('/') {
                    return Err(ModelRefError("expected `models:/name/<version or stage>`"));
                }
                Ok(Self::Registered { name: name.to_owned(), selector: VersionSelector::parse(version) })
            }
            None if rest.starts_with("m-") => Ok(Self::Logged(rest.to_owned())),
            None => Err(ModelRefError(
                "a version is missing: use `models:/name/3`, `/Production`, `/latest` or `@alias`",
            )),
        }
    }
}

impl VersionSelector {
    /// Reads the part after the name: digits are a version, `latest` the highest, anything else a stage.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        match text.parse::<u64>() {
            Ok(version) => Self::Version(version),
            Err(_) if text.eq_ignore_ascii_case("latest") => Self::Latest,
            Err(_) => Self::Stage(text.to_owned()),
        }
    }
}

fn check_name(name: &str) -> Result<(), ModelRefError> {
    if name.is_empty() || name.contains([':', '\0']) || name == "." || name == ".." {
        return Err(ModelRefError("the model's name is empty or holds `:`"));
    }
    Ok(())
}

impl fmt::Display for ModelRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Registered { name, selector } => match selector {
                VersionSelector::Version(version) => write!(f, "models:/{name}/{version}"),
                VersionSelector::Stage(stage) => write!(f, "models:/{name}/{stage}"),
                VersionSelector::Alias(alias) => write!(f, "models:/{name}@{alias}"),
                VersionSelector::Latest => write!(f, "models:/{name}/latest"),
            },
            Self::Logged(id) => write!(f, "models:/{id}"),
            Self::Run { run_id, path } => write!(f, "runs:/{run_id}/{path}"),
            Self::Path(path) => write!(f, "file://{path}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_uri_form_survives_a_round_trip() {
        for uri in [
            "models:/Iris/3",
            "models:/Iris/Production",
            "models:/Iris@champion",
            "models:/Iris/latest",
            "models:/m-0123abcd",
            "runs:/abc/model",
            "file:///srv/model",
        ] {
            assert_eq!(ModelRef::parse(uri).map(|model| model.to_string()), Ok(uri.to_owned()));
        }
    }

    #[test]
    fn a_uri_without_a_version_says_what_is_missing() {
        assert!(ModelRef::parse("models:/Iris").is_err_and(|error| error.0.contains("version is missing")));
        assert!(ModelRef::parse("models:/a:b/1").is_err());
        assert!(ModelRef::parse("Iris").is_err());
    }
}
