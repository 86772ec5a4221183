//! HTTP as the API speaks it: negotiation, bodies, answers.

pub mod negotiate;
pub mod respond;
