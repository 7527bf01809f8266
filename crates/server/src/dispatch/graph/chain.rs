//! Chains: each answer is the next step's input.

use millgate_expr::{BodyTemplate, Facts};
use millgate_policy::ChainStep;
use millgate_types::{Fault, Retry, Source, code};
use serde_json::Value;

use super::{Answer, Body, Input, Run, failed, types};
use crate::snapshot::Target;

impl Run<'_> {
    pub(super) async fn chain(&self, steps: &[ChainStep<Target>], input: Input<'_>) -> Result<Answer, Fault> {
        types::check(steps)?;
        match self.steps(steps, input).await? {
            Some(answer) => Ok(answer),
            None => Err(failed("the chain has no step")),
        }
    }

    /// Asks the steps in order; gives the last one's answer.
    pub(super) async fn steps(
        &self,
        steps: &[ChainStep<Target>],
        input: Input<'_>,
    ) -> Result<Option<Answer>, Fault> {
        let mut last: Option<Answer> = None;
        for (number, step) in steps.iter().enumerate() {
            let result = last.as_ref().map(Answer::result).transpose()?;
            let answered = match (&step.body, &result) {
                (Some(template), result) => {
                    let body = self.fill(template, result.as_ref(), number)?;
                    self.ask(&step.route, Input::Body(&Body::json(body))).await
                }
                (None, None) => self.ask(&step.route, input).await,
                (None, Some(result)) => self.ask(&step.route, Input::Result(result)).await,
            };
            // What the caller sent is seen by the first step alone.
            let is_ours = number > 0 || step.body.is_some();
            last = Some(answered.map_err(|fault| if is_ours { blame(fault, number) } else { fault })?);
        }
        Ok(last)
    }

    /// The body that a template makes of what came before; of what the caller sent at the first step.
    pub(super) fn fill(
        &self,
        template: &BodyTemplate,
        result: Option<&Value>,
        number: usize,
    ) -> Result<String, Fault> {
        let request = self.request();
        let facts = Facts { result: result.unwrap_or(request), request, rows: self.request_rows() };
        let filled =
            template.fill(facts).map_err(|reason| failed(format!("step {}: {reason}", number + 1)))?;
        Ok(filled.to_string())
    }
}

/// A step that refuses its input has been sent it by us: that is no fault of the caller.
pub(super) fn blame(fault: Fault, number: usize) -> Fault {
    if fault.source != Source::Client && fault.code.status != 400 {
        return fault;
    }
    let public = format!("step {} does not take what it is sent: {}", number + 1, fault.public);
    let mut blamed = Fault::new(code::GRAPH_FAILED, Source::Gateway, Retry::NextTarget, public);
    blamed.upstream_status = fault.upstream_status;
    blamed.cause = fault.cause;
    blamed
}
