//! The one integration binary.

mod cli;
mod config;
mod docs;
mod example;
mod secrets;
mod setup;
