//! One layer's bytes into its spool, over as many connections as that takes.

use std::sync::Arc;

use http::{StatusCode, header};

use super::{
    PullEvent, error::RegistryError, http::Answer, resolve::Part, session::Session, spool::Spool,
};
use crate::{Digest, ImageError};

/// What is written at once, and told as progress.
const PIECE: usize = 512 << 10;

pub(super) async fn download(
    session: &Session,
    mut endpoint: usize,
    part: Part,
    spool: &Arc<Spool>,
) -> Result<(), RegistryError> {
    let mut tried = 0;
    let mut moved = 0;
    while spool.written() < part.size {
        let before = spool.written();
        let failure = match once(session, endpoint, part, spool).await {
            Ok(answered) => {
                endpoint = answered;
                continue;
            }
            Err(error @ RegistryError::Io { .. }) => error,
            Err(error) => {
                // What came is wrong for good; but nothing of it was taken when the endpoint said no.
                moved += 1;
                if spool.written() == 0
                    && moved < session.endpoints()
                    && !matches!(error, RegistryError::Content(_))
                {
                    endpoint += 1;
                    continue;
                }
                return Err(error);
            }
        };
        // A connection that got further counts as a first try.
        tried = if spool.written() > before {
            1
        } else {
            tried + 1
        };
        if tried >= session.retry.tries {
            return Err(failure);
        }
        session.pause(tried, None, &failure).await;
    }
    Ok(())
}

/// Asks for what is missing, and takes what comes.
async fn once(
    session: &Session,
    endpoint: usize,
    part: Part,
    spool: &Arc<Spool>,
) -> Result<usize, RegistryError> {
    let Part { digest, size } = part;
    let have = spool.written();
    let mut headers = vec![(header::ACCEPT_ENCODING, "identity".to_owned())];
    if have > 0 {
        headers.push((header::RANGE, format!("bytes={have}-")));
    }
    let (endpoint, mut answer) = session
        .get(endpoint, &format!("blobs/{digest}"), &headers)
        .await?;
    // What an answer without the range brings again; the digest tells whether it is the same.
    let mut skip = begins(&answer, have, part)?;
    let mut buffer = Vec::new();
    let ended = loop {
        let mut piece = match session.http.piece(&mut answer).await {
            Ok(Some(piece)) => piece,
            Ok(None) => break Ok(()),
            Err(error) => break Err(error),
        };
        let skipped = skip.min(piece.len() as u64);
        skip -= skipped;
        let _ = piece.split_to(usize::try_from(skipped).expect("not longer than the piece"));
        let taken = spool.written() + (buffer.len() + piece.len()) as u64;
        if taken > size {
            return Err(wrong_size(digest, size, taken).into());
        }
        buffer.extend_from_slice(&piece);
        if buffer.len() >= PIECE {
            write(session, spool, digest, std::mem::take(&mut buffer)).await?;
        }
    };
    if !buffer.is_empty() {
        write(session, spool, digest, buffer).await?;
    }
    ended?;
    let found = spool.written();
    if found < size {
        // It ended as if that were all: a proxy's time limit looks like this, too.
        return Err(RegistryError::Io {
            method: "GET",
            url: answer.url.to_string(),
            attempt: format!("read {size} bytes, of which {found} came"),
            source: std::io::ErrorKind::UnexpectedEof.into(),
        });
    }
    Ok(endpoint)
}

/// How much of the answer is known already.
fn begins(answer: &Answer, have: u64, part: Part) -> Result<u64, RegistryError> {
    let Part { digest, size } = part;
    let (skip, expected) = if answer.status == StatusCode::PARTIAL_CONTENT {
        let range = answer.header(&header::CONTENT_RANGE).unwrap_or_default();
        let begins = range
            .strip_prefix("bytes ")
            .and_then(|range| range.split('-').next()?.trim().parse::<u64>().ok());
        if begins != Some(have) {
            return Err(RegistryError::Protocol {
                url: answer.url.to_string(),
                problem: format!("with the range {range:?}, where byte {have} was asked for"),
            });
        }
        (0, size - have)
    } else {
        (have, size)
    };
    match answer.length() {
        Some(length) if length != expected => {
            Err(wrong_size(digest, size, size - expected + length).into())
        }
        _ => Ok(skip),
    }
}

fn wrong_size(digest: Digest, expected: u64, found: u64) -> ImageError {
    ImageError::WrongSize {
        what: format!("the layer {digest}"),
        expected,
        found,
    }
}

/// The disk may be slow, so others don't wait for it.
async fn write(
    session: &Session,
    spool: &Arc<Spool>,
    digest: Digest,
    bytes: Vec<u8>,
) -> Result<(), RegistryError> {
    let to = spool.clone();
    let written = tokio::task::spawn_blocking(move || to.append(&bytes)).await;
    written
        .unwrap_or_else(|panic| Err(std::io::Error::other(panic)))
        .map_err(|source| ImageError::Io {
            attempt: "write the download of",
            path: digest.to_string().into(),
            source,
        })?;
    (session.progress)(&PullEvent::Downloading {
        digest,
        bytes: spool.written(),
        of: spool.size,
    });
    Ok(())
}
