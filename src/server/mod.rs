//! An OSS endpoint on loopback over local stores: demo, tests, benches.
