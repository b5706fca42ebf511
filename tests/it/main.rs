//! The one integration binary.

mod answers;
mod catalog;
mod support;
mod verify;
