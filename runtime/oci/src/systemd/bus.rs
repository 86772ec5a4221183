//! A connection to a D-Bus daemon: SASL EXTERNAL, method calls, and the signals that come between.

use std::{
    collections::VecDeque,
    io::{Read, Write},
    os::{linux::net::SocketAddrExt, unix::net::SocketAddr, unix::net::UnixStream},
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail};

use super::wire::{Kind, Message, START, Value};

/// What a peer may take for an answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(25);

pub struct Bus {
    stream: UnixStream,
    serial: u32,
    /// What came while an answer was waited for.
    signals: VecDeque<Message>,
}

/// An error that the peer answered with.
#[derive(Debug)]
pub struct Refused {
    pub name: String,
    pub text: String,
}

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Refused {}

impl Bus {
    /// Connects to the first of an address's alternatives that answers: `unix:path=/run/…;unix:abstract=…`.
    pub fn connect(address: &str) -> Result<Bus> {
        let mut last = anyhow!("no usable address in {address:?}");
        for one in address.split(';').filter(|one| !one.is_empty()) {
            match open(one) {
                Ok(stream) => return Bus::begin(stream),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    fn begin(mut stream: UnixStream) -> Result<Bus> {
        stream.set_read_timeout(Some(ANSWER_WITHIN))?;
        // The daemon knows the uid from the socket; the text only has to agree with it.
        let uid = nix::unistd::geteuid().to_string();
        let hex: String = uid.bytes().map(|b| format!("{b:02x}")).collect();
        write!(stream, "\0AUTH EXTERNAL {hex}\r\n").context("authenticate")?;
        let answer = line(&mut stream)?;
        if !answer.starts_with("OK ") {
            bail!("the bus refused to authenticate uid {uid}: {answer}");
        }
        stream.write_all(b"BEGIN\r\n").context("authenticate")?;
        let mut bus = Bus {
            stream,
            serial: 0,
            signals: VecDeque::new(),
        };
        bus.call_daemon("Hello", vec![])?;
        Ok(bus)
    }

    fn call_daemon(&mut self, member: &str, body: Vec<Value>) -> Result<Vec<Value>> {
        const NAME: &str = "org.freedesktop.DBus";
        self.call(Message::call(
            NAME,
            "/org/freedesktop/DBus",
            NAME,
            member,
            body,
        ))
    }

    /// Wants to be told of signals that match a rule.
    pub fn watch(&mut self, rule: &str) -> Result<()> {
        self.call_daemon("AddMatch", vec![Value::text(rule)])
            .map(drop)
    }

    /// Calls a method and returns its answer's values. A refusal is a [`Refused`].
    pub fn call(&mut self, mut message: Message) -> Result<Vec<Value>> {
        self.serial += 1;
        message.serial = self.serial;
        let member = message.member.clone().unwrap_or_default();
        self.stream
            .write_all(&message.to_bytes())
            .with_context(|| format!("call {member} over D-Bus"))?;
        let deadline = Instant::now() + ANSWER_WITHIN;
        loop {
            let answer = self.receive(deadline)?;
            match answer.kind {
                Kind::Signal => self.signals.push_back(answer),
                Kind::Return if answer.reply_to == Some(self.serial) => return Ok(answer.body),
                Kind::Error if answer.reply_to == Some(self.serial) => {
                    let name = answer.error.unwrap_or_default();
                    let text = answer.body.first().and_then(Value::as_text);
                    let text = text.unwrap_or(&name).to_owned();
                    return Err(Refused { name, text }.into());
                }
                _ => {}
            }
        }
    }

    /// The next signal that `pick` makes something of. `None`: none came within this time.
    pub fn signal<T>(
        &mut self,
        within: Duration,
        mut pick: impl FnMut(&Message) -> Option<T>,
    ) -> Result<Option<T>> {
        let deadline = Instant::now() + within;
        loop {
            let message = match self.signals.pop_front() {
                Some(message) => message,
                None if Instant::now() >= deadline => return Ok(None),
                None => match self.receive(deadline) {
                    Ok(message) => message,
                    Err(error) if is_timeout(&error) => return Ok(None),
                    Err(error) => return Err(error),
                },
            };
            if message.kind == Kind::Signal
                && let Some(found) = pick(&message)
            {
                return Ok(Some(found));
            }
        }
    }

    fn receive(&mut self, deadline: Instant) -> Result<Message> {
        let left = deadline.saturating_duration_since(Instant::now());
        // A zero would mean no limit.
        self.stream
            .set_read_timeout(Some(left.max(Duration::from_millis(1))))?;
        let mut start = [0_u8; START];
        self.stream
            .read_exact(&mut start)
            .context("read from D-Bus")?;
        let length =
            Message::length(&start).context("the bus sent something that is no message")?;
        let mut bytes = start.to_vec();
        bytes.resize(length, 0);
        self.stream
            .read_exact(&mut bytes[START..])
            .context("read from D-Bus")?;
        Message::from_bytes(&bytes).context("the bus sent a message that can't be understood")
    }
}

fn is_timeout(error: &anyhow::Error) -> bool {
    use std::io::ErrorKind::{TimedOut, WouldBlock};
    let io = error.downcast_ref::<std::io::Error>();
    io.is_some_and(|error| matches!(error.kind(), TimedOut | WouldBlock))
}

fn open(address: &str) -> Result<UnixStream> {
    let Some(pairs) = address.strip_prefix("unix:") else {
        bail!("unsupported D-Bus address {address:?}");
    };
    for pair in pairs.split(',') {
        let Some((key, value)) = pair.split_once('=') else {
            continue;
        };
        let value = unescape(value);
        match key {
            "path" => {
                return UnixStream::connect(Path::new(&value))
                    .with_context(|| format!("connect to {value}"));
            }
            "abstract" => {
                let name = SocketAddr::from_abstract_name(&value)?;
                return UnixStream::connect_addr(&name)
                    .with_context(|| format!("connect to @{value}"));
            }
            _ => {}
        }
    }
    bail!("unsupported D-Bus address {address:?}")
}

/// `%xx` is a byte.
fn unescape(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let hex = tail.get(..2).and_then(|hex| std::str::from_utf8(hex).ok());
        let code = hex.and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match (first, code) {
            (b'%', Some(code)) => {
                bytes.push(code);
                rest = &tail[2..];
            }
            _ => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn line(stream: &mut UnixStream) -> Result<String> {
    let mut text = Vec::new();
    let mut byte = [0_u8; 1];
    while text.len() < 1024 {
        stream.read_exact(&mut byte).context("authenticate")?;
        if byte == *b"\n" {
            break;
        }
        text.extend(byte);
    }
    Ok(String::from_utf8_lossy(&text).trim_end().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_unescaped() {
        assert_eq!(unescape("/run/user/0/a%20b%2"), "/run/user/0/a b%2");
    }
}
