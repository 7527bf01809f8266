//! Switches: one is asked, its answer decides who else is.

use futures_util::future::try_join_all;
use millgate_expr::Facts;
use millgate_policy::{Route, Switch};
use millgate_scoring::RowBody;
use millgate_types::Fault;
use serde_json::Value;

use super::chain::blame;
use super::{Answer, Body, Input, Run, failed};
use crate::snapshot::Target;

/// Rows that are decided on before others get a turn.
const TURN: usize = 256;

impl Run<'_> {
    pub(super) async fn switch(&self, switch: &Switch<Target>, input: Input<'_>) -> Result<Answer, Fault> {
        if switch.by_row {
            return self.switch_rows(switch, input).await;
        }
        let first = self.ask(&switch.of, input).await?;
        let result = first.rows()?;
        let facts = Facts { result: &result, request: self.request(), rows: self.request_rows() };
        match choose(switch, facts)? {
            None => Ok(first),
            Some(place) => self.ask(route_at(switch, place)?, input).await,
        }
    }

    /// Only the rows for which a case holds are asked again; the answers take the places of the first ones.
    async fn switch_rows(&self, switch: &Switch<Target>, input: Input<'_>) -> Result<Answer, Fault> {
        let made;
        let body = match input {
            Input::Body(body) => body,
            Input::Result(_) => {
                let first = switch.of.first();
                let target = first.first().ok_or_else(|| failed("the switch asks nobody"))?;
                made = self.body_for(target, input)?;
                &made
            }
        };
        let rows = body.rows()?;
        let first = self.ask(&switch.of, Input::Body(body)).await?;
        let Value::Array(mut answers) = first.rows()? else {
            return Err(failed("the first answer is no list of rows; `per: call` decides on it as a whole"));
        };
        if answers.len() != rows.len() {
            let (asked, found) = (rows.len(), answers.len());
            return Err(failed(format!("{asked} rows were asked about, {found} answered")));
        }
        let chosen = decide(switch, &rows, &answers).await?;
        if chosen.iter().all(Vec::is_empty) {
            return Ok(first);
        }
        let asked = chosen.iter().enumerate().filter(|(_, chosen)| !chosen.is_empty());
        let asked = asked.map(async |(place, chosen)| {
            let body = Body::json(rows.select(chosen));
            let route = route_at(switch, place)?;
            // The rows are the caller's, but it does not know their new numbers.
            let answer = self.ask(route, Input::Body(&body)).await.map_err(|fault| blame(fault, 1))?;
            match answer.rows()? {
                Value::Array(answers) => Ok((chosen, answers)),
                _ => Err(failed("the second answer is no list of rows")),
            }
        });
        for (chosen, second) in try_join_all(asked).await? {
            millgate_scoring::replace(&mut answers, chosen, second).map_err(failed)?;
        }
        Ok(Answer::of(&Value::Array(answers)))
    }
}

/// Per case, then for `else`, the rows that it gets.
async fn decide(
    switch: &Switch<Target>,
    rows: &RowBody,
    answers: &[Value],
) -> Result<Vec<Vec<usize>>, Fault> {
    let mut chosen: Vec<Vec<usize>> = vec![Vec::new(); switch.cases.len() + 1];
    for (row, result) in answers.iter().enumerate() {
        if row % TURN == TURN - 1 {
            tokio::task::yield_now().await;
        }
        let request = rows.row(row);
        let facts = Facts { result, request: &request, rows: answers.len() as u64 };
        if let Some(place) = choose(switch, facts)? {
            chosen[place].push(row);
        }
    }
    Ok(chosen)
}

/// The first case that holds, or the place behind them for `else`; `None` when the answer stays.
fn choose(switch: &Switch<Target>, facts: Facts<'_>) -> Result<Option<usize>, Fault> {
    for (place, (condition, _)) in switch.cases.iter().enumerate() {
        let holds = condition.holds(facts).map_err(|reason| {
            failed(format!("the condition of case {} cannot be evaluated: {reason}", place + 1))
        })?;
        if holds {
            return Ok(Some(place));
        }
    }
    Ok(switch.otherwise.as_ref().map(|_| switch.cases.len()))
}

fn route_at(switch: &Switch<Target>, place: usize) -> Result<&Route<Target>, Fault> {
    let route = switch.cases.get(place).map(|(_, route)| route).or(switch.otherwise.as_ref());
    route.ok_or_else(|| failed("the switch has no such case"))
}
