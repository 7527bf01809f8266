//! Ensembles: all members are asked at the same time, their answers become one.

use futures_util::future::try_join_all;
use futures_util::stream::{FuturesUnordered, StreamExt};
use millgate_policy::Ensemble;
use millgate_types::Fault;
use serde_json::Value;

use super::{Answer, Input, Run, failed, off_thread};
use crate::snapshot::Target;

impl Run<'_> {
    pub(super) async fn ensemble(
        &self,
        ensemble: &Ensemble<Target>,
        input: Input<'_>,
    ) -> Result<Answer, Fault> {
        let members = &ensemble.members;
        let answers: Vec<(f64, Answer)> = if ensemble.at_least >= members.len() {
            let asked = members
                .iter()
                .map(async |(weight, route)| self.ask(route, input).await.map(|answer| (*weight, answer)));
            // The first failure is the ensemble's, and nobody waits for the others.
            try_join_all(asked).await?
        } else {
            self.most(ensemble, input).await?
        };
        let by = ensemble.by;
        let size = answers.iter().map(|(_, answer)| answer.size()).sum();
        off_thread(size, move || {
            let rows: Vec<(f64, Value)> = answers
                .iter()
                .map(|(weight, answer)| Ok((*weight, answer.rows()?)))
                .collect::<Result<_, Fault>>()?;
            let rows: Vec<_> = rows.iter().map(|(weight, rows)| (*weight, rows)).collect();
            let combined = millgate_scoring::combine(&rows, by)
                .map_err(|reason| failed(format!("the members' answers do not go together: {reason}")))?;
            Ok(Answer::of(&combined))
        })
        .await
    }

    /// The answers of those that answer, if they are enough. In the members' order.
    async fn most(&self, ensemble: &Ensemble<Target>, input: Input<'_>) -> Result<Vec<(f64, Answer)>, Fault> {
        let count = ensemble.members.len();
        let mut asked: FuturesUnordered<_> = ensemble
            .members
            .iter()
            .enumerate()
            .map(async |(place, (weight, route))| (place, *weight, self.ask(route, input).await))
            .collect();
        let mut answers: Vec<Option<(f64, Answer)>> = (0..count).map(|_| None).collect();
        let mut failures = 0;
        while let Some((place, weight, answered)) = asked.next().await {
            match answered {
                Ok(answer) => answers[place] = Some((weight, answer)),
                Err(mut fault) => {
                    failures += 1;
                    if count - failures < ensemble.at_least {
                        if failures > 1 {
                            let public = &fault.public;
                            fault.public = format!(
                                "{failures} of {count} members failed, {} must answer; the last: {public}",
                                ensemble.at_least
                            )
                            .into();
                        }
                        return Err(fault);
                    }
                }
            }
        }
        Ok(answers.into_iter().flatten().collect())
    }
}

impl Answer {
    /// In bytes.
    pub(super) fn size(&self) -> usize {
        match self {
            Self::Predictions(body) => body.len(),
            Self::Text(text) => text.len(),
        }
    }
}
