//! The one integration binary.

mod cli;
mod config;
mod example;
mod secrets;
mod setup;
