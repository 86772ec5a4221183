//! Kinds, schemas, codecs, defaulting, validation and selectors; pure.
