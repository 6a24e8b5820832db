//! Integration tests, one binary.

mod cli;
mod signing;
mod wire;
