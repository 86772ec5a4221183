//! Credentials, what is kept of requests, and what is kept of Secrets.

#[path = "../common/mod.rs"]
mod common;

mod at_rest;
mod audit;
mod credentials;
mod reviews;
