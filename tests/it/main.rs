//! Integration tests, one binary.

mod applications;
mod cli;
mod formats;
mod interop;
mod mount;
mod semantics;
mod server;
mod signing;
mod store;
mod support;
mod wire;
