//! `params` beside the input.

use millgate_types::{Fault, code};

use crate::cell;
use crate::json::Json;
use crate::shown;
use crate::signature::{Kind, Param};

/// Checks what callers send against the params schema. Without one MLflow ignores params, and so do we; a
/// parameter the schema does not name is refused, where MLflow drops it with a line in its log.
pub(crate) fn check(given: Option<&Json<'_>>, schema: Option<&[Param]>) -> Result<(), Fault> {
    let members = match given {
        None | Some(Json::Null) => return Ok(()),
        Some(Json::Object(members)) => members,
        Some(other) => {
            let text = format!("`params`: expected an object, found {}", other.type_name());
            return Err(Fault::client(code::SCHEMA_MISMATCH, text).with_param("params"));
        }
    };
    let Some(schema) = schema else { return Ok(()) };
    for (key, value) in members {
        let path = format!("params.{}", shown(key));
        let fail = |text: String| Fault::client(code::SCHEMA_MISMATCH, text).with_param(path.clone());
        let Some(param) = schema.iter().find(|param| param.name == *key) else {
            return Err(fail(format!("the model has no parameter `{}`", shown(key))));
        };
        let misfit = |misfit: cell::Misfit| {
            fail(format!("`{path}{}`: expected {}, found {}", misfit.within, misfit.expected, misfit.found))
        };
        match (param.list, value) {
            (false, Json::Null) => {}
            (false, value) => one(&param.kind, value).map_err(misfit)?,
            (true, Json::Array(items)) => {
                items.iter().try_for_each(|item| one(&param.kind, item)).map_err(misfit)?;
            }
            (true, other) => {
                return Err(fail(format!("`{path}`: expected a list, found {}", other.type_name())));
            }
        }
    }
    Ok(())
}

fn one(kind: &Kind, value: &Json<'_>) -> Result<(), cell::Misfit> {
    match (kind, value) {
        (Kind::Float | Kind::Double | Kind::Boolean | Kind::Text, Json::Null) => {
            Err(cell::Misfit::new(kind, "null"))
        }
        _ => cell::check(kind, value),
    }
}
