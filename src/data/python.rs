//! Values as Python writes them: hashes and seeds of DomainBed are taken of such texts, so every character counts.

use serde::Serialize;
use serde_json::ser::{Formatter, Serializer};
use serde_json::{Map, Value};
use std::io::{Result, Write};

/// `json.dumps(map, sort_keys=True)`.
pub fn json(map: &Map<String, Value>) -> String {
    let mut value = Value::Object(map.clone());
    value.sort_all_objects();
    let mut out = vec![];
    let written = value.serialize(&mut Serializer::with_formatter(&mut out, Python));
    written.expect("JSON in memory");
    String::from_utf8(out).expect("ASCII")
}

struct Python;

impl Formatter for Python {
    fn begin_array_value<W: ?Sized + Write>(&mut self, out: &mut W, first: bool) -> Result<()> {
        out.write_all(if first { b"" } else { b", " })
    }

    fn begin_object_key<W: ?Sized + Write>(&mut self, out: &mut W, first: bool) -> Result<()> {
        out.write_all(if first { b"" } else { b", " })
    }

    fn begin_object_value<W: ?Sized + Write>(&mut self, out: &mut W) -> Result<()> {
        out.write_all(b": ")
    }

    fn write_f64<W: ?Sized + Write>(&mut self, out: &mut W, value: f64) -> Result<()> {
        out.write_all(float(value).as_bytes())
    }

    /// In ASCII.
    fn write_string_fragment<W: ?Sized + Write>(&mut self, out: &mut W, text: &str) -> Result<()> {
        text.chars().try_for_each(|c| match c {
            ' '..='~' => write!(out, "{c}"),
            c => c.encode_utf16(&mut [0; 2]).iter().try_for_each(|unit| write!(out, "\\u{unit:04x}")),
        })
    }
}

/// `repr` of a finite float: the fewest digits, with an exponent below 1e-4 and from 1e16 on.
fn float(value: f64) -> String {
    let short = format!("{value:e}");
    let (digits, exponent) = short.split_once('e').unwrap_or((&short, "0"));
    match exponent.parse::<i32>() {
        Ok(e) if !(-4..16).contains(&e) => {
            format!("{digits}e{}{:02}", if e < 0 { '-' } else { '+' }, e.abs())
        }
        _ => format!("{value:?}"),
    }
}

/// `repr` of a string that has no control characters.
pub fn repr(text: &str) -> String {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    let escaped = text.replace('\\', "\\\\");
    let escaped = if quote == '\'' { escaped.replace('\'', "\\'") } else { escaped };
    format!("{quote}{escaped}{quote}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_pythons() {
        let value = serde_json::json!({"b": [1, 0.2, 5e-5, 1e16, 1.5e-7, 100000.0, 1e-4], "a": {"é😀": null, "\u{7f}": true}});
        assert_eq!(
            json(value.as_object().unwrap()),
            "{\"a\": {\"\\u007f\": true, \"\\u00e9\\ud83d\\ude00\": null}, \"b\": [1, 0.2, 5e-05, 1e+16, 1.5e-07, 100000.0, 0.0001]}"
        );
        assert_eq!([repr("VLCS"), repr("it's"), repr("a\\")], ["'VLCS'", "\"it's\"", "'a\\\\'"]);
    }
}
