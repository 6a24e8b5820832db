//! Integration tests, one binary.

mod cli;
mod formats;
mod interop;
mod server;
mod signing;
mod store;
mod wire;
