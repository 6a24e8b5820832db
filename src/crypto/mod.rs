//! Keys, the cipher, and everything that is secret.
