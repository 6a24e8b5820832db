//! Integration tests, one binary.

mod cli;
mod counts;
mod endurance;
mod faults;
mod formats;
mod interop;
mod model;
mod open_file_states;
mod other_writers;
mod rig;
mod server;
mod signing;
mod store;
mod wire;
mod world;
