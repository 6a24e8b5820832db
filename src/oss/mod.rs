//! The protocol of the service: request, signature, client, retry, XML, credentials.
