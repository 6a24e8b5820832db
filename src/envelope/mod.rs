//! How a wrapped key is written in object metadata.
