//! Certificates, keys, rustls configurations and the TLS accept loop.
