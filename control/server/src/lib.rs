//! The API server: HTTP, authentication, authorisation, admission, watch cache.
