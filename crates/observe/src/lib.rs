//! What is known of a request becomes log lines and metrics here, on a thread of its own. The request path
//! only puts its [`Exchange`](millgate_types::Exchange) into a mailbox; nothing here can slow or fail a
//! request.

mod access_log;
mod metrics;
mod recorder;

pub use metrics::{CONTENT_TYPE, LimitOutcome, Metrics, Waits};
pub use recorder::{LogSink, Recorder};
