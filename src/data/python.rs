//! Values as Python writes them: hashes and seeds of DomainBed are taken of such texts, so every character counts.

use serde_json::{Map, Value};

/// `json.dumps(map, sort_keys=True)`.
pub fn json(map: &Map<String, Value>) -> String {
    let mut out = String::new();
    write(&Value::Object(map.clone()), &mut out);
    out
}

fn write(value: &Value, out: &mut String) {
    match value {
        Value::Object(map) => {
            let mut keys: Vec<_> = map.keys().collect();
            keys.sort();
            out.push('{');
            for (i, key) in keys.into_iter().enumerate() {
                *out += if i > 0 { ", " } else { "" };
                *out += &string(key);
                *out += ": ";
                write(&map[key], out);
            }
            out.push('}');
        }
        Value::Array(items) => {
            out.push('[');
            for (i, item) in items.iter().enumerate() {
                *out += if i > 0 { ", " } else { "" };
                write(item, out);
            }
            out.push(']');
        }
        Value::String(text) => *out += &string(text),
        Value::Number(n) if n.is_f64() => *out += &float(n.as_f64().unwrap_or(f64::NAN)),
        other => *out += &other.to_string(),
    }
}

/// A JSON string in ASCII.
fn string(text: &str) -> String {
    let mut out = String::new();
    for c in Value::String(text.into()).to_string().chars() {
        match c {
            ' '..='~' => out.push(c),
            c => c.encode_utf16(&mut [0; 2]).iter().for_each(|unit| out += &format!("\\u{unit:04x}")),
        }
    }
    out
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
