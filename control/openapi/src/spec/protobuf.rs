//! Just enough protobuf to write messages from a table of their fields.

use kernelet_api::Value;

/// A message: the fields that are taken from a JSON object.
pub(super) struct Message {
    pub fields: &'static [Field],
    /// Where `x-…` keys go: a repeated (name, any) pair.
    pub extensions: Option<u32>,
}

pub(super) struct Field {
    pub name: &'static str,
    pub number: u32,
    pub form: Form,
}

/// How a JSON value becomes a field.
#[derive(Clone, Copy)]
pub(super) enum Form {
    Text,
    Bool,
    /// A text, or a list of texts.
    Texts,
    Message(&'static Message),
    /// A JSON object as a message with repeated (name, value) pairs in this field.
    Map {
        pairs: u32,
        value: Choice,
    },
    /// A JSON object whose pairs stand in the field itself.
    Pairs(Choice),
    /// One of several messages.
    Choice(Choice),
    Choices(Choice),
    /// A message that holds the value's text form as YAML in field 2; JSON is YAML.
    Yaml,
    /// Such a message for each item of a list.
    Yamls,
    /// Anything else, by hand.
    Custom(fn(&Value) -> Vec<u8>),
}

/// Picks the message of a value by looking at it, with the fields that lead to it from outside in.
pub(super) type Choice = fn(&Value) -> (&'static [u32], &'static Message);

pub(super) fn write(message: &Message, value: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    let Value::Object(map) = value else {
        return out;
    };
    for field in message.fields {
        if let Some(value) = map.get(field.name) {
            write_field(&mut out, field.number, field.form, value);
        }
    }
    if let Some(number) = message.extensions {
        for (name, value) in map.iter().filter(|(name, _)| name.starts_with("x-")) {
            put_bytes(&mut out, number, &pair(name, &yaml(value)));
        }
    }
    out
}

fn write_field(out: &mut Vec<u8>, number: u32, form: Form, value: &Value) {
    match form {
        Form::Text => put_bytes(out, number, value.as_str().unwrap_or_default().as_bytes()),
        Form::Bool => {
            if value.as_bool() == Some(true) {
                put_varint(out, u64::from(number) << 3);
                put_varint(out, 1);
            }
        }
        Form::Texts => match value {
            Value::Array(list) => list
                .iter()
                .for_each(|item| write_field(out, number, Form::Text, item)),
            one => write_field(out, number, Form::Text, one),
        },
        Form::Message(message) => put_bytes(out, number, &write(message, value)),
        Form::Map {
            pairs,
            value: choice,
        } => {
            let mut inner = Vec::new();
            write_field(&mut inner, pairs, Form::Pairs(choice), value);
            put_bytes(out, number, &inner);
        }
        Form::Pairs(choice) => {
            for (name, value) in value.as_object().into_iter().flatten() {
                put_bytes(out, number, &pair(name, &write_choice(choice, value)));
            }
        }
        Form::Choice(choice) => put_bytes(out, number, &write_choice(choice, value)),
        Form::Choices(choice) => {
            for item in value.as_array().into_iter().flatten() {
                put_bytes(out, number, &write_choice(choice, item));
            }
        }
        Form::Yaml => put_bytes(out, number, &yaml(value)),
        Form::Yamls => {
            for item in value.as_array().into_iter().flatten() {
                put_bytes(out, number, &yaml(item));
            }
        }
        Form::Custom(write) => {
            let bytes = write(value);
            if !bytes.is_empty() {
                put_bytes(out, number, &bytes);
            }
        }
    }
}

pub(super) fn write_choice(choice: Choice, value: &Value) -> Vec<u8> {
    let (wrappers, message) = choice(value);
    wrappers
        .iter()
        .rev()
        .fold(write(message, value), |inner, number| {
            let mut outer = Vec::with_capacity(inner.len() + 4);
            put_bytes(&mut outer, *number, &inner);
            outer
        })
}

fn yaml(value: &Value) -> Vec<u8> {
    let mut any = Vec::new();
    put_bytes(&mut any, 2, value.to_string().as_bytes());
    any
}

fn pair(name: &str, value: &[u8]) -> Vec<u8> {
    let mut pair = Vec::with_capacity(name.len() + value.len() + 8);
    put_bytes(&mut pair, 1, name.as_bytes());
    put_bytes(&mut pair, 2, value);
    pair
}

pub(super) fn put_bytes(out: &mut Vec<u8>, number: u32, bytes: &[u8]) {
    put_varint(out, u64::from(number) << 3 | 2);
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value as u8) | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}
