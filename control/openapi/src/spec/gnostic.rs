//! The documents as gnostic's protobuf: `openapi.v2.Document` and `openapi.v3.Document`.
//!
//! Source: the `.proto` files of github.com/google/gnostic-models. Only what our own documents use is in the tables.

use kernelet_api::Value;

use super::protobuf::{Choice, Field, Form, Message, put_bytes, write, write_choice};

pub(super) fn v2(document: &Value) -> Vec<u8> {
    write(&two::DOCUMENT, document)
}

pub(super) fn v3(document: &Value) -> Vec<u8> {
    write(&three::DOCUMENT, document)
}

const fn field(name: &'static str, number: u32, form: Form) -> Field {
    Field { name, number, form }
}

/// A list of one schema: JSON's `items` is a schema, gnostic's a message with repeated schemas.
fn wrap_one(choice: Choice, value: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    put_bytes(&mut out, 1, &write_choice(choice, value));
    out
}

mod two {
    use super::*;

    pub(super) static DOCUMENT: Message = Message {
        fields: &[
            field("swagger", 1, Form::Text),
            field("info", 2, Form::Message(&INFO)),
            field(
                "paths",
                8,
                Form::Map {
                    pairs: 2,
                    value: |_| (&[], &PATH_ITEM),
                },
            ),
            field(
                "definitions",
                9,
                Form::Map {
                    pairs: 1,
                    value: |_| (&[], &SCHEMA),
                },
            ),
            field("security", 12, Form::Choices(|_| (&[], &SECURITY))),
            field(
                "securityDefinitions",
                13,
                Form::Map {
                    pairs: 1,
                    value: |_| (&[2], &API_KEY),
                },
            ),
        ],
        extensions: Some(16),
    };
    static INFO: Message = Message {
        fields: &[
            field("title", 1, Form::Text),
            field("version", 2, Form::Text),
        ],
        extensions: Some(7),
    };
    /// `{"BearerToken": []}`
    static SECURITY: Message = Message {
        fields: &[field(
            "BearerToken",
            1,
            Form::Custom(|_| {
                let mut pair = Vec::new();
                put_bytes(&mut pair, 1, b"BearerToken");
                put_bytes(&mut pair, 2, &[]);
                pair
            }),
        )],
        extensions: None,
    };
    static API_KEY: Message = Message {
        fields: &[
            field("type", 1, Form::Text),
            field("name", 2, Form::Text),
            field("in", 3, Form::Text),
            field("description", 4, Form::Text),
        ],
        extensions: Some(5),
    };
    static PATH_ITEM: Message = Message {
        fields: &[
            field("get", 2, Form::Message(&OPERATION)),
            field("put", 3, Form::Message(&OPERATION)),
            field("post", 4, Form::Message(&OPERATION)),
            field("delete", 5, Form::Message(&OPERATION)),
            field("patch", 8, Form::Message(&OPERATION)),
            field("parameters", 9, Form::Choices(parameter)),
        ],
        extensions: Some(10),
    };
    static OPERATION: Message = Message {
        fields: &[
            field("tags", 1, Form::Texts),
            field("description", 3, Form::Text),
            field("operationId", 5, Form::Text),
            field("produces", 6, Form::Texts),
            field("consumes", 7, Form::Texts),
            field("parameters", 8, Form::Choices(parameter)),
            field(
                "responses",
                9,
                Form::Map {
                    pairs: 1,
                    value: |_| (&[1], &RESPONSE),
                },
            ),
            field("schemes", 10, Form::Texts),
        ],
        extensions: Some(13),
    };
    static RESPONSE: Message = Message {
        fields: &[
            field("description", 1, Form::Text),
            field("schema", 2, Form::Choice(|_| (&[1], &SCHEMA))),
        ],
        extensions: Some(5),
    };

    /// ParametersItem → Parameter → body, or non-body → query or path.
    fn parameter(value: &Value) -> (&'static [u32], &'static Message) {
        match value.get("in").and_then(Value::as_str) {
            Some("body") => (&[1, 1], &BODY),
            Some("path") => (&[1, 2, 4], &PATH_PARAMETER),
            _ => (&[1, 2, 3], &QUERY_PARAMETER),
        }
    }
    static BODY: Message = Message {
        fields: &[
            field("description", 1, Form::Text),
            field("name", 2, Form::Text),
            field("in", 3, Form::Text),
            field("required", 4, Form::Bool),
            field("schema", 5, Form::Message(&SCHEMA)),
        ],
        extensions: Some(6),
    };
    static QUERY_PARAMETER: Message = Message {
        fields: &[
            field("required", 1, Form::Bool),
            field("in", 2, Form::Text),
            field("description", 3, Form::Text),
            field("name", 4, Form::Text),
            field("type", 6, Form::Text),
            field("uniqueItems", 20, Form::Bool),
        ],
        extensions: Some(23),
    };
    static PATH_PARAMETER: Message = Message {
        fields: &[
            field("required", 1, Form::Bool),
            field("in", 2, Form::Text),
            field("description", 3, Form::Text),
            field("name", 4, Form::Text),
            field("type", 5, Form::Text),
            field("uniqueItems", 19, Form::Bool),
        ],
        extensions: Some(22),
    };
    static SCHEMA: Message = Message {
        fields: &[
            field("$ref", 1, Form::Text),
            field("format", 2, Form::Text),
            field("description", 4, Form::Text),
            field("default", 5, Form::Yaml),
            field("required", 19, Form::Texts),
            field("enum", 20, Form::Yamls),
            field(
                "additionalProperties",
                21,
                Form::Choice(|_| (&[1], &SCHEMA)),
            ),
            // TypeItem: a repeated text.
            field(
                "type",
                22,
                Form::Custom(|value| {
                    let mut out = Vec::new();
                    put_bytes(&mut out, 1, value.as_str().unwrap_or_default().as_bytes());
                    out
                }),
            ),
            field(
                "items",
                23,
                Form::Custom(|value| wrap_one(|_| (&[], &SCHEMA), value)),
            ),
            field(
                "properties",
                25,
                Form::Map {
                    pairs: 1,
                    value: |_| (&[], &SCHEMA),
                },
            ),
        ],
        extensions: Some(31),
    };
}

mod three {
    use super::*;

    pub(super) static DOCUMENT: Message = Message {
        fields: &[
            field("openapi", 1, Form::Text),
            field("info", 2, Form::Message(&INFO)),
            field(
                "paths",
                4,
                Form::Map {
                    pairs: 1,
                    value: |_| (&[], &PATH_ITEM),
                },
            ),
            field("components", 5, Form::Message(&COMPONENTS)),
        ],
        extensions: Some(9),
    };
    static INFO: Message = Message {
        fields: &[
            field("title", 1, Form::Text),
            field("version", 6, Form::Text),
        ],
        extensions: Some(7),
    };
    static COMPONENTS: Message = Message {
        fields: &[
            field(
                "schemas",
                1,
                Form::Map {
                    pairs: 1,
                    value: schema_or_reference,
                },
            ),
            field(
                "securitySchemes",
                7,
                Form::Map {
                    pairs: 1,
                    value: |_| (&[1], &SECURITY_SCHEME),
                },
            ),
        ],
        extensions: Some(10),
    };
    static SECURITY_SCHEME: Message = Message {
        fields: &[
            field("type", 1, Form::Text),
            field("description", 2, Form::Text),
            field("name", 3, Form::Text),
            field("in", 4, Form::Text),
        ],
        extensions: Some(9),
    };
    static PATH_ITEM: Message = Message {
        fields: &[
            field("get", 4, Form::Message(&OPERATION)),
            field("put", 5, Form::Message(&OPERATION)),
            field("post", 6, Form::Message(&OPERATION)),
            field("delete", 7, Form::Message(&OPERATION)),
            field("patch", 10, Form::Message(&OPERATION)),
            field("parameters", 13, Form::Choices(|_| (&[1], &PARAMETER))),
        ],
        extensions: Some(14),
    };
    static OPERATION: Message = Message {
        fields: &[
            field("tags", 1, Form::Texts),
            field("description", 3, Form::Text),
            field("operationId", 5, Form::Text),
            field("parameters", 6, Form::Choices(|_| (&[1], &PARAMETER))),
            field("requestBody", 7, Form::Choice(|_| (&[1], &REQUEST_BODY))),
            field(
                "responses",
                8,
                Form::Map {
                    pairs: 2,
                    value: |_| (&[1], &RESPONSE),
                },
            ),
        ],
        extensions: Some(13),
    };
    static PARAMETER: Message = Message {
        fields: &[
            field("name", 1, Form::Text),
            field("in", 2, Form::Text),
            field("description", 3, Form::Text),
            field("required", 4, Form::Bool),
            field("schema", 10, Form::Choice(schema_or_reference)),
        ],
        extensions: Some(14),
    };
    static REQUEST_BODY: Message = Message {
        fields: &[
            field(
                "content",
                2,
                Form::Map {
                    pairs: 1,
                    value: |_| (&[], &MEDIA_TYPE),
                },
            ),
            field("required", 3, Form::Bool),
        ],
        extensions: Some(4),
    };
    static RESPONSE: Message = Message {
        fields: &[
            field("description", 1, Form::Text),
            field(
                "content",
                3,
                Form::Map {
                    pairs: 1,
                    value: |_| (&[], &MEDIA_TYPE),
                },
            ),
        ],
        extensions: Some(5),
    };
    static MEDIA_TYPE: Message = Message {
        fields: &[field("schema", 1, Form::Choice(schema_or_reference))],
        extensions: Some(5),
    };
    static REFERENCE: Message = Message {
        fields: &[field("$ref", 1, Form::Text)],
        extensions: None,
    };

    fn schema_or_reference(value: &Value) -> (&'static [u32], &'static Message) {
        if value.get("$ref").is_some() {
            (&[2], &REFERENCE)
        } else {
            (&[1], &SCHEMA)
        }
    }
    static SCHEMA: Message = Message {
        fields: &[
            field("uniqueItems", 20, Form::Bool),
            field("required", 23, Form::Texts),
            field("enum", 24, Form::Yamls),
            field("type", 25, Form::Text),
            field("allOf", 26, Form::Choices(schema_or_reference)),
            field("oneOf", 27, Form::Choices(schema_or_reference)),
            field(
                "items",
                30,
                Form::Custom(|value| wrap_one(schema_or_reference, value)),
            ),
            field(
                "properties",
                31,
                Form::Map {
                    pairs: 1,
                    value: schema_or_reference,
                },
            ),
            field(
                "additionalProperties",
                32,
                Form::Custom(|value| wrap_one(schema_or_reference, value)),
            ),
            field("default", 33, Form::Custom(default)),
            field("description", 34, Form::Text),
            field("format", 35, Form::Text),
        ],
        extensions: Some(36),
    };

    /// gnostic's DefaultType knows scalars only; what it can't say is left out.
    fn default(value: &Value) -> Vec<u8> {
        let mut out = Vec::new();
        match value {
            Value::Number(number) => {
                out.push(1 << 3 | 1);
                out.extend_from_slice(&number.as_f64().unwrap_or_default().to_le_bytes());
            }
            Value::Bool(flag) => out.extend_from_slice(&[2 << 3, u8::from(*flag)]),
            Value::String(text) => put_bytes(&mut out, 3, text.as_bytes()),
            _ => {}
        }
        out
    }
}
