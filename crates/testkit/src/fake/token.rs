//! Token endpoints: OAuth's, Google's metadata server's.

use serde_json::json;

use super::Log;
use super::server::millis;

/// Status, content type and body of the answer to a request that is in the log already.
pub(super) async fn answer(path: &str, log: &Log) -> (u16, &'static str, Vec<u8>) {
    let count =
        log.lock().map_or(0, |log| log.iter().filter(|request| request.path.ends_with("/token")).count());
    let mut life = 3600;
    for (word, value) in path.split('/').filter_map(|segment| segment.split_once('-')) {
        match word {
            "lives" => life = value.parse().unwrap_or(life),
            "fails" if count <= value.parse().unwrap_or(0) => {
                return (503, "text/plain", b"away".to_vec());
            }
            "slow" => tokio::time::sleep(millis(Some(value))).await,
            "status" => {
                let body = json!({ "error": "invalid_client", "error_description": "no such client" });
                return (value.parse().unwrap_or(500), "application/json", body.to_string().into_bytes());
            }
            _ => {}
        }
    }
    if path.contains("/html/") {
        return (200, "text/html", b"<html></html>".to_vec());
    }
    let body =
        json!({ "access_token": format!("token-{count}"), "expires_in": life, "token_type": "Bearer" });
    (200, "application/json", body.to_string().into_bytes())
}
