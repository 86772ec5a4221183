//! gRPC probes: one call of `grpc.health.v1.Health/Check`, over HTTP/2 without TLS, as upstream's prober makes it.
//!
//! ```text
//!   HealthCheckRequest  { 1: service (string) }      a message on the wire: flag u8 │ length u32 │ protobuf
//!   HealthCheckResponse { 1: status (enum) }         the call's own outcome: trailers grpc-status, grpc-message
//! ```

use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use kernelet_pod_plan::go_seconds;
use tokio::{
    net::TcpStream,
    task::JoinHandle,
    time::{Instant, sleep, timeout_at},
};

use super::HandlerError;
use crate::errors::chain;

const METHOD: &str = "/grpc.health.v1.Health/Check";
/// An answer is a few bytes long.
const ANSWER_LIMIT: usize = 4 << 10;
/// Between two attempts to connect.
const AGAIN: Duration = Duration::from_millis(250);
const UNIMPLEMENTED: u32 = 12;
const DEADLINE_EXCEEDED: u32 = 4;
/// The names of gRPC's status codes.
const CODES: [&str; 17] = [
    "OK",
    "Canceled",
    "Unknown",
    "InvalidArgument",
    "DeadlineExceeded",
    "NotFound",
    "AlreadyExists",
    "PermissionDenied",
    "ResourceExhausted",
    "FailedPrecondition",
    "Aborted",
    "OutOfRange",
    "Unimplemented",
    "Internal",
    "Unavailable",
    "DataLoss",
    "Unauthenticated",
];

/// What the call came to.
#[derive(Debug, PartialEq, Eq)]
enum Answer {
    /// `HealthCheckResponse.status`.
    Health(u64),
    Error {
        code: u32,
        message: String,
    },
}

/// Asks whether `service` is healthy.
pub(crate) async fn grpc_health(
    host: &str,
    port: u16,
    service: &str,
    limit: Duration,
) -> Result<(), HandlerError> {
    let failed = |text: String| HandlerError::Failed(text);
    let deadline = Instant::now() + limit;
    let address = if host.contains(':') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    };
    let within = go_seconds(limit);
    let Ok((mut sender, connection)) = timeout_at(deadline, connected(host, port)).await else {
        return Err(failed(format!(
            "timeout: failed to connect service {address:?} within {within}: context deadline exceeded"
        )));
    };
    let answer = timeout_at(deadline, check(&mut sender, &address, service, limit)).await;
    connection.abort();
    let late = || {
        failed(format!(
            "timeout: health rpc did not complete within {within}"
        ))
    };
    match answer {
        Err(_) => Err(late()),
        Ok(Ok(Answer::Health(1))) => Ok(()),
        Ok(Ok(Answer::Health(status))) => {
            let name = match status {
                0 => "UNKNOWN".to_owned(),
                2 => "NOT_SERVING".to_owned(),
                3 => "SERVICE_UNKNOWN".to_owned(),
                other => other.to_string(),
            };
            Err(failed(format!(
                "service unhealthy (responded with {name:?})"
            )))
        }
        Ok(Ok(Answer::Error { code, .. })) if code == DEADLINE_EXCEEDED => Err(late()),
        Ok(Ok(Answer::Error { code, message })) if code == UNIMPLEMENTED => Err(failed(format!(
            "error: this server does not implement the grpc health protocol (grpc.health.v1.Health): {message}"
        ))),
        Ok(Ok(Answer::Error { code, message })) => {
            let name = usize::try_from(code)
                .ok()
                .and_then(|n| CODES.get(n).copied());
            let name = name.map_or_else(|| format!("Code({code})"), str::to_owned);
            Err(failed(format!(
                "error: health rpc probe failed: rpc error: code = {name} desc = {message}"
            )))
        }
        Ok(Err(why)) => Err(failed(format!(
            "error: health rpc probe failed: rpc error: code = Unavailable desc = {why}"
        ))),
    }
}

/// Tries until it is cancelled: a server that isn't there yet may come within the probe's time.
async fn connected(host: &str, port: u16) -> (SendRequest<Full<Bytes>>, JoinHandle<()>) {
    loop {
        if let Ok(stream) = TcpStream::connect((host, port)).await {
            let shaken = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
            if let Ok((sender, connection)) = shaken {
                let connection = tokio::spawn(async move {
                    if let Err(error) = connection.await {
                        tracing::debug!(%error, "a probe's connection ended");
                    }
                });
                return (sender, connection);
            }
        }
        sleep(AGAIN).await;
    }
}

async fn check(
    sender: &mut SendRequest<Full<Bytes>>,
    address: &str,
    service: &str,
    limit: Duration,
) -> Result<Answer, String> {
    let request = Request::post(format!("http://{address}{METHOD}"))
        .header(http::header::CONTENT_TYPE, "application/grpc")
        .header(http::header::TE, "trailers")
        .header(http::header::USER_AGENT, "kube-probe/1.35")
        .header("grpc-timeout", format!("{}m", limit.as_millis()))
        .body(Full::new(message(service)))
        .map_err(|e| e.to_string())?;
    let answer = sender.send_request(request).await.map_err(|e| chain(&e))?;
    let (head, body) = answer.into_parts();
    let body = Limited::new(body, ANSWER_LIMIT)
        .collect()
        .await
        .map_err(|e| e.to_string())?;
    let trailers = body.trailers().cloned().unwrap_or_default();
    Ok(read(
        head.status,
        &head.headers,
        &trailers,
        &body.to_bytes(),
    ))
}

/// A HealthCheckRequest with its frame.
fn message(service: &str) -> Bytes {
    let mut proto = BytesMut::new();
    if !service.is_empty() {
        proto.put_u8(0x0a);
        varint(&mut proto, service.len() as u64);
        proto.put_slice(service.as_bytes());
    }
    let mut framed = BytesMut::with_capacity(proto.len() + 5);
    framed.put_u8(0);
    framed.put_u32(proto.len() as u32);
    framed.put_slice(&proto);
    framed.freeze()
}

fn varint(out: &mut BytesMut, mut n: u64) {
    while n >= 0x80 {
        out.put_u8((n as u8) | 0x80);
        n >>= 7;
    }
    out.put_u8(n as u8);
}

fn read(status: StatusCode, headers: &HeaderMap, trailers: &HeaderMap, body: &[u8]) -> Answer {
    let text = |name: &str| {
        // With nothing to say but the outcome, a server sends it as headers.
        let value = trailers.get(name).or_else(|| headers.get(name))?;
        value.to_str().ok().map(str::to_owned)
    };
    let error = |code: u32, message: String| Answer::Error { code, message };
    match text("grpc-status").map(|code| code.parse::<u32>()) {
        Some(Ok(0)) => match health(body) {
            Some(health) => Answer::Health(health),
            None => error(13, "the answer is no HealthCheckResponse".to_owned()),
        },
        Some(Ok(code)) => {
            let message = text("grpc-message").unwrap_or_default();
            let message = percent_decoded(&message);
            error(code, message)
        }
        Some(Err(_)) => error(2, "malformed grpc-status".to_owned()),
        None => {
            // gRPC's own map of HTTP's statuses.
            let code = match status.as_u16() {
                400 => 13,
                401 => 16,
                403 => 7,
                404 => UNIMPLEMENTED,
                429 | 502..=504 => 14,
                _ => 2,
            };
            error(
                code,
                format!("unexpected HTTP status code received from server: {status}"),
            )
        }
    }
}

/// `HealthCheckResponse.status` of one framed message; unknown fields are passed over.
fn health(body: &[u8]) -> Option<u64> {
    let (head, rest) = body.split_at_checked(5)?;
    let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]);
    let mut proto = rest.get(..usize::try_from(length).ok()?)?;
    // Compressed, which was not offered.
    if head[0] != 0 {
        return None;
    }
    let mut status = 0;
    while !proto.is_empty() {
        let key = take_varint(&mut proto)?;
        match key & 7 {
            0 => {
                let value = take_varint(&mut proto)?;
                if key >> 3 == 1 {
                    status = value;
                }
            }
            1 => proto = proto.get(8..)?,
            2 => {
                let length = usize::try_from(take_varint(&mut proto)?).ok()?;
                proto = proto.get(length..)?;
            }
            5 => proto = proto.get(4..)?,
            _ => return None,
        }
    }
    Some(status)
}

fn take_varint(proto: &mut &[u8]) -> Option<u64> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = proto.split_first()?;
        *proto = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        let hex = tail
            .get(..2)
            .filter(|_| *first == b'%')
            .and_then(|h| u8::from_str_radix(std::str::from_utf8(h).ok()?, 16).ok());
        match hex {
            Some(byte) => {
                bytes.push(byte);
                rest = &tail[2..];
            }
            None => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use http::Response;
    use hyper::{body::Incoming, service::service_fn};
    use tokio::net::TcpListener;

    use super::*;

    /// A server of one kind of answer: by the service that is asked for.
    async fn serve(listener: TcpListener) {
        loop {
            let Ok((stream, _)) = listener.accept().await else {
                return;
            };
            let service = service_fn(|request: Request<Incoming>| async move {
                assert_eq!(request.uri().path(), METHOD);
                assert_eq!(request.headers()["content-type"], "application/grpc");
                assert_eq!(request.headers()["te"], "trailers");
                let asked = request.collect().await.expect("a body").to_bytes();
                let service = String::from_utf8_lossy(&asked[asked.len().min(7)..]).into_owned();
                let trailers = |code: &str, message: &str| {
                    let mut map = HeaderMap::new();
                    map.insert("grpc-status", code.parse().expect("a value"));
                    map.insert("grpc-message", message.parse().expect("a value"));
                    map
                };
                let (status, body, end) = match service.as_str() {
                    "" => (200, vec![0, 0, 0, 0, 2, 8, 1], trailers("0", "")),
                    "sick" => (200, vec![0, 0, 0, 0, 2, 8, 2], trailers("0", "")),
                    "empty" => (200, vec![0, 0, 0, 0, 0], trailers("0", "")),
                    "old" => (200, vec![], trailers("12", "unknown service")),
                    "web" => (404, vec![], HeaderMap::new()),
                    "slow" => std::future::pending().await,
                    _ => (200, vec![], trailers("5", "no%20such%3A service")),
                };
                let body = Full::new(Bytes::from(body)).with_trailers(async move { Some(Ok(end)) });
                let mut response = Response::new(body);
                *response.status_mut() = StatusCode::from_u16(status).expect("a status");
                Ok::<_, Infallible>(response)
            });
            tokio::spawn(async move {
                let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                let _ = server.serve_connection(TokioIo::new(stream), service).await;
            });
        }
    }

    #[tokio::test]
    async fn a_health_service_is_asked_and_its_answers_are_told_in_upstreams_words() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("bound").port();
        tokio::spawn(serve(listener));
        let ask = async |service: &str, limit| {
            grpc_health("127.0.0.1", port, service, limit)
                .await
                .map_err(|e| e.to_string())
        };
        let second = Duration::from_secs(5);
        assert_eq!(ask("", second).await, Ok(()));
        for (service, text) in [
            ("sick", "service unhealthy (responded with \"NOT_SERVING\")"),
            ("empty", "service unhealthy (responded with \"UNKNOWN\")"),
            (
                "old",
                "error: this server does not implement the grpc health protocol (grpc.health.v1.Health): unknown service",
            ),
            (
                "web",
                "error: this server does not implement the grpc health protocol (grpc.health.v1.Health): unexpected HTTP status code received from server: 404 Not Found",
            ),
            (
                "none",
                "error: health rpc probe failed: rpc error: code = NotFound desc = no such: service",
            ),
        ] {
            assert_eq!(
                ask(service, second).await,
                Err(text.to_owned()),
                "{service}"
            );
        }
        let late = ask("slow", Duration::from_secs(1)).await;
        assert_eq!(
            late,
            Err("timeout: health rpc did not complete within 1s".to_owned())
        );
    }

    #[tokio::test]
    async fn a_port_without_a_server_is_a_timeout() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        drop(listener);
        let answer = grpc_health("127.0.0.1", address.port(), "", Duration::from_secs(1)).await;
        let text = format!(
            "timeout: failed to connect service \"{address}\" within 1s: context deadline exceeded"
        );
        assert_eq!(answer.map_err(|e| e.to_string()), Err(text));
    }

    #[test]
    fn answers_are_read_whatever_else_they_carry() {
        for (body, expected) in [
            (&[0, 0, 0, 0, 2, 8, 1][..], Some(1)),
            (&[0, 0, 0, 0, 6, 0x12, 2, b'h', b'i', 8, 3], Some(3)),
            (&[0, 0, 0, 0, 0], Some(0)),
            (&[1, 0, 0, 0, 2, 8, 1], None),
            (&[0, 0, 0, 0, 9, 8, 1], None),
            (&[0, 0], None),
            (&[0, 0, 0, 0, 1, 8], None),
        ] {
            assert_eq!(health(body), expected, "{body:?}");
        }
        let long = "s".repeat(200);
        let framed = message(&long);
        assert_eq!(framed[..8], [0, 0, 0, 0, 203, 0x0a, 0xc8, 1]);
    }
}
