//! D-Bus's marshalling, as much of it as talking to systemd takes: little-endian messages, every basic type, arrays,
//! structs and variants. Pure.
//!
//! The format is that of the D-Bus specification, "Message Protocol": each value is aligned to its size, from the
//! message's beginning on; an array is its length in bytes and its elements; a variant is a signature and a value.

/// A value with its type.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Byte(u8),
    Bool(bool),
    Int16(i16),
    Uint16(u16),
    Int32(i32),
    Uint32(u32),
    Int64(i64),
    Uint64(u64),
    Double(f64),
    Text(String),
    Path(String),
    Signature(String),
    /// Its elements' signature, and they.
    Array(String, Vec<Value>),
    Struct(Vec<Value>),
    Variant(Box<Value>),
}

impl Value {
    pub fn text(text: impl Into<String>) -> Value {
        Value::Text(text.into())
    }

    pub fn variant(self) -> Value {
        Value::Variant(Box::new(self))
    }

    pub fn as_text(&self) -> Option<&str> {
        match self {
            Value::Text(text) | Value::Path(text) => Some(text),
            Value::Variant(value) => value.as_text(),
            _ => None,
        }
    }

    pub fn signature(&self) -> String {
        match self {
            Value::Byte(_) => "y".into(),
            Value::Bool(_) => "b".into(),
            Value::Int16(_) => "n".into(),
            Value::Uint16(_) => "q".into(),
            Value::Int32(_) => "i".into(),
            Value::Uint32(_) => "u".into(),
            Value::Int64(_) => "x".into(),
            Value::Uint64(_) => "t".into(),
            Value::Double(_) => "d".into(),
            Value::Text(_) => "s".into(),
            Value::Path(_) => "o".into(),
            Value::Signature(_) => "g".into(),
            Value::Array(of, _) => format!("a{of}"),
            Value::Struct(fields) => format!("({})", signature(fields)),
            Value::Variant(_) => "v".into(),
        }
    }
}

fn signature(values: &[Value]) -> String {
    values.iter().map(Value::signature).collect()
}

/// To what a value of this type is aligned.
fn alignment(of: &str) -> usize {
    match of.as_bytes().first() {
        Some(b'n' | b'q') => 2,
        Some(b'b' | b'i' | b'u' | b's' | b'o' | b'a') => 4,
        Some(b'x' | b't' | b'd' | b'(' | b'{') => 8,
        _ => 1,
    }
}

fn pad(bytes: &mut Vec<u8>, to: usize) {
    bytes.resize(bytes.len().next_multiple_of(to), 0);
}

fn write(bytes: &mut Vec<u8>, value: &Value) {
    pad(bytes, alignment(&value.signature()));
    let text = |bytes: &mut Vec<u8>, text: &str| {
        bytes.extend((text.len() as u32).to_le_bytes());
        bytes.extend(text.as_bytes());
        bytes.push(0);
    };
    let short = |bytes: &mut Vec<u8>, text: &str| {
        bytes.push(text.len() as u8);
        bytes.extend(text.as_bytes());
        bytes.push(0);
    };
    match value {
        Value::Byte(n) => bytes.push(*n),
        Value::Bool(on) => bytes.extend(u32::from(*on).to_le_bytes()),
        Value::Int16(n) => bytes.extend(n.to_le_bytes()),
        Value::Uint16(n) => bytes.extend(n.to_le_bytes()),
        Value::Int32(n) => bytes.extend(n.to_le_bytes()),
        Value::Uint32(n) => bytes.extend(n.to_le_bytes()),
        Value::Int64(n) => bytes.extend(n.to_le_bytes()),
        Value::Uint64(n) => bytes.extend(n.to_le_bytes()),
        Value::Double(n) => bytes.extend(n.to_le_bytes()),
        Value::Text(t) | Value::Path(t) => text(bytes, t),
        Value::Signature(t) => short(bytes, t),
        Value::Array(of, items) => {
            let at = bytes.len();
            bytes.extend([0; 4]);
            // The padding before the first element doesn't count, and is there without elements too.
            pad(bytes, alignment(of));
            let start = bytes.len();
            items.iter().for_each(|item| write(bytes, item));
            let length = (bytes.len() - start) as u32;
            bytes[at..at + 4].copy_from_slice(&length.to_le_bytes());
        }
        Value::Struct(fields) => fields.iter().for_each(|field| write(bytes, field)),
        Value::Variant(value) => {
            short(bytes, &value.signature());
            write(bytes, value);
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Call = 1,
    Return = 2,
    Error = 3,
    Signal = 4,
}

/// One message.
#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    pub kind: Kind,
    pub serial: u32,
    pub path: Option<String>,
    pub interface: Option<String>,
    pub member: Option<String>,
    pub error: Option<String>,
    pub reply_to: Option<u32>,
    pub destination: Option<String>,
    pub body: Vec<Value>,
}

/// The length of the part that says how long the rest is.
pub const START: usize = 16;
/// The specification's bound for a message.
const LONGEST: usize = 128 << 20;

impl Message {
    pub fn call(
        destination: &str,
        path: &str,
        interface: &str,
        member: &str,
        body: Vec<Value>,
    ) -> Message {
        Message {
            kind: Kind::Call,
            serial: 0,
            path: Some(path.into()),
            interface: Some(interface.into()),
            member: Some(member.into()),
            error: None,
            reply_to: None,
            destination: Some(destination.into()),
            body,
        }
    }

    pub fn to_bytes(&self) -> Vec<u8> {
        let mut body = Vec::new();
        self.body.iter().for_each(|value| write(&mut body, value));
        let text = |text: &Option<String>, make: fn(String) -> Value| text.clone().map(make);
        let types = Some(signature(&self.body)).filter(|types| !types.is_empty());
        let fields = [
            (1, text(&self.path, Value::Path)),
            (2, text(&self.interface, Value::Text)),
            (3, text(&self.member, Value::Text)),
            (4, text(&self.error, Value::Text)),
            (5, self.reply_to.map(Value::Uint32)),
            (6, text(&self.destination, Value::Text)),
            (8, text(&types, Value::Signature)),
        ];
        let fields = fields.into_iter().filter_map(|(code, value)| {
            Some(Value::Struct(vec![Value::Byte(code), value?.variant()]))
        });
        let mut bytes = vec![b'l', self.kind as u8, 0, 1];
        bytes.extend((body.len() as u32).to_le_bytes());
        bytes.extend(self.serial.to_le_bytes());
        write(&mut bytes, &Value::Array("(yv)".into(), fields.collect()));
        pad(&mut bytes, 8);
        bytes.extend(body);
        bytes
    }

    /// How long the whole message is, by its first [`START`] bytes. `None`: it is none of ours.
    pub fn length(start: &[u8; START]) -> Option<usize> {
        let number = |at: usize| {
            u32::from_le_bytes([start[at], start[at + 1], start[at + 2], start[at + 3]]) as usize
        };
        let length = START + number(12).checked_next_multiple_of(8)? + number(4);
        (start[0] == b'l' && start[3] == 1 && length <= LONGEST).then_some(length)
    }

    /// Understands a whole message.
    pub fn from_bytes(bytes: &[u8]) -> Option<Message> {
        let mut reader = Reader { bytes, at: 12 };
        let kind = match bytes.get(1)? {
            1 => Kind::Call,
            2 => Kind::Return,
            3 => Kind::Error,
            4 => Kind::Signal,
            _ => return None,
        };
        let mut message = Message {
            kind,
            serial: u32::from_le_bytes(bytes.get(8..12)?.try_into().ok()?),
            path: None,
            interface: None,
            member: None,
            error: None,
            reply_to: None,
            destination: None,
            body: Vec::new(),
        };
        let mut types = String::new();
        let Value::Array(_, fields) = reader.value("a(yv)", 0)? else {
            return None;
        };
        for field in fields {
            let Value::Struct(pair) = field else {
                return None;
            };
            let [Value::Byte(code), Value::Variant(value)] = pair.as_slice() else {
                return None;
            };
            let text = value.as_text().map(str::to_owned);
            match (code, &**value) {
                (1, _) => message.path = text,
                (2, _) => message.interface = text,
                (3, _) => message.member = text,
                (4, _) => message.error = text,
                (5, Value::Uint32(serial)) => message.reply_to = Some(*serial),
                (6, _) => message.destination = text,
                (8, Value::Signature(signature)) => types.clone_from(signature),
                _ => {}
            }
        }
        reader.align(8)?;
        let mut rest = types.as_str();
        while !rest.is_empty() {
            let one = first_type(rest)?;
            message.body.push(reader.value(one, 0)?);
            rest = &rest[one.len()..];
        }
        Some(message)
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

/// Deeper than the specification allows.
const DEEPEST: u32 = 64;

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let taken = self.bytes.get(self.at..self.at.checked_add(count)?)?;
        self.at += count;
        Some(taken)
    }

    fn align(&mut self, to: usize) -> Option<()> {
        let next = self.at.next_multiple_of(to);
        self.take(next - self.at).map(drop)
    }

    fn number<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn text(&mut self, length: usize) -> Option<String> {
        let text = String::from_utf8(self.take(length)?.to_vec()).ok()?;
        (self.take(1)? == [0]).then_some(text)
    }

    fn value(&mut self, of: &str, depth: u32) -> Option<Value> {
        if depth > DEEPEST {
            return None;
        }
        self.align(alignment(of))?;
        Some(match of.as_bytes().first()? {
            b'y' => Value::Byte(self.take(1)?[0]),
            b'b' => Value::Bool(u32::from_le_bytes(self.number()?) != 0),
            b'n' => Value::Int16(i16::from_le_bytes(self.number()?)),
            b'q' => Value::Uint16(u16::from_le_bytes(self.number()?)),
            b'i' => Value::Int32(i32::from_le_bytes(self.number()?)),
            b'u' => Value::Uint32(u32::from_le_bytes(self.number()?)),
            b'x' => Value::Int64(i64::from_le_bytes(self.number()?)),
            b't' => Value::Uint64(u64::from_le_bytes(self.number()?)),
            b'd' => Value::Double(f64::from_le_bytes(self.number()?)),
            kind @ (b's' | b'o') => {
                let length = u32::from_le_bytes(self.number()?) as usize;
                let text = self.text(length)?;
                if *kind == b's' {
                    Value::Text(text)
                } else {
                    Value::Path(text)
                }
            }
            b'g' => Value::Signature(self.signature()?),
            b'v' => {
                let of = self.signature()?;
                Value::Variant(Box::new(self.value(&of, depth + 1)?))
            }
            b'a' => {
                let length = u32::from_le_bytes(self.number()?) as usize;
                let of = of.get(1..)?;
                self.align(alignment(of))?;
                let end = self
                    .at
                    .checked_add(length)
                    .filter(|end| *end <= self.bytes.len())?;
                let mut items = Vec::new();
                while self.at < end {
                    items.push(self.value(of, depth + 1)?);
                }
                Value::Array(of.to_owned(), items)
            }
            // A dictionary's entry is a struct of two.
            b'(' | b'{' => {
                // The specification has none without fields; an array of such would never end.
                let mut rest = of.get(1..of.len() - 1).filter(|of| !of.is_empty())?;
                let mut fields = Vec::new();
                while !rest.is_empty() {
                    let one = first_type(rest)?;
                    fields.push(self.value(one, depth + 1)?);
                    rest = &rest[one.len()..];
                }
                Value::Struct(fields)
            }
            _ => return None,
        })
    }

    fn signature(&mut self) -> Option<String> {
        let length = self.take(1)?[0] as usize;
        self.text(length)
    }
}

/// The first complete type of a signature.
fn first_type(signature: &str) -> Option<&str> {
    let bytes = signature.as_bytes();
    let arrays = bytes.iter().take_while(|b| **b == b'a').count();
    let mut depth = 0_u32;
    for (index, byte) in bytes.iter().enumerate().skip(arrays) {
        match byte {
            b'(' | b'{' => depth += 1,
            b')' | b'}' => depth = depth.checked_sub(1)?,
            _ => {}
        }
        if depth == 0 {
            return signature.get(..=index);
        }
    }
    None
}
