//! What stands for a registered model that chats where providers stand: known dialects, no address, no credential.

use std::sync::{Arc, LazyLock};

use http::HeaderMap;
use indexmap::IndexMap;
use millgate_config::{Config, ServingConfig};
use millgate_credential::Credential;
use millgate_models::Deployment;
use millgate_provider::ProviderKind;
use millgate_types::{Dialect, Operation};
use millgate_upstream::Deadlines;

use super::known::{Known, KnownModels};
use super::{Place, Provider, Transport, Way};
use crate::dispatch::ChatTarget;
use crate::standing::Standing;

static KIND: LazyLock<ProviderKind> = LazyLock::new(ProviderKind::registered_model);

/// The target of a chat model.
pub(super) fn target(deployment: Arc<Deployment>, serving: &ServingConfig, config: &Config) -> ChatTarget {
    let total = config.server.answer_timeout.0;
    let provider = |dialect| Provider {
        name: KIND.name.as_str().into(),
        kind: &KIND,
        quirks: KIND.quirks.clone(),
        // Takes the model's place until a call sets it.
        transport: Transport::Mock,
        base: String::new(),
        headers: HeaderMap::new(),
        deadlines: Deadlines { connect: total, head: total, idle: total, total },
        first_content: None,
        credential: Credential::Fixed,
        scorer: None,
        described: Arc::default(),
        rules: Arc::default(),
        standing: Arc::new(Standing::unwatched()),
        ways: vec![Way {
            dialect,
            operation: Operation::Chat,
            stream: false,
            place: Place::Fixed(String::new()),
        }],
        families: Vec::new(),
        models: Arc::new(KnownModels::new(IndexMap::new(), &config.catalogue)),
    };
    let name = deployment.status().model;
    ChatTarget {
        name: name.into(),
        known: Known { price: serving.token_price().map(Arc::new), ..Known::default() },
        messages: provider(Dialect::OpenAi),
        responses: provider(Dialect::Responses),
        deployment,
    }
}
