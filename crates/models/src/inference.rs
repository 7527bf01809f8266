//! Deployments by the Open Inference Protocol: a translation around [`Deployment::predict`].

use bytes::Bytes;
use millgate_scoring::{ContentType, Signature, inference};
use millgate_types::{Fault, Retry, code};
use serde_json::{Value, json};

use crate::deployment::{Deployment, PredictRequest, Prediction};

/// A request of the protocol.
#[derive(Clone, Debug)]
pub struct InferenceRequest<'a> {
    /// The model as the path names it.
    pub model: &'a str,
    /// The version that the path asks for.
    pub version: Option<&'a str>,
    /// The value of [`inference::JSON_LENGTH`].
    pub json_length: Option<usize>,
    /// Body and deadline.
    pub request: PredictRequest<'a>,
}

/// What the protocol's own words cannot say of a signature: the JSON Schema of the scoring protocol's bodies.
#[must_use]
pub fn described(signature: &Signature) -> Value {
    json!({ "scoring_request_schema": millgate_scoring::request_schema(signature) })
}

impl Deployment {
    /// Predicts with tensors. Gives the length of the JSON part where binary tensors stand behind it. Faults: those of
    /// [`Deployment::predict`], [`inference::read`] and [`inference::write`]; `model_not_found` for a version that does
    /// not serve.
    pub async fn infer(&self, asked: InferenceRequest<'_>) -> Result<(Prediction, Option<usize>), Fault> {
        let live = self.live()?;
        self.check_version(&live.version, asked.version)?;
        let read = inference::read(&asked.request.body, asked.json_length, &live.model.signature)?;
        let body = Bytes::from(read.body);
        let mut prediction = self.score(live, ContentType::Json, body, asked.request.deadline).await?;
        if prediction.status != 200 {
            let public = "the model refused the input";
            return Err(Fault::new(
                code::MODEL_REJECTED_INPUT,
                millgate_types::Source::Worker,
                Retry::Never,
                public,
            ));
        }
        let (body, length) =
            inference::write(&prediction.body, asked.model, &prediction.version, &read.wanted)?;
        prediction.body = body.into();
        Ok((prediction, length))
    }

    /// What the protocol tells of the model. Faults as [`Self::infer`], where nothing is live.
    pub fn inference_metadata(&self, model: &str, version: Option<&str>) -> Result<Value, Fault> {
        let live = self.live()?;
        self.check_version(&live.version, version)?;
        let (inputs, outputs) = (live.model.signature.inputs.as_ref(), live.model.outputs.as_ref());
        let mut metadata = inference::metadata(model, &live.version, inputs, outputs);
        metadata["parameters"] = described(&live.model.signature);
        Ok(metadata)
    }

    fn check_version(&self, serves: &str, asked: Option<&str>) -> Result<(), Fault> {
        match asked {
            Some(asked) if asked != serves => {
                let public = format!("endpoint `{}` serves version {serves} now", self.spec().endpoint);
                Err(Fault::client(code::MODEL_NOT_FOUND, public))
            }
            _ => Ok(()),
        }
    }
}
