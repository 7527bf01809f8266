//! The launcher that this crate's tests use in place of the millgate binary.

fn main() -> Result<(), String> {
    let mut arguments = std::env::args().skip(1);
    match (arguments.next().as_deref(), arguments.next()) {
        (Some("worker-exec"), Some(json)) => millgate_models::worker_exec(&json).map(|never| match never {}),
        _ => Err("usage: millgate-worker-exec worker-exec JSON".to_owned()),
    }
}
