//! Integration tests, one binary.

mod cli;
mod interop;
mod server;
mod signing;
mod store;
