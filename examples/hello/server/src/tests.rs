//! Requests as bytes, answers as bytes.

use std::io::{BufReader, Read, Write};

use super::*;

fn identity() -> Arc<Identity> {
    Arc::new(Identity {
        pod: "hello-1".into(),
        namespace: "default".into(),
        node: "n\"1".into(),
        pod_ip: "10.244.0.5".into(),
    })
}

/// Sends bytes over a real connection and returns everything that comes back.
fn exchange(request: &[u8]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let server = std::thread::spawn(move || {
        let (stream, client) = listener.accept().unwrap();
        let _ = converse(&stream, client, &identity());
    });
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(request).unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    server.join().unwrap();
    answer
}

#[test]
fn it_says_who_it_is_and_who_asks() {
    let answer = exchange(b"GET /a/b?x=1 HTTP/1.1\r\nHost: svc\r\nAccept: application/json\r\nConnection: close\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    for part in [
        r#""pod":"hello-1""#,
        r#""node":"n\"1""#,
        r#""path":"/a/b""#,
        r#""client":"127.0.0.1:"#,
        r#""host":"svc""#,
    ] {
        assert!(answer.contains(part), "{part} is missing in {answer}");
    }
    assert!(exchange(b"GET / HTTP/1.0\r\n\r\n").contains("Hello from hello-1!"));
}

#[test]
fn a_connection_is_kept_for_the_next_request_and_bodies_are_passed_over() {
    let request = b"POST /one HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello\
                    POST /two HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n\
                    GET /three HTTP/1.1\r\nConnection: close\r\n\r\n";
    let answer = exchange(request);
    let paths: Vec<&str> = answer
        .lines()
        .filter_map(|l| l.strip_prefix("path "))
        .map(str::trim)
        .collect();
    assert_eq!(paths, ["/one", "/two", "/three"]);
}

#[test]
fn malformed_requests_get_400_and_the_end() {
    for bad in [
        "nonsense\r\n\r\n",
        "GET http://x/ HTTP/1.1\r\n\r\n",
        "GET / HTTP/2\r\n\r\n",
        "GET / HTTP/1.1\r\nx\r\n\r\n",
        "POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
    ] {
        assert!(
            exchange(bad.as_bytes()).starts_with("HTTP/1.1 400 "),
            "{bad:?}"
        );
    }
    let long = format!("GET / HTTP/1.1\r\nx: {}\r\n\r\n", "y".repeat(40 << 10));
    let mut reader = BufReader::new(long.as_bytes());
    assert!(matches!(
        http::read_request(&mut reader),
        Err(http::ReadError::Bad(_))
    ));
}
