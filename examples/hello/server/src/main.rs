//! The example's HTTP echo server: answers with its pod, its node and the client's address.
//!
//! Small enough to be carried inside `kernelet`, and enough of HTTP/1.1 for curl, browsers, probes and
//! benchmarks: keep-alive, pipelining, bodies that are read and ignored. Text for people, JSON for
//! `Accept: application/json` or `?format=json`.
//!
//! Environment: `PORT` (default 8080), `POD_NAME`, `POD_NAMESPACE`, `POD_IP`, `NODE_NAME`.

mod http;
mod shutdown;

use std::{
    io::{self, BufReader, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use http::Request;

/// Beyond this a new connection waits in the backlog.
const MOST_CONNECTIONS: usize = 512;
/// A connection on which nothing comes is closed.
const IDLE: Duration = Duration::from_secs(60);

/// Who this server is, as Kubernetes' downward API told it.
struct Identity {
    pod: String,
    namespace: String,
    node: String,
    pod_ip: String,
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("hello: {e}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), String> {
    let port = port()?;
    let var = |name: &str| std::env::var(name).unwrap_or_default();
    let host = || {
        std::fs::read_to_string("/proc/sys/kernel/hostname")
            .unwrap_or_default()
            .trim()
            .to_owned()
    };
    let identity = Arc::new(Identity {
        pod: Some(var("POD_NAME"))
            .filter(|name| !name.is_empty())
            .unwrap_or_else(host),
        namespace: var("POD_NAMESPACE"),
        node: var("NODE_NAME"),
        pod_ip: var("POD_IP"),
    });
    shutdown::install().map_err(|e| format!("watch for signals: {e}"))?;
    // Both families where the kernel has both.
    let listener = TcpListener::bind(("::", port))
        .or_else(|_| TcpListener::bind(("0.0.0.0", port)))
        .map_err(|e| format!("listen on port {port}: {e}"))?;
    println!("{} listens on port {port}", identity.pod);
    serve(&listener, &identity);
    Ok(())
}

/// The first argument, or `PORT`, or 8080.
fn port() -> Result<u16, String> {
    let text = std::env::args()
        .nth(1)
        .or_else(|| std::env::var("PORT").ok());
    let Some(text) = text.filter(|text| !text.is_empty()) else {
        return Ok(8080);
    };
    let digits = text.strip_prefix("--port=").unwrap_or(&text);
    digits
        .parse()
        .map_err(|_| format!("{text:?} is no port; usage: kernelet-hello [PORT]"))
}

/// Accepts until a signal says stop, then lets the answers under way finish.
fn serve(listener: &TcpListener, identity: &Arc<Identity>) {
    let open = Arc::new(AtomicUsize::new(0));
    while !shutdown::requested() {
        if open.load(Ordering::Acquire) >= MOST_CONNECTIONS {
            std::thread::sleep(Duration::from_millis(5));
            continue;
        }
        let (stream, client) = match shutdown::accept(listener) {
            Ok(Some(accepted)) => accepted,
            Ok(None) => continue,
            Err(e) => {
                eprintln!("hello: accept: {e}");
                std::thread::sleep(Duration::from_millis(50));
                continue;
            }
        };
        open.fetch_add(1, Ordering::AcqRel);
        let (identity, mine) = (identity.clone(), open.clone());
        let thread = std::thread::Builder::new()
            .stack_size(128 << 10)
            .spawn(move || {
                // A client that goes away is its own business.
                let _ = converse(&stream, client, &identity);
                mine.fetch_sub(1, Ordering::AcqRel);
            });
        if thread.is_err() {
            open.fetch_sub(1, Ordering::AcqRel);
        }
    }
    let deadline = std::time::Instant::now() + Duration::from_secs(5);
    while open.load(Ordering::Acquire) > 0 && std::time::Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// One connection: requests and answers until somebody closes.
fn converse(stream: &TcpStream, client: SocketAddr, identity: &Identity) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(Duration::from_millis(500)))?;
    let mut reader = BufReader::with_capacity(8 << 10, stream);
    let mut idle = Duration::ZERO;
    loop {
        let request = match http::read_request(&mut reader) {
            Ok(Some(request)) => request,
            Ok(None) => return Ok(()),
            // Between requests the read times out now and then, so that a stop is noticed.
            Err(http::ReadError::Idle) => {
                idle += Duration::from_millis(500);
                if shutdown::requested() || idle >= IDLE {
                    return Ok(());
                }
                continue;
            }
            Err(http::ReadError::Bad(reason)) => {
                return http::write_response(
                    &mut &*stream,
                    400,
                    "text/plain",
                    reason,
                    false,
                    false,
                );
            }
            Err(http::ReadError::Io(e)) => return Err(e),
        };
        idle = Duration::ZERO;
        let keep = request.keep_alive && !shutdown::requested();
        let (status, kind, body) = answer(&request, client, identity);
        http::write_response(
            &mut &*stream,
            status,
            kind,
            &body,
            keep,
            request.method == "HEAD",
        )?;
        (&*stream).flush()?;
        if !keep {
            return Ok(());
        }
    }
}

fn answer(
    request: &Request,
    client: SocketAddr,
    identity: &Identity,
) -> (u16, &'static str, String) {
    let (path, query) = request
        .target
        .split_once('?')
        .unwrap_or((&request.target, ""));
    if matches!(path, "/healthz" | "/readyz" | "/livez") {
        // Not ready any more once asked to stop: the Service should send nobody here.
        return match shutdown::requested() {
            false => (200, "text/plain; charset=utf-8", "ok\n".into()),
            true => (503, "text/plain; charset=utf-8", "stopping\n".into()),
        };
    }
    // `::ffff:10.0.0.1` is an IPv4 client of a socket for both families.
    let client = match client {
        SocketAddr::V6(v6) => v6
            .ip()
            .to_ipv4_mapped()
            .map_or(client, |ip| (ip, v6.port()).into()),
        v4 => v4,
    };
    let fields = [
        ("pod", identity.pod.as_str()),
        ("namespace", &identity.namespace),
        ("node", &identity.node),
        ("podIP", &identity.pod_ip),
        ("client", &client.to_string()),
        ("method", &request.method),
        ("path", path),
        ("host", &request.host),
    ];
    if request.wants_json || query.split('&').any(|pair| pair == "format=json") {
        let members: Vec<String> = fields
            .iter()
            .map(|(name, value)| format!("\"{name}\":{}", http::json_string(value)))
            .collect();
        return (
            200,
            "application/json",
            format!("{{{}}}\n", members.join(",")),
        );
    }
    let mut text = format!("Hello from {}!\n\n", identity.pod);
    for (name, value) in fields {
        text.push_str(&format!("{name:<10} {value}\n"));
    }
    (200, "text/plain; charset=utf-8", text)
}

#[cfg(test)]
mod tests;
