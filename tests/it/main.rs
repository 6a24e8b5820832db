//! Integration tests, one binary.

mod signing;
