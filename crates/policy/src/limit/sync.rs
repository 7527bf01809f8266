//! What is shared between threads here: the standard library's, or `loom`'s where its model checker runs the tests of
//! `tests/loom.rs`.

#[cfg(feature = "loom")]
pub(super) use loom::sync::atomic::{AtomicUsize, Ordering};
#[cfg(feature = "loom")]
pub(super) use loom::sync::{Mutex, MutexGuard};
#[cfg(not(feature = "loom"))]
pub(super) use std::sync::atomic::{AtomicUsize, Ordering};
#[cfg(not(feature = "loom"))]
pub(super) use std::sync::{Mutex, MutexGuard};
