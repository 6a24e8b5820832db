//! Integration tests, one binary.

mod applications;
mod cli;
mod counts;
mod endurance;
mod faults;
mod formats;
mod fuzz;
mod interop;
mod model;
mod mount;
mod open_file_states;
mod other_writers;
mod refusals;
mod rig;
mod secrets;
mod semantics;
mod sentences;
mod server;
mod signing;
mod small_trees;
mod store;
mod support;
mod tools;
mod under_way;
mod wire;
mod world;
