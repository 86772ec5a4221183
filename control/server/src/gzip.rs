//! Compression of a streamed body, chunk by chunk.

use std::io::Write;

use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use futures::{Stream, StreamExt, stream};

use crate::body::{BoxError, ResponseBody};

/// The stream's bytes, gzipped at upstream's level (1: lists are compressed once and read once).
pub fn stream(
    source: impl Stream<Item = Result<Bytes, BoxError>> + Send + 'static,
) -> ResponseBody {
    let encoder = GzEncoder::new(Vec::new(), Compression::fast());
    let source = source.boxed();
    ResponseBody::stream(stream::try_unfold(
        Some((source, encoder)),
        |state| async move {
            let Some((mut source, mut encoder)) = state else {
                return Ok(None);
            };
            loop {
                match source.next().await {
                    Some(chunk) => {
                        encoder.write_all(&chunk?)?;
                        if !encoder.get_ref().is_empty() {
                            let out = std::mem::take(encoder.get_mut());
                            return Ok(Some((out.into(), Some((source, encoder)))));
                        }
                    }
                    None => {
                        let out = encoder.finish()?;
                        return Ok(Some((out.into(), None)));
                    }
                }
            }
        },
    ))
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use http_body_util::BodyExt;

    use super::*;

    #[tokio::test]
    async fn what_is_compressed_comes_back() {
        let chunks: Vec<Bytes> = (0..200)
            .map(|n| Bytes::from(format!("{n} ").repeat(700)))
            .collect();
        let whole = chunks.concat();
        let body = stream(stream::iter(chunks.into_iter().map(Ok)));
        let packed = body.collect().await.unwrap().to_bytes();
        assert!(packed.len() < whole.len());
        let mut back = Vec::new();
        flate2::read::GzDecoder::new(&packed[..])
            .read_to_end(&mut back)
            .unwrap();
        assert_eq!(back, whole);
    }
}
