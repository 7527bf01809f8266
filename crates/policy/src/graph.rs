//! Nodes of a route that need several answers: chains, ensembles, switches. Only their shape; who asks and puts together
//! is the server.

use std::sync::Arc;

use millgate_expr::{BodyTemplate, Condition};
use millgate_scoring::Combination;

use crate::Route;

/// A node that needs several answers. To a plan it is one thing to try, like a target.
#[derive(Debug)]
pub struct Graph<T> {
    /// What it is made of, for headers, logs and metrics: `chain(a -> b)`.
    pub label: Arc<str>,
    /// What it does.
    pub node: Node<T>,
}

/// What a graph does.
#[derive(Debug)]
pub enum Node<T> {
    /// Each answer is the next step's input.
    Chain(Vec<ChainStep<T>>),
    /// All are asked, their answers become one.
    Ensemble(Ensemble<T>),
    /// One is asked; its answer decides who else is.
    Switch(Switch<T>),
}

/// A step of a chain.
#[derive(Debug)]
pub struct ChainStep<T> {
    /// Who is asked.
    pub route: Route<T>,
    /// The body that it is sent; `None`: what came before, in the form that the target takes.
    pub body: Option<BodyTemplate>,
}

/// Models that answer the same input.
#[derive(Debug)]
pub struct Ensemble<T> {
    /// Who is asked, with their weights.
    pub members: Vec<(f64, Route<T>)>,
    /// How the answers become one.
    pub by: Combination,
    /// How many must answer.
    pub at_least: usize,
}

/// A model whose answer decides who else is asked.
#[derive(Debug)]
pub struct Switch<T> {
    /// Who is asked first.
    pub of: Route<T>,
    /// The first condition that holds counts.
    pub cases: Vec<(Condition, Route<T>)>,
    /// Where none holds; `None`: the first answer stays.
    pub otherwise: Option<Route<T>>,
    /// Whether each row is decided on.
    pub by_row: bool,
}

impl<T> Graph<T> {
    /// The routes that it is made of, in the order in which they are asked.
    pub fn parts(&self) -> Vec<&Route<T>> {
        match &self.node {
            Node::Chain(steps) => steps.iter().map(|step| &step.route).collect(),
            Node::Ensemble(ensemble) => ensemble.members.iter().map(|(_, route)| route).collect(),
            Node::Switch(switch) => std::iter::once(&switch.of)
                .chain(switch.cases.iter().map(|(_, route)| route))
                .chain(switch.otherwise.as_ref())
                .collect(),
        }
    }
}
