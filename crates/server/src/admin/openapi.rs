//! The API's document, OpenAPI 3.1, made from the table of routes.

use http::Method;
use millgate_types::Permission;
use schemars::SchemaGenerator;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use super::{Answer, Manner, PREFIX, ROUTES, Route};

pub(super) fn routes() -> [Route; 1] {
    [Route {
        method: Method::GET,
        path: "/openapi.json",
        needs: Permission::Read,
        summary: "This document",
        query: &[],
        request: None,
        response: |_| true.into(),
        manner: Manner::default(),
        handle: |_| Box::pin(async { Answer::ok(&document()) }),
    }]
}

impl Route {
    /// The same again, for routes that differ in some fields.
    pub(super) fn copy(&self) -> Self {
        Self { method: self.method.clone(), ..*self }
    }

    /// `get /deployments/{endpoint}` as `getDeployments`, with what tells it from its neighbours.
    fn operation_id(&self) -> String {
        let mut id = self.method.as_str().to_lowercase();
        for word in self.path.split(['/', '{', '}', '.', '_', '-']).filter(|word| !word.is_empty()) {
            let (first, rest) = word.split_at(1);
            id.push_str(&first.to_uppercase());
            id.push_str(rest);
        }
        id
    }
}

/// The document.
fn document() -> Value {
    let mut generator = SchemaGenerator::new(SchemaSettings::draft2020_12().with(|settings| {
        settings.definitions_path = "/components/schemas".into();
    }));
    let mut paths: Map<String, Value> = Map::new();
    for route in ROUTES.iter() {
        let operation = operation(route, &mut generator);
        let path = paths.entry(format!("{PREFIX}{}", route.path)).or_insert_with(|| json!({}));
        path[route.method.as_str().to_lowercase()] = operation;
    }
    let mut schemas = generator.take_definitions(true);
    schemas.insert("Problem".to_owned(), problem());
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Millgate admin API",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "What a Millgate gateway serves, how it is, and how to change it.",
        },
        "security": [{ "key": [] }],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": { "key": { "type": "http", "scheme": "bearer" } },
        },
    })
}

fn operation(route: &Route, generator: &mut SchemaGenerator) -> Value {
    let segments = route.path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'));
    let in_path = segments
        .map(|name| json!({ "name": name, "in": "path", "required": true, "schema": { "type": "string" } }));
    let in_query = route.query.iter().map(|(name, meaning)| {
        json!({ "name": name, "in": "query", "description": meaning, "schema": { "type": "string" } })
    });
    let mut operation = json!({
        "operationId": route.operation_id(),
        "summary": route.summary,
        "description": format!("Needs the role `{}`.", route.needs.name()),
        "parameters": in_path.chain(in_query).collect::<Vec<_>>(),
        "responses": {
            "2XX": {
                "description": "Done, or under way (202).",
                "content": { "application/json": { "schema": (route.response)(generator) } },
            },
            "default": {
                "description": "What went wrong.",
                "content": {
                    "application/problem+json": { "schema": { "$ref": "#/components/schemas/Problem" } },
                },
            },
        },
    });
    if let Some(request) = route.request {
        operation["requestBody"] =
            json!({ "content": { "application/json": { "schema": request(generator) } } });
    }
    operation
}

/// The shape of errors: problem details (RFC 9457).
fn problem() -> Value {
    json!({
        "type": "object",
        "required": ["type", "title", "status", "detail", "code", "request_id"],
        "properties": {
            "type": { "type": "string", "description": "`urn:millgate:error:` and the code" },
            "title": { "type": "string" },
            "status": { "type": "integer" },
            "detail": { "type": "string" },
            "code": { "type": "string" },
            "request_id": { "type": "string" },
            "errors": {
                "type": "array",
                "items": {
                    "type": "object",
                    "properties": { "pointer": { "type": "string" }, "detail": { "type": "string" } },
                },
            },
        },
    })
}
