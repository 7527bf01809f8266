//! Work that waits for a disk or a core, some of it at a time: a thousand models that come at once would otherwise take
//! hundreds of threads, and memory with each.

use std::sync::LazyLock;

use tokio::sync::Semaphore;
use tokio::task::JoinError;

static PLACES: LazyLock<Semaphore> = LazyLock::new(|| {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    Semaphore::new((2 * cores).max(4))
});

/// Runs `work` on the blocking pool when a place is free. `work` must not wait for other work of this kind.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, JoinError> {
    // It is never closed.
    let _place = PLACES.acquire().await;
    tokio::task::spawn_blocking(work).await
}
