//! Integration tests, one binary.

mod interop;
mod server;
mod signing;
mod store;
mod wire;
