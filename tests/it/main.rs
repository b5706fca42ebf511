//! The one integration binary.

mod answers;
mod balance;
mod catalog;
mod dedup;
mod events;
mod filter;
mod hostile;
mod identity;
mod layers;
mod life;
mod logs;
mod support;
mod verify;
