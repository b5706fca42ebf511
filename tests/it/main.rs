//! The one integration binary.

mod answers;
mod catalog;
mod dedup;
mod events;
mod identity;
mod support;
mod verify;
