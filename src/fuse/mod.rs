//! Kernel requests in, replies out.
