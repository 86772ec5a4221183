//! A bundle's `config.json` as a plan.
