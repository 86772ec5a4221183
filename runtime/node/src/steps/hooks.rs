//! Life-cycle hooks, and the handlers that hooks and probes share: exec, HTTP, TCP, sleep.

use std::{net::IpAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use k8s_openapi::{
    api::core::v1::{Container, HTTPGetAction, LifecycleHandler},
    apimachinery::pkg::util::intstr::IntOrString,
};
use kernelet_client::EventType;
use kernelet_pod_plan::{ContainerId, Done, FailureReason, Outcome, StepError};
use kernelet_shim_client::{ExecExit, ExecIo};
use tokio::{net::TcpStream, time::timeout};

use super::{Scene, containers::field_path};
use crate::{container::spec_id, errors::chain, pod::PodHome};

/// Why a handler's action was no success, in upstream's words.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HandlerError {
    #[error("{0}")]
    Failed(String),
    /// It couldn't even be tried.
    #[error("{0}")]
    Broken(String),
}

/// What is kept of a probe's or hook's output.
const OUTPUT_LIMIT: u32 = 10 << 10;
const HTTP_BODY_LIMIT: usize = 10 << 10;
/// A hook without a limit of its own can't hold a pod for ever.
const POST_START_LIMIT: Duration = Duration::from_secs(600);

pub(super) async fn post_start(
    home: &Arc<PodHome>,
    scene: &Scene,
    name: &str,
    id: &ContainerId,
) -> Outcome {
    let (role, container) = found(scene, name)?;
    let Some(handler) = container
        .lifecycle
        .as_ref()
        .and_then(|l| l.post_start.as_ref())
    else {
        return Ok(Done::Nothing);
    };
    match timeout(
        POST_START_LIMIT,
        run(home, scene, container, id, handler, POST_START_LIMIT),
    )
    .await
    {
        Ok(Ok(())) => Ok(Done::Nothing),
        other => {
            let message = told("PostStartHook failed", other, POST_START_LIMIT);
            home.container_event(
                &field_path(role, name),
                EventType::Warning,
                "FailedPostStartHook",
                &message,
            );
            Err(StepError {
                reason: FailureReason::PostStartHookError,
                message,
            })
        }
    }
}

pub(super) async fn pre_stop(
    home: &Arc<PodHome>,
    scene: &Scene,
    name: &str,
    id: &ContainerId,
    limit: Duration,
) -> Outcome {
    let (role, container) = found(scene, name)?;
    let Some(handler) = container
        .lifecycle
        .as_ref()
        .and_then(|l| l.pre_stop.as_ref())
    else {
        return Ok(Done::Nothing);
    };
    match timeout(limit, run(home, scene, container, id, handler, limit)).await {
        Ok(Ok(())) => Ok(Done::Nothing),
        other => {
            let message = told("PreStopHook failed", other, limit);
            home.container_event(
                &field_path(role, name),
                EventType::Warning,
                "FailedPreStopHook",
                &message,
            );
            Err(StepError {
                reason: FailureReason::PreStopHookError,
                message,
            })
        }
    }
}

fn told(
    what: &str,
    outcome: Result<Result<(), HandlerError>, tokio::time::error::Elapsed>,
    limit: Duration,
) -> String {
    match outcome {
        Ok(Err(error)) => format!("{what}: {error}"),
        Ok(Ok(())) => what.to_owned(),
        Err(_) => format!("{what}: it did not end within {} s", limit.as_secs()),
    }
}

fn found<'a>(
    scene: &'a Scene,
    name: &str,
) -> Result<(kernelet_pod_plan::Role, &'a Container), StepError> {
    scene
        .wanted
        .container(name)
        .ok_or_else(|| crate::container::config_error(format!("no container {name}")))
}

async fn run(
    home: &Arc<PodHome>,
    scene: &Scene,
    container: &Container,
    id: &ContainerId,
    handler: &LifecycleHandler,
    limit: Duration,
) -> Result<(), HandlerError> {
    let ip = || {
        pod_ip(home, scene).ok_or_else(|| HandlerError::Broken("the pod has no address".to_owned()))
    };
    if let Some(exec) = &handler.exec {
        let exit = exec_capture(home, id, exec.command.clone().unwrap_or_default(), limit).await?;
        return match exit.exit_code {
            0 => Ok(()),
            code => Err(HandlerError::Failed(format!(
                "command exited with {code}: {}",
                String::from_utf8_lossy(&exit.output)
            ))),
        };
    }
    if let Some(get) = &handler.http_get {
        return http_get(ip()?, get, container, limit).await.map(drop);
    }
    if let Some(tcp) = &handler.tcp_socket {
        let port = port(&tcp.port, container)?;
        let host = host(tcp.host.as_deref(), ip()?);
        return tcp_connect(&host, port, limit).await;
    }
    if let Some(sleep) = &handler.sleep {
        tokio::time::sleep(Duration::from_secs(
            u64::try_from(sleep.seconds).unwrap_or(0),
        ))
        .await;
    }
    Ok(())
}

/// The address at which the node reaches the pod.
pub(crate) fn pod_ip(home: &PodHome, scene: &Scene) -> Option<IpAddr> {
    if scene.wanted.host_network() {
        home.ctx.host_ips().first().copied()
    } else {
        scene.ips.first().copied()
    }
}

/// Runs a command in the container with the container's own environment, user and limits.
pub(crate) async fn exec_capture(
    home: &PodHome,
    id: &ContainerId,
    command: Vec<String>,
    limit: Duration,
) -> Result<ExecExit, HandlerError> {
    let broken = |text: String| HandlerError::Broken(text);
    let shim = home
        .shim()
        .ok_or_else(|| broken("the pod's shim is gone".to_owned()))?;
    let id = spec_id(id).map_err(|e| broken(e.message))?;
    let plan = home
        .exec_plan(&id, command, Some(limit))
        .ok_or_else(|| broken("the container is gone".to_owned()))?;
    let exec = shim
        .exec(
            &id,
            &plan,
            ExecIo::Capture {
                limit: OUTPUT_LIMIT,
            },
        )
        .await;
    let exec = exec.map_err(|e| HandlerError::Failed(home.shim_error(&e)))?;
    exec.wait()
        .await
        .map_err(|e| HandlerError::Failed(chain(&e)))
}

/// A port by number, or by the name of one of the container's ports.
pub(crate) fn port(port: &IntOrString, container: &Container) -> Result<u16, HandlerError> {
    let number = match port {
        IntOrString::Int(n) => Some(*n),
        IntOrString::String(name) => match name.parse::<i32>() {
            Ok(n) => Some(n),
            Err(_) => {
                let ports = container.ports.iter().flatten();
                ports
                    .filter(|p| p.name.as_ref() == Some(name))
                    .map(|p| p.container_port)
                    .next()
            }
        },
    };
    let number = number
        .and_then(|n| u16::try_from(n).ok())
        .filter(|n| *n > 0);
    number.ok_or_else(|| HandlerError::Broken(format!("couldn't find port: {port:?}")))
}

fn host(given: Option<&str>, ip: IpAddr) -> String {
    given
        .filter(|h| !h.is_empty())
        .map_or_else(|| ip.to_string(), str::to_owned)
}

pub(crate) async fn tcp_connect(
    host: &str,
    port: u16,
    limit: Duration,
) -> Result<(), HandlerError> {
    let address = if host.contains(':') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    };
    match timeout(limit, TcpStream::connect((host, port))).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(HandlerError::Failed(format!(
            "dial tcp {address}: connect: {}",
            go_error(&error)
        ))),
        Err(_) => Err(HandlerError::Failed(format!(
            "dial tcp {address}: i/o timeout"
        ))),
    }
}

/// Go's texts for the usual errors, which people search for.
fn go_error(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
        std::io::ErrorKind::HostUnreachable => "no route to host".to_owned(),
        std::io::ErrorKind::NetworkUnreachable => "network is unreachable".to_owned(),
        _ => error.to_string(),
    }
}

/// GETs as the kubelet does: any answer from 200 to 399 is success; redirects to elsewhere are not followed.
pub(crate) async fn http_get(
    ip: IpAddr,
    get: &HTTPGetAction,
    container: &Container,
    limit: Duration,
) -> Result<String, HandlerError> {
    let port = port(&get.port, container)?;
    let host = host(get.host.as_deref(), ip);
    let https = get.scheme.as_deref() == Some("HTTPS");
    let scheme = if https { "https" } else { "http" };
    let shown = if host.contains(':') {
        format!("[{host}]")
    } else {
        host.clone()
    };
    let path = get.path.as_deref().unwrap_or("/");
    let path = if path.starts_with('/') {
        path.to_owned()
    } else {
        format!("/{path}")
    };
    let url = format!("{scheme}://{shown}:{port}{path}");
    let failed = |why: String| HandlerError::Failed(format!("Get \"{url}\": {why}"));
    let work = async {
        let stream = TcpStream::connect((host.as_str(), port))
            .await
            .map_err(|e| {
                failed(format!(
                    "dial tcp {shown}:{port}: connect: {}",
                    go_error(&e)
                ))
            })?;
        let request = request(get, &url, &format!("{shown}:{port}"), &path).map_err(&failed)?;
        if https {
            let stream = crate::tls::accept_any(&host, stream)
                .await
                .map_err(|e| failed(chain(&e)))?;
            exchange(TokioIo::new(stream), request)
                .await
                .map_err(&failed)
        } else {
            exchange(TokioIo::new(stream), request)
                .await
                .map_err(&failed)
        }
    };
    match timeout(limit, work).await {
        Ok(Ok((status, body))) if (200..400).contains(&status) => Ok(body),
        Ok(Ok((status, _))) => Err(HandlerError::Failed(format!(
            "HTTP probe failed with statuscode: {status}"
        ))),
        Ok(Err(error)) => Err(error),
        Err(_) => Err(failed(
            "context deadline exceeded (Client.Timeout exceeded while awaiting headers)".to_owned(),
        )),
    }
}

fn request(
    get: &HTTPGetAction,
    url: &str,
    authority: &str,
    path: &str,
) -> Result<http::Request<Empty<Bytes>>, String> {
    let mut request = http::Request::get(path)
        .body(Empty::new())
        .map_err(|e| format!("{url}: {e}"))?;
    let headers = request.headers_mut();
    let value = |text: &str| http::HeaderValue::from_str(text).map_err(|e| e.to_string());
    headers.insert(http::header::HOST, value(authority)?);
    headers.insert(http::header::USER_AGENT, value("kube-probe/1.35")?);
    headers.insert(http::header::ACCEPT, value("*/*")?);
    headers.insert(http::header::CONNECTION, value("close")?);
    for header in get.http_headers.iter().flatten() {
        let name =
            http::HeaderName::from_bytes(header.name.as_bytes()).map_err(|e| e.to_string())?;
        headers.insert(name, value(&header.value)?);
    }
    Ok(request)
}

async fn exchange<S>(
    stream: S,
    request: http::Request<Empty<Bytes>>,
) -> Result<(u16, String), String>
where
    S: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
{
    let (mut sender, connection) = hyper::client::conn::http1::handshake(stream)
        .await
        .map_err(|e| chain(&e))?;
    let connection = tokio::spawn(connection);
    let answer = sender.send_request(request).await.map_err(|e| chain(&e))?;
    let status = answer.status().as_u16();
    let body = Limited::new(answer.into_body(), HTTP_BODY_LIMIT)
        .collect()
        .await;
    connection.abort();
    let body = body
        .map(|b| String::from_utf8_lossy(&b.to_bytes()).into_owned())
        .unwrap_or_default();
    Ok((status, body))
}
