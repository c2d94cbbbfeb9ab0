//! Reading a language model's replies: names of domains in any of the shapes that models use, and descriptions, which must name what
//! they were asked to name.

use serde_json::Value;

/// Least and most words of a description.
const WORDS: std::ops::RangeInclusive<usize> = 20..=80;
/// Longest name of a domain, in words and in characters.
const NAME_WORDS: usize = 5;
const NAME_CHARS: usize = 40;
/// Words that sentences ("I would rather not") have and names do not.
const NO_NAME: [&str; 12] =
    ["i", "you", "we", "am", "is", "are", "can", "cannot", "would", "not", "but", "sorry"];

/// Lower case, letters and digits only: how names are compared.
pub fn normal(name: &str) -> String {
    name.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect()
}

/// A name as a folder's: letters, digits and `_`.
pub fn folder_name(name: &str) -> String {
    let words = name.split(|c: char| !c.is_alphanumeric()).filter(|w| !w.is_empty());
    words.collect::<Vec<_>>().join("_")
}

/// Whether `text` names `name` in full words, however these are joined ("T-shirt", "alarm clocks" for `Alarm_Clock`).
pub fn mentions(text: &str, name: &str) -> bool {
    let name = normal(name);
    let words: Vec<String> =
        text.split(|c: char| !c.is_alphanumeric()).filter(|w| !w.is_empty()).map(normal).collect();
    let plural = |one: &str, many: &str| {
        let ending = many.strip_prefix(one);
        matches!(ending, Some("" | "s" | "es"))
            || one.strip_suffix('y').is_some_and(|stem| many.strip_prefix(stem) == Some("ies"))
    };
    !name.is_empty()
        && (0..words.len()).any(|first| {
            let mut joined = String::new();
            words[first..].iter().any(|word| {
                joined += word;
                joined.len() <= name.len() + 3 && (plural(&name, &joined) || plural(&joined, &name))
            })
        })
}

/// The description in a reply, if it is one line of 20 to 80 words that names class and domain.
pub fn description(reply: &str, class: &str, domain: &str) -> Option<String> {
    // Models that reason aloud answer after their reasoning.
    let answer = reply.rsplit("</think>").next().unwrap_or_default();
    let text = bare(answer);
    let good = !text.contains(char::is_control)
        && WORDS.contains(&text.split_whitespace().count())
        && mentions(&text, class)
        && mentions(&text, domain);
    good.then_some(text)
}

/// A text without the quotes and the markdown around and in it.
fn bare(text: &str) -> String {
    let text = text.replace("**", "").replace('`', "");
    let around = |c: char| c.is_whitespace() || "\"'“”‘’«»[]*_#>".contains(c);
    text.trim_matches(around).to_string()
}

/// The names in a reply: a JSON list anywhere in it, numbered or bulleted lines, or names between commas or line ends.
pub fn domain_names(reply: &str) -> Vec<String> {
    let reply = reply.rsplit("</think>").next().unwrap_or_default();
    let listed = json_list(reply).or_else(|| bulleted(reply)).unwrap_or_else(|| {
        let list = reply.trim().rsplit(':').next().unwrap_or_default();
        list.split([',', ';', '\n']).map(str::to_string).collect()
    });
    listed.iter().filter_map(|name| domain_name(name)).collect()
}

/// A name without what models write around it; nothing if it is a sentence, or cannot name a folder.
fn domain_name(text: &str) -> Option<String> {
    let text = bare(text);
    let text = text.strip_prefix("and ").unwrap_or(&text).trim_end_matches(['.', ',']).trim();
    let text = bare(text).split_whitespace().collect::<Vec<_>>().join(" ");
    let words: Vec<String> = text.split(' ').map(normal).collect();
    let is_name =
        words.len() <= NAME_WORDS && text.chars().count() <= NAME_CHARS && text.contains(char::is_alphabetic);
    (is_name && !words.iter().any(|w| NO_NAME.contains(&w.as_str()))).then_some(text)
}

/// The first JSON list of names, or of objects that have one.
fn json_list(reply: &str) -> Option<Vec<String>> {
    reply.match_indices('[').find_map(|(at, _)| {
        let mut lists = serde_json::Deserializer::from_str(&reply[at..]).into_iter::<Vec<Value>>();
        let list = lists.next()?.ok()?;
        let name = |v: &Value| {
            let named = v.as_str().or(v["name"].as_str()).or(v["domain"].as_str());
            named.map(str::to_string)
        };
        let names: Vec<String> = list.iter().filter_map(name).collect();
        (!names.is_empty()).then_some(names)
    })
}

/// `1. watercolor: soft washes`, `- **pixel art** (blocky)`: the names only.
fn bulleted(reply: &str) -> Option<Vec<String>> {
    let item = |line: &str| {
        let line = line.trim();
        let numbered = line.trim_start_matches(|c: char| c.is_ascii_digit());
        let rest = match line.len() > numbered.len() {
            true => numbered.strip_prefix(['.', ')']),
            false => line.strip_prefix(['-', '*', '•']).filter(|rest| rest.starts_with([' ', '\t'])),
        }?;
        let ends = [":", " - ", " – ", " — ", " ("].iter().filter_map(|end| rest.find(end));
        Some(rest[..ends.min().unwrap_or(rest.len())].to_string())
    };
    let names: Vec<String> = reply.lines().filter_map(item).collect();
    (!names.is_empty()).then_some(names)
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
            "Here are two [as you asked]:\n1. **watercolor**: soft washes\n2) 3D render - made by computers\n",
            "- watercolor\n- \"3D render\" (smooth)\n",
            "These may fit: watercolor, and 3D render.",
            "watercolor\n3D render",
            "[\"watercolor\", \"3D render\",]",
            "<think>sketch, photo?</think>watercolor, 3D render",
        ] {
            assert_eq!(domain_names(reply), two, "{reply}");
        }
        let none: [&str; 0] = [];
        assert_eq!(domain_names("I am sorry, but as a language model I cannot help you with that."), none);
        assert_eq!(domain_names("I would rather not."), none);
        assert_eq!(domain_names("[1, 2] !! , ???"), none);
        assert_eq!(
            [folder_name("3D render"), folder_name("../ukiyo-e / prints")],
            ["3D_render", "ukiyo_e_prints"]
        );
    }

    #[test]
    fn descriptions_name_class_and_domain() {
        for (text, name, named) in [
            ("Two dogs.", "dog", true),
            ("A dogged look", "dog", false),
            ("Some alarm clocks", "Alarm_Clock", true),
            ("a t-shirt", "Tshirt", true),
            ("a pair of glass", "glass", true),
            ("many puppies", "puppy", true),
            ("a scar", "car", false),
            ("in pixel-art style", "pixel art", true),
            ("art of pixels", "pixel art", false),
        ] {
            assert_eq!(mentions(text, name), named, "{text}, {name}");
        }
        let words = |n: usize| format!("\"A **dog** in watercolor {}.\"\n", vec!["softly"; n].join(" "));
        let good = description(&words(20), "dog", "watercolor").unwrap();
        assert!(good.starts_with("A dog in") && good.ends_with("softly."), "{good}");
        assert_eq!(description(&words(10), "dog", "watercolor"), None);
        assert_eq!(description(&words(90), "dog", "watercolor"), None);
        assert_eq!(description(&words(20), "cat", "watercolor"), None);
        assert_eq!(description(&words(20).replace("in w", "in\nw"), "dog", "watercolor"), None);
    }
}
