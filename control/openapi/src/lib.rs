//! OpenAPI v2 and v3, discovery documents and tables; pure.
