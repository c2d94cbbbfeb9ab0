//! The names in a model's reply: JSON, tables, lists with marks, or names between commas.

use super::reply::{answer, bare, without_mark};
use super::words::normal;
use serde_json::Value;

/// Longest name of a domain, in words and in characters.
const WORDS: usize = 5;
const CHARS: usize = 40;
/// Longest name in writing that has no blanks.
const CHARS_WITHOUT_BLANKS: usize = 12;
/// Words that sentences ("I would rather not") have and names do not.
const NO_NAME: [&str; 22] = [
    "i",
    "you",
    "we",
    "am",
    "is",
    "are",
    "can",
    "cannot",
    "would",
    "not",
    "but",
    "sorry",
    "here",
    "sure",
    "these",
    "following",
    "which",
    "that",
    "okay",
    "please",
    "domains",
    "if",
];
/// What headings and keys say.
const HEADINGS: [&str; 14] = [
    "domain",
    "name",
    "style",
    "styles",
    "title",
    "label",
    "description",
    "related",
    "output",
    "json",
    "list",
    "answer",
    "none",
    "null",
];
/// Keys under which a name stands.
const KEYS: [&str; 5] = ["name", "domain", "style", "title", "label"];
/// Names that hold the word that joins the last two of a list.
const JOINED: [&str; 5] =
    ["black and white", "pen and ink", "ink and wash", "line and wash", "light and shadow"];

/// The names in a reply; none where it holds none.
pub fn domain_names(reply: &str) -> Vec<String> {
    let text = answer(reply);
    let text: String =
        text.lines().filter(|l| !l.trim_start().starts_with("```")).collect::<Vec<_>>().join("\n");
    let read: [fn(&str) -> Vec<String>; 5] = [json, table, marked, prose, split];
    let names = read.iter().map(|read| read(&text).iter().filter_map(|n| domain_name(n)).collect::<Vec<_>>());
    names.into_iter().find(|names| !names.is_empty()).unwrap_or_default()
}

/// A name without what models write around it; nothing if it is a sentence, or cannot name a folder.
fn domain_name(text: &str) -> Option<String> {
    let text = bare(text);
    let text = text.strip_prefix("and ").or(text.strip_prefix("or ")).unwrap_or(&text);
    let text = bare(text.trim_end_matches(['.', ',', ';', '!', '。', '，']))
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ");
    let words: Vec<String> = text.split(' ').map(normal).collect();
    let has_blanks = text.chars().all(|c| c < '\u{2e80}');
    let most = if has_blanks { CHARS } else { CHARS_WITHOUT_BLANKS };
    let is_name = words.len() <= WORDS && text.chars().count() <= most && text.contains(char::is_alphabetic);
    let is_heading = words.iter().all(|w| HEADINGS.contains(&w.as_str()));
    let odd = |c: char| c.is_control() || "{}[]<>|\\\"=:.?!#。？！：".contains(c);
    let good =
        is_name && !is_heading && !text.contains(odd) && !words.iter().any(|w| NO_NAME.contains(&w.as_str()));
    good.then_some(text)
}

/// Names in the first JSON value that has some.
fn json(text: &str) -> Vec<String> {
    let names = text.match_indices(['[', '{']).filter_map(|(at, _)| {
        let mut values = serde_json::Deserializer::from_str(&text[at..]).into_iter::<Value>();
        Some(in_value(&values.next()?.ok()?)).filter(|names| !names.is_empty())
    });
    names.into_iter().next().unwrap_or_default()
}

fn in_value(value: &Value) -> Vec<String> {
    match value {
        Value::String(name) => vec![name.clone()],
        Value::Array(list) => list.iter().flat_map(in_value).collect(),
        Value::Object(map) => {
            if let Some(name) = KEYS.iter().find_map(|key| map.get(*key)?.as_str()) {
                return vec![name.to_string()];
            }
            // {"1": name} and {"domain1": name}, but {name: what it is}.
            let is_number = |key: &String| key.ends_with(|c: char| c.is_ascii_digit());
            match map.values().all(Value::is_string) && !map.keys().all(is_number) {
                true => map.keys().cloned().collect(),
                false => map.values().filter(|v| !v.is_null()).flat_map(in_value).collect(),
            }
        }
        _ => vec![],
    }
}

/// The first name in each row of a Markdown table, its head aside.
fn table(text: &str) -> Vec<String> {
    let rows: Vec<Vec<&str>> = text
        .lines()
        .filter_map(|line| line.trim().strip_prefix('|'))
        .map(|line| line.trim_end_matches('|').split('|').map(str::trim).collect())
        .collect();
    let is_rule = |row: &Vec<&str>| {
        row.iter().all(|cell| cell.contains('-') && cell.trim_matches(['-', ':']).is_empty())
    };
    let Some(rule) = rows.iter().position(is_rule) else { return vec![] };
    let name = |row: &Vec<&str>| row.iter().find_map(|cell| domain_name(cell));
    rows[rule + 1..].iter().filter_map(name).collect()
}

/// A marked line: how far it is set in, and what it says.
struct Item {
    indent: usize,
    text: String,
}

/// `1. watercolor: soft washes`, `- **pixel art** (blocky)`, `**Neon**: glowing`, `### Mosaic`: the names only. Of lists within lists
/// the outer, unless that is a heading for the inner.
fn marked(text: &str) -> Vec<String> {
    let mut items: Vec<Item> = text.lines().filter_map(item).collect();
    let outer = |items: &[Item]| items.iter().map(|item| item.indent).min();
    // A lone heading.
    while let Some(indent) = outer(&items) {
        let at: Vec<usize> = (0..items.len()).filter(|&i| items[i].indent == indent).collect();
        if items.len() > 1 && at.len() == 1 && items[at[0]].text.ends_with([':', '：']) {
            items.remove(at[0]);
        } else {
            break;
        }
    }
    let Some(indent) = outer(&items) else { return vec![] };
    let ends = [":", "：", " - ", " – ", " — ", " (", "（"];
    let name = |item: &Item| {
        let end = ends.iter().filter_map(|end| item.text.find(end)).min();
        item.text[..end.unwrap_or(item.text.len())].to_string()
    };
    items.iter().filter(|item| item.indent == indent).map(name).collect()
}

fn item(line: &str) -> Option<Item> {
    let text = line.trim_start();
    let indent = line.chars().take_while(|c| c.is_whitespace()).map(|c| if c == '\t' { 4 } else { 1 }).sum();
    let open = text.strip_prefix('(').unwrap_or(text);
    let rest = if let Some(rest) = without_mark(open) {
        rest.trim_start_matches("[ ]").trim_start_matches("[x]")
    } else if let Some(heading) = text.strip_prefix("##") {
        // "### 1. Mosaic".
        let heading = heading.trim_start_matches('#').trim();
        without_mark(heading).unwrap_or(heading)
    } else if let Some(bold) = text.strip_prefix("**") {
        let (name, after) = bold.split_once("**")?;
        // A line that is bold as a whole may as well be a title.
        if !(name.ends_with(':') || after.trim_start().starts_with([':', '-', '–', '—', '('])) {
            return None;
        }
        name.trim_end_matches(':')
    } else {
        return None;
    };
    Some(Item { indent, text: rest.trim().replace("**", "") })
}

/// Names that a sentence lists: "Some related domains are watercolor, pixel art and neon; let me know ..".
fn prose(text: &str) -> Vec<String> {
    for mark in [" are ", " include ", " including ", " such as ", " like ", " would be ", " could be "] {
        let Some((_, rest)) = text.split_once(mark) else { continue };
        let end = rest.find([';', '.', '!', '?', '\n', ':']).unwrap_or(rest.len());
        let names = list(&rest[..end]);
        if names.len() > 1 && names.iter().all(|n| domain_name(n).is_some()) {
            return names;
        }
    }
    vec![]
}

/// What stands between commas, semicolons and line ends, after the last colon.
fn split(text: &str) -> Vec<String> {
    list(text.trim().trim_end_matches(['.', '!', '。']).rsplit([':', '：']).next().unwrap_or_default())
}

fn list(text: &str) -> Vec<String> {
    let names: Vec<&str> =
        text.split([',', ';', '\n', '、', '，', '；']).filter(|n| !n.trim().is_empty()).collect();
    let is_one = |name: &str| JOINED.iter().any(|joined| name.to_lowercase().contains(joined));
    let Some((last, others)) = names.split_last() else { return vec![] };
    let mut all: Vec<String> = others.iter().map(|n| n.to_string()).collect();
    match last.rsplit_once(" and ").filter(|_| !is_one(last)) {
        Some((a, b)) => all.extend([a, b].iter().filter(|n| !n.trim().is_empty()).map(|n| n.to_string())),
        None => all.push(last.to_string()),
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_any_shape() {
        let two = ["watercolor", "3D render"];
        for reply in [
            r#"["watercolor", "3D render"]"#,
            "Sure!\n```json\n[\n  \"watercolor\",\n  \"3D render\"\n]\n```",
            r#"{"domains": [{"name": "watercolor"}, {"name": "3D render"}]}"#,
            r#"{"domains":{"1":"watercolor","2":"3D render"}}"#,
            r#"{"domain1":"watercolor","domain2":"3D render"}"#,
            r#"{"watercolor":"soft washes of colour","3D render":"made by computers"}"#,
            "Here are two [as you asked]:\n1. **watercolor**: soft washes\n2) 3D render - made by computers\n",
            "- watercolor\n- \"3D render\" (smooth)\n",
            "These may fit: watercolor, and 3D render.",
            "watercolor\n3D render",
            "[\"watercolor\", \"3D render\",]",
            "['watercolor', '3D render']",
            "<think>sketch, photo?</think>watercolor, 3D render",
            "| # | Domain |\n|---|---|\n| 1 | watercolor |\n| 2 | 3D render |",
            "| Domain | What it is |\n| :--- | ---: |\n| **watercolor** | soft |\n| 3D render | smooth |",
            "1. **watercolor**\n   - Soft washes of colour\n2. **3D render**\n   - Smooth shapes",
            "- Related domains:\n  - watercolor\n  - 3D render",
            "**watercolor**: soft washes.\n**3D render**: smooth.",
            "## watercolor\nSoft washes.\n\n## 3D render\nSmooth.",
            "(1) watercolor\n(2) 3D render",
            "Some related domains are watercolor and 3D render; let me know if you want more!",
            "You could add styles such as watercolor, and 3D render.",
        ] {
            assert_eq!(domain_names(reply), two, "{reply}");
        }
        let three = ["水彩画", "像素艺术", "霓虹"];
        for reply in [
            "以下是一些领域：水彩画、像素艺术、霓虹",
            "1、水彩画\n2、像素艺术\n3、霓虹",
            "水彩画，像素艺术，霓虹。",
        ] {
            assert_eq!(domain_names(reply), three, "{reply}");
        }
        assert_eq!(domain_names("charcoal, black and white"), ["charcoal", "black and white"]);
        assert_eq!(
            domain_names(
                "Some related domains are watercolor, pixel art and neon; let me know if you want more!"
            ),
            ["watercolor", "pixel art", "neon"]
        );
    }

    #[test]
    fn what_holds_no_names_gives_none() {
        for reply in [
            "I am sorry, but as a language model I cannot help you with that.",
            "I would rather not.",
            "[1, 2] !! , ???",
            "<think>Okay, the user wants a few more domains, so maybe watercolor, pixel art, neon or pencil drawing",
            "<|channel|>analysis<|message|>watercolor, pixel art",
            "| # | Domain |\n|---|---|",
            "{\"domains\": []}",
            "null",
            "",
            "以下是一些与您的数据集相关的更多领域建议",
        ] {
            assert_eq!(domain_names(reply), [""; 0], "{reply}");
        }
    }
}
