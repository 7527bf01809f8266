//! What a deployment's live version says about itself, for whoever lays models one behind another or describes them.

use std::sync::Arc;

use millgate_scoring::{ContentType, Inputs, Signature};
use millgate_types::Fault;

use crate::deployment::{Deployment, PredictRequest, Prediction};
use crate::live::Live;

/// A version that serves now. Its workers stay while this is held: ask again for each request.
#[derive(Clone)]
pub struct LiveModel(Arc<Live>);

impl std::fmt::Debug for LiveModel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("LiveModel").field(&self.0.version).finish()
    }
}

impl Deployment {
    /// The version that serves now, if one does.
    pub fn live_model(&self) -> Option<LiveModel> {
        self.live.load_full().map(LiveModel)
    }
}

impl Deployment {
    /// Predicts with a version that was live when it was taken hold of. Faults as [`Deployment::predict`].
    pub async fn predict_by(
        &self,
        live: &LiveModel,
        request: PredictRequest<'_>,
    ) -> Result<Prediction, Fault> {
        let content_type = ContentType::parse(request.content_type)?;
        self.score(Arc::clone(&live.0), content_type, request.body, request.deadline).await
    }
}

impl LiveModel {
    /// The version.
    #[must_use]
    pub fn version(&self) -> &Arc<str> {
        &self.0.version
    }

    /// sha256 over its files.
    #[must_use]
    pub fn digest(&self) -> &str {
        &self.0.digest
    }

    /// What it takes.
    #[must_use]
    pub fn signature(&self) -> &Signature {
        &self.0.model.signature
    }

    /// What it answers, as far as its signature says.
    #[must_use]
    pub fn outputs(&self) -> Option<&Inputs> {
        self.0.model.outputs.as_ref()
    }
}
