//! Integration tests, one binary.

mod cli;
mod formats;
mod signing;
mod wire;
