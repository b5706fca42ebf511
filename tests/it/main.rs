//! The one integration binary.

mod catalog;
mod support;
mod verify;
