//! Small pieces that belong together leave by one plain `send`: below a few kilobytes copying costs less than
//! what the kernel does for a list of slices.

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::AsyncWrite;

/// Up to here pieces are copied together.
const LIMIT: usize = 8 << 10;

thread_local! {
    static SPACE: RefCell<[u8; LIMIT]> = const { RefCell::new([0; LIMIT]) };
}

/// Writes the slices in order, like [`AsyncWrite::poll_write_vectored`].
pub fn poll_write_gathered<S: AsyncWrite + Unpin>(
    socket: &mut S,
    context: &mut Context<'_>,
    slices: &[IoSlice<'_>],
) -> Poll<io::Result<usize>> {
    let mut filled = slices.iter().filter(|slice| !slice.is_empty());
    match (filled.next(), filled.next()) {
        (None, _) => return Poll::Ready(Ok(0)),
        (Some(only), None) => return Pin::new(socket).poll_write(context, only),
        _ => {}
    }
    let total: usize = slices.iter().map(|slice| slice.len()).sum();
    if total > LIMIT {
        return Pin::new(socket).poll_write_vectored(context, slices);
    }
    SPACE.with_borrow_mut(|space| {
        let mut at = 0;
        for slice in slices {
            space[at..at + slice.len()].copy_from_slice(slice);
            at += slice.len();
        }
        Pin::new(socket).poll_write(context, &space[..total])
    })
}
