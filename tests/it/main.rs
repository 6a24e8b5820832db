//! Integration tests, one binary.

mod signing;
mod wire;
