//! The service as an [`ObjectStore`](super::object_store::ObjectStore).
