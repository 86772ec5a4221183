//! As much of HTTP/1.1 as an echo server needs. Pure but for the reader and the writer.

use std::io::{self, BufRead, Write};

/// A request without its body, which is read and dropped.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Request {
    pub method: String,
    pub target: String,
    pub host: String,
    pub wants_json: bool,
    pub keep_alive: bool,
}

#[derive(Debug)]
pub enum ReadError {
    /// Nothing of a request has come yet.
    Idle,
    Bad(&'static str),
    Io(io::Error),
}

/// Header lines of a request may have this many bytes in all.
const HEAD: usize = 32 << 10;
const BODY: u64 = 16 << 20;

/// Reads a request; `None` is the client's end.
pub fn read_request(reader: &mut impl BufRead) -> Result<Option<Request>, ReadError> {
    // Waits here, before anything is taken, so that a timeout between requests loses nothing.
    match reader.fill_buf() {
        Ok([]) => return Ok(None),
        Ok(_) => {}
        Err(e) if is_timeout(&e) => return Err(ReadError::Idle),
        Err(e) => return Err(ReadError::Io(e)),
    }
    let mut left = HEAD;
    let line = read_line(reader, &mut left)?;
    let mut words = line.split(' ');
    let (Some(method), Some(target), Some(version), None) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        return Err(ReadError::Bad("malformed request line\n"));
    };
    if !version.starts_with("HTTP/1.")
        || method.is_empty()
        || !(target.starts_with('/') || target == "*")
    {
        return Err(ReadError::Bad("this server speaks HTTP/1.1\n"));
    }
    let mut request = Request {
        method: method.to_owned(),
        target: target.to_owned(),
        keep_alive: version == "HTTP/1.1",
        ..Request::default()
    };
    let mut length = 0_u64;
    let mut chunked = false;
    loop {
        let line = read_line(reader, &mut left)?;
        if line.is_empty() {
            break;
        }
        let Some((name, value)) = line.split_once(':') else {
            return Err(ReadError::Bad("malformed header\n"));
        };
        let value = value.trim();
        match name.to_ascii_lowercase().as_str() {
            "host" => request.host = value.to_owned(),
            "accept" => request.wants_json = value.contains("application/json"),
            "connection" if value.eq_ignore_ascii_case("close") => request.keep_alive = false,
            "connection" if value.eq_ignore_ascii_case("keep-alive") => request.keep_alive = true,
            "content-length" => {
                length = value
                    .parse()
                    .map_err(|_| ReadError::Bad("malformed content-length\n"))?;
            }
            "transfer-encoding" => chunked = value.eq_ignore_ascii_case("chunked"),
            _ => {}
        }
    }
    if chunked {
        skip_chunks(reader)?;
    } else {
        skip(reader, length)?;
    }
    Ok(Some(request))
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
    )
}

/// One line without its end. Within a request, a client may pause for so many timeouts.
fn read_line(reader: &mut impl BufRead, left: &mut usize) -> Result<String, ReadError> {
    let mut line = Vec::new();
    let mut patience = 20;
    loop {
        let buffer = match reader.fill_buf() {
            Ok([]) => return Err(ReadError::Io(io::ErrorKind::UnexpectedEof.into())),
            Ok(buffer) => buffer,
            Err(e) if is_timeout(&e) && patience > 0 => {
                patience -= 1;
                continue;
            }
            Err(e) => return Err(ReadError::Io(e)),
        };
        let end = buffer.iter().position(|b| *b == b'\n');
        let taken = end.map_or(buffer.len(), |at| at + 1);
        *left = left
            .checked_sub(taken)
            .ok_or(ReadError::Bad("the headers are too long\n"))?;
        line.extend_from_slice(&buffer[..taken]);
        reader.consume(taken);
        if end.is_some() {
            while matches!(line.last(), Some(b'\n' | b'\r')) {
                line.pop();
            }
            return String::from_utf8(line).map_err(|_| ReadError::Bad("headers must be text\n"));
        }
    }
}

fn skip(reader: &mut impl BufRead, mut length: u64) -> Result<(), ReadError> {
    if length > BODY {
        return Err(ReadError::Bad("the body is too long\n"));
    }
    while length > 0 {
        let n = match reader.fill_buf() {
            Ok([]) => return Err(ReadError::Io(io::ErrorKind::UnexpectedEof.into())),
            Ok(buffer) => buffer
                .len()
                .min(usize::try_from(length).unwrap_or(usize::MAX)),
            Err(e) => return Err(ReadError::Io(e)),
        };
        reader.consume(n);
        length -= n as u64;
    }
    Ok(())
}

fn skip_chunks(reader: &mut impl BufRead) -> Result<(), ReadError> {
    let mut total = 0_u64;
    loop {
        let line = read_line(reader, &mut 256)?;
        let size = line.split(';').next().unwrap_or_default().trim();
        let size =
            u64::from_str_radix(size, 16).map_err(|_| ReadError::Bad("malformed chunk\n"))?;
        total = total.saturating_add(size);
        if total > BODY {
            return Err(ReadError::Bad("the body is too long\n"));
        }
        if size == 0 {
            // Trailers, up to the empty line.
            let mut left = HEAD;
            while !read_line(reader, &mut left)?.is_empty() {}
            return Ok(());
        }
        skip(reader, size)?;
        read_line(reader, &mut 16)?;
    }
}

/// Writes an answer in one piece. `head_only`: the length of a body that isn't sent.
pub fn write_response(
    writer: &mut impl Write,
    status: u16,
    kind: &str,
    body: &str,
    keep_alive: bool,
    head_only: bool,
) -> io::Result<()> {
    let reason = match status {
        200 => "OK",
        400 => "Bad Request",
        _ => "Service Unavailable",
    };
    let connection = if keep_alive { "keep-alive" } else { "close" };
    let mut out = format!(
        "HTTP/1.1 {status} {reason}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: {connection}\r\n\r\n",
        body.len()
    );
    if !head_only {
        out.push_str(body);
    }
    writer.write_all(out.as_bytes())
}

/// A text as a JSON string.
pub fn json_string(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            c if c < ' ' => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}
