//! Wire formats in both directions. No IO happens here.

pub mod scan;
