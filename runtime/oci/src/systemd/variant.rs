//! Values as text (GVariant's format), as annotations have them: `true`, `'text'`, `uint64 5`, `['a', 'b']`. Pure.

use anyhow::{Result, bail};

use super::wire::Value;

/// Understands one value.
pub fn parse(text: &str) -> Result<Value> {
    let mut parser = Parser { rest: text.trim() };
    let value = parser.value()?;
    if !parser.rest.trim().is_empty() {
        bail!("{:?} follows the value", parser.rest.trim());
    }
    Ok(value)
}

struct Parser<'a> {
    rest: &'a str,
}

impl Parser<'_> {
    fn value(&mut self) -> Result<Value> {
        self.rest = self.rest.trim_start();
        match self.rest.chars().next() {
            None => bail!("no value"),
            Some(quote @ ('\'' | '"')) => self.text(quote).map(Value::Text),
            Some('[') => self.array(),
            Some('@') => {
                // A type before the value: needed for an empty array only.
                let (of, rest) = self.rest[1..]
                    .split_once(' ')
                    .unwrap_or((&self.rest[1..], ""));
                self.rest = rest;
                match (of.strip_prefix('a'), self.value_or_empty()?) {
                    (Some(of), None) => Ok(Value::Array(of.to_owned(), vec![])),
                    (_, Some(value)) if value.signature() == of => Ok(value),
                    _ => bail!("the value is not of type {of:?}"),
                }
            }
            Some(_) => self.word(),
        }
    }

    /// `None`: an array without elements, whose type is not known by itself.
    fn value_or_empty(&mut self) -> Result<Option<Value>> {
        self.rest = self.rest.trim_start();
        if let Some(inner) = self.rest.strip_prefix('[')
            && let Some(rest) = inner.trim_start().strip_prefix(']')
        {
            self.rest = rest;
            return Ok(None);
        }
        self.value().map(Some)
    }

    fn text(&mut self, quote: char) -> Result<String> {
        let mut text = String::new();
        let mut chars = self.rest[1..].char_indices();
        while let Some((at, c)) = chars.next() {
            match c {
                '\\' => match chars.next() {
                    Some((_, 'n')) => text.push('\n'),
                    Some((_, 't')) => text.push('\t'),
                    Some((_, other)) => text.push(other),
                    None => break,
                },
                c if c == quote => {
                    self.rest = &self.rest[at + 2..];
                    return Ok(text);
                }
                c => text.push(c),
            }
        }
        bail!("a text without its end")
    }

    fn array(&mut self) -> Result<Value> {
        let mut items: Vec<Value> = Vec::new();
        self.rest = &self.rest[1..];
        loop {
            self.rest = self.rest.trim_start();
            if let Some(rest) = self.rest.strip_prefix(']') {
                self.rest = rest;
                break;
            }
            let item = self.value()?;
            if items
                .first()
                .is_some_and(|first| first.signature() != item.signature())
            {
                bail!("an array of several types");
            }
            items.push(item);
            self.rest = self.rest.trim_start();
            match self.rest.chars().next() {
                Some(',') => self.rest = &self.rest[1..],
                Some(']') => {}
                _ => bail!("an array without its end"),
            }
        }
        match items.first() {
            Some(first) => Ok(Value::Array(first.signature(), items)),
            None => bail!("an empty array needs its type before it"),
        }
    }

    fn word(&mut self) -> Result<Value> {
        let end = self.rest.find([',', ']', ' ']).unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        macro_rules! typed {
            ($make:ident, $type:ty) => {{
                let number = self.rest.trim_start();
                let end = number.find([',', ']', ' ']).unwrap_or(number.len());
                let (number, rest) = number.split_at(end);
                self.rest = rest;
                Ok(Value::$make(number.parse::<$type>()?))
            }};
        }
        match word {
            "true" => Ok(Value::Bool(true)),
            "false" => Ok(Value::Bool(false)),
            "byte" => typed!(Byte, u8),
            "int16" => typed!(Int16, i16),
            "uint16" => typed!(Uint16, u16),
            "int32" => typed!(Int32, i32),
            "uint32" => typed!(Uint32, u32),
            "int64" => typed!(Int64, i64),
            "uint64" => typed!(Uint64, u64),
            "double" => typed!(Double, f64),
            _ if word.contains('.') => Ok(Value::Double(word.parse()?)),
            _ => match word.parse() {
                Ok(number) => Ok(Value::Int32(number)),
                Err(_) => bail!("{word:?} is no value"),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_understood() {
        let texts = |list: &[&str]| {
            Value::Array("s".into(), list.iter().map(|t| Value::text(*t)).collect())
        };
        for (text, expect) in [
            ("true", Value::Bool(true)),
            ("42", Value::Int32(42)),
            ("-1", Value::Int32(-1)),
            ("1.5", Value::Double(1.5)),
            ("uint64 18446744073709551615", Value::Uint64(u64::MAX)),
            ("'it\\'s'", Value::text("it's")),
            ("\"a b\"", Value::text("a b")),
            ("['a', 'b']", texts(&["a", "b"])),
            ("@as []", texts(&[])),
            (
                "[uint32 1, uint32 2]",
                Value::Array("u".into(), vec![Value::Uint32(1), Value::Uint32(2)]),
            ),
        ] {
            assert_eq!(parse(text).unwrap(), expect, "{text}");
        }
        for text in [
            "",
            "word",
            "'open",
            "[1, 'a']",
            "[]",
            "[1",
            "1 2",
            "uint16 70000",
            "@as 5",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
