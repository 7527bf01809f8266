//! Documents in every form, and every message a broken one gets.

mod examples;
mod forms;
mod problems;
mod schema;

use millgate_config::{Loaded, Values, load, load_with};

fn loaded(text: &str) -> Loaded {
    load(text).unwrap_or_else(|problems| {
        let lines: Vec<_> = problems.iter().map(|problem| problem.in_file("f.yaml")).collect();
        panic!("{}", lines.join("\n"))
    })
}

fn problems(text: &str) -> String {
    // What a gateway looks up is taken as good.
    let found = match load_with(text, &Values::placeholders()) {
        Ok(loaded) => loaded.warnings,
        Err(problems) => problems,
    };
    found.iter().map(|problem| problem.in_file("f.yaml")).collect::<Vec<_>>().join("\n")
}
