//! Whom a container runs as: `User` of the image (or `runAsUser`), looked up in the image's own files.

use crate::{Image, UserError};

/// A user by numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct User {
    /// User id.
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
    /// The groups that /etc/group lists the user in, without the primary one.
    pub groups: Vec<u32>,
    /// The home folder, if /etc/passwd knows the user.
    pub home: Option<String>,
}

impl Image {
    /// Resolves `user`, `uid`, `user:group`, `uid:gid` (any mixture); empty is root.
    pub fn user(&self, spec: &str) -> Result<User, UserError> {
        let _ = spec;
        todo!()
    }
}
