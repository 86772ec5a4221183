//! Warning headers of risky and deprecated fields.
