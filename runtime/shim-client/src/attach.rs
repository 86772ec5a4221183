//! A running container's stdin and output, for a client that comes later.

use std::os::fd::{AsFd, OwnedFd};

use kernelet_shim::protocol::{Answer, Call};
use kernelet_spec::ContainerId;
use kernelet_sys::process;

use crate::{ShimError, Terminal, create::sys, shim::Shim};

/// What a client wants of a container, and is given as far as the container has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AttachWish {
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
}

/// A client's ends. Dropping them ends nothing of the container's.
#[derive(Debug, Default)]
pub struct Attached {
    /// What is written here the container reads. With a terminal, its controlling end again.
    pub stdin: Option<OwnedFd>,
    /// Output from now on; the end is the container's, or the client's own for reading nothing for seconds.
    pub stdout: Option<OwnedFd>,
    pub stderr: Option<OwnedFd>,
    /// The controlling end of the container's terminal: to be resized, not to be read.
    pub terminal: Option<Terminal>,
}

impl Shim {
    /// Copies of the container's output from now on, and its stdin.
    pub async fn attach(&self, id: &ContainerId, wish: AttachWish) -> Result<Attached, ShimError> {
        let mut attached = Attached::default();
        let mut theirs = Vec::new();
        for (wanted, ours) in [
            (wish.stdout, &mut attached.stdout),
            (wish.stderr, &mut attached.stderr),
        ] {
            if wanted {
                let (read, write) = process::pipe().map_err(sys("make a pipe"))?;
                *ours = Some(read);
                theirs.push(write);
            }
        }
        let call = Call::Attach {
            id: id.clone(),
            stdin: wish.stdin,
            stdout: wish.stdout,
            stderr: wish.stderr,
        };
        let descriptors: Vec<_> = theirs.iter().map(AsFd::as_fd).collect();
        let (answer, got) = self.call("attach", call, &descriptors).await?;
        let Answer::Attached { stdin, terminal } = answer else {
            let text = "attach was not answered by what it asked for";
            return Err(ShimError::Protocol(text.into()));
        };
        let handed = got.into_iter().next();
        match (handed, stdin, terminal) {
            (None, false, false) => {}
            (Some(control), stdin, true) => {
                if stdin {
                    let again = control.try_clone().map_err(ShimError::Socket)?;
                    attached.stdin = Some(again);
                }
                attached.terminal = Some(control);
            }
            (Some(end), true, false) => attached.stdin = Some(end),
            _ => {
                return Err(ShimError::Protocol(
                    "an attach's descriptors don't fit".into(),
                ));
            }
        }
        Ok(attached)
    }

    /// The container's stdin ends, as far as the shim holds it.
    pub async fn close_stdin(&self, id: &ContainerId) -> Result<(), ShimError> {
        self.call("close stdin", Call::CloseStdin(id.clone()), &[])
            .await
            .map(drop)
    }
}
