//! The one integration binary.

mod answers;
mod catalog;
mod dedup;
mod support;
mod verify;
