//! What a model means to say: its reply without what it thought aloud and without the marks of its chat template, and the description
//! in it, if there is a good one.

use super::words::mentions;
use serde_json::Value;

/// Least and most words of a description.
const WORDS: std::ops::RangeInclusive<usize> = 20..=80;
/// Tokens that CLIP's text encoder reads of a prompt, those at its ends aside.
const TOKENS: usize = 75;

/// Marks between which models think aloud.
const THOUGHTS: [(&str, &str); 9] = [
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),
    ("<reasoning>", "</reasoning>"),
    ("<reflection>", "</reflection>"),
    ("<seed:think>", "</seed:think>"),
    ("[think]", "[/think]"),
    ("◁think▷", "◁/think▷"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
];
/// Where a reply ends, whatever a server sends after it.
const ENDS: [&str; 9] = [
    "<|im_end|>",
    "<|eot_id|>",
    "<|end|>",
    "<|return|>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<|start|>",
    "<end_of_turn>",
    "</s>",
];
/// What may stand around an answer.
const WRAPPERS: [&str; 8] = [
    "<answer>",
    "</answer>",
    "<output>",
    "</output>",
    "<response>",
    "</response>",
    "<|begin_of_solution|>",
    "<|end_of_solution|>",
];
/// gpt-oss says on which channel it speaks.
const FINAL: &str = "<|channel|>final<|message|>";

/// A reply without thoughts and marks. One that never stopped thinking is empty.
pub fn answer(reply: &str) -> String {
    let mut text = reply.to_string();
    if let Some((_, last)) = text.rsplit_once(FINAL) {
        text = last.to_string();
    } else if text.contains("<|channel|>") {
        return String::new();
    }
    for (open, close) in THOUGHTS {
        // A chat template may have opened the thoughts itself, so that only their end is here.
        if let Some(end) = find(&text, close, true) {
            text = text[end + close.len()..].to_string();
        }
        if let Some(start) = find(&text, open, false) {
            text.truncate(start);
        }
    }
    if let Some(end) = ENDS.iter().filter_map(|end| text.find(end)).min() {
        text.truncate(end);
    }
    WRAPPERS.iter().fold(text, |text, wrapper| text.replace(wrapper, "\n")).trim().to_string()
}

/// The first or the last place of `mark` in any case; marks are in lower case.
fn find(text: &str, mark: &str, last: bool) -> Option<usize> {
    let mut places = text.char_indices().map(|(at, _)| at).filter(|&at| {
        let part = text.as_bytes().get(at..at + mark.len());
        part.is_some_and(|part| part.eq_ignore_ascii_case(mark.as_bytes()))
    });
    if last { places.next_back() } else { places.next() }
}

/// The description in a reply: the first part of it that has 20 to 80 words, names class and domain, and is short enough for
/// `fits`.
///
/// # Errors
/// Why no part will do.
pub fn description(
    reply: &str,
    class: &str,
    domain: &str,
    fits: impl Fn(&str) -> bool,
) -> Result<String, String> {
    let answer = answer(reply);
    if answer.is_empty() {
        return Err("nothing but thoughts".into());
    }
    let mut why = None;
    for text in parts(&answer) {
        match check(&text, class, domain, &fits) {
            Ok(()) => return Ok(text),
            // Of the longest part, which was most likely meant.
            Err(wrong) => {
                let longer = why.as_ref().is_none_or(|(words, _)| text.split(' ').count() > *words);
                why = if longer { Some((text.split(' ').count(), wrong)) } else { why };
            }
        }
    }
    Err(why.map_or("no sentence in it".into(), |(_, wrong)| wrong))
}

fn check(text: &str, class: &str, domain: &str, fits: impl Fn(&str) -> bool) -> Result<(), String> {
    let words = text.split_whitespace().count();
    let lower = text.to_lowercase().replace('’', "'");
    let begins = |starts: &[&str]| starts.iter().any(|start| lower.starts_with(start));
    let holds = |parts: &[&str]| parts.iter().any(|part| lower.contains(part));
    if begins(&[
        "i'm sorry",
        "i am sorry",
        "sorry,",
        "i cannot",
        "i can't",
        "i can not",
        "unfortunately",
        "as an ai",
        "as a language",
    ]) || holds(&[
        "i cannot create",
        "i can't create",
        "i cannot generate",
        "i can't generate",
        "i'm unable to",
        "i am unable to",
    ]) {
        return Err("the model refused".into());
    }
    if begins(&["okay, ", "ok, ", "alright, ", "hmm", "let me ", "let's ", "first, i ", "wait, "])
        || holds(&["the user ", "class_name", "domain style]"])
    {
        return Err("thoughts or the request, no description".into());
    }
    if !WORDS.contains(&words) {
        return Err(format!("{words} words, not 20 to 80"));
    }
    for name in [class, domain] {
        if !mentions(text, name) {
            return Err(format!("it does not name {name}"));
        }
    }
    if !fits(text) {
        return Err("too long for the text encoder".into());
    }
    Ok(())
}

/// Whether a text may fit CLIP's tokens, where its vocabulary is not at hand: a word or a mark is at least one token, and a long word
/// more.
pub fn may_fit(text: &str) -> bool {
    let words = text.split(|c: char| !c.is_alphanumeric()).filter(|w| !w.is_empty());
    let tokens: usize = words.map(|w| 1 + w.chars().count().saturating_sub(8).div_ceil(5)).sum();
    tokens + text.chars().filter(|c| c.is_ascii_punctuation()).count() <= TOKENS
}

/// What may be the description, likeliest first: texts of a JSON value, what stands in quotes, paragraphs, lines.
fn parts(answer: &str) -> Vec<String> {
    let mut parts = vec![];
    let plain: String =
        answer.lines().filter(|l| !l.trim_start().starts_with("```")).collect::<Vec<_>>().join("\n");
    if let Some(value) = json(&plain) {
        texts(&value, &mut parts);
    }
    for (open, close) in [('"', '"'), ('“', '”'), ('«', '»'), ('„', '“')] {
        let quoted = plain.split_once(open).and_then(|(_, rest)| rest.split_once(close));
        parts.extend(quoted.map(|(text, _)| text.to_string()));
    }
    let mut paragraph = String::new();
    for line in plain.lines().chain([""]) {
        if line.trim().is_empty() || without_mark(line.trim()).is_some() {
            parts.extend((!paragraph.is_empty()).then(|| std::mem::take(&mut paragraph)));
        }
        paragraph += &format!(" {line}");
    }
    parts.extend(plain.lines().map(str::to_string));
    parts.iter().map(|part| tidied(part)).filter(|part| !part.is_empty()).collect()
}

/// The JSON value that a text is, or that stands in it.
fn json(text: &str) -> Option<Value> {
    let at = text.find(['{', '['])?;
    let mut values = serde_json::Deserializer::from_str(&text[at..]).into_iter::<Value>();
    values.next()?.ok()
}

fn texts(value: &Value, all: &mut Vec<String>) {
    match value {
        Value::String(text) => all.push(text.clone()),
        Value::Array(list) => list.iter().for_each(|v| texts(v, all)),
        Value::Object(map) => map.values().for_each(|v| texts(v, all)),
        _ => {}
    }
}

/// A part on one line, without marks, a label or a preamble before it, and notes after it.
fn tidied(part: &str) -> String {
    let line = part.split_whitespace().collect::<Vec<_>>().join(" ");
    let line: String = line.chars().filter(|c| !c.is_control()).collect();
    let mut text = bare(&line);
    text = without_mark(&text).map_or(text.clone(), bare);
    if let Some((head, rest)) = text.split_once(':') {
        let words: Vec<String> =
            head.split_whitespace().map(|w| w.trim_matches(',').to_lowercase()).collect();
        const LABELS: [&str; 14] = [
            "here",
            "here's",
            "here’s",
            "sure",
            "sure!",
            "certainly",
            "certainly!",
            "description",
            "prompt",
            "sentence",
            "caption",
            "answer",
            "output",
            "scene",
        ];
        if words.len() <= 20 && words.iter().any(|w| LABELS.contains(&w.as_str())) {
            text = bare(rest);
        }
    }
    without_notes(&text)
}

/// What follows the mark of an item of a list: `1. `, `2) `, `- `, `• `.
pub fn without_mark(line: &str) -> Option<&str> {
    let numbered = line.trim_start_matches(|c: char| c.is_ascii_digit());
    let rest = match numbered.len() < line.len() {
        true => numbered.strip_prefix(['.', ')', '、']),
        false => {
            line.strip_prefix(['-', '*', '•', '+', '–', '·']).filter(|rest| rest.starts_with([' ', '\t']))
        }
    };
    rest.map(str::trim)
}

/// A text without the remarks at its end: "(Word count: 40)", "Let me know if you want more!".
fn without_notes(text: &str) -> String {
    const NOTES: [&str; 12] = [
        "let me know",
        "i hope",
        "feel free",
        "would you like",
        "do you want",
        "note:",
        "word count",
        "(word",
        "(approx",
        "(about",
        "this description",
        "this sentence",
    ];
    let mut text = text.to_string();
    loop {
        let lower = text.to_lowercase();
        let starts: Vec<usize> = lower
            .char_indices()
            .filter(|&(at, c)| {
                at > 0 && !c.is_whitespace() && lower[..at].ends_with(|c: char| c.is_whitespace() || c == '"')
            })
            .map(|(at, _)| at)
            .collect();
        let note = starts.iter().rev().find(|&&at| NOTES.iter().any(|note| lower[at..].starts_with(note)));
        // Upper and lower case may differ in length; then the remark stays and decides.
        match note.filter(|&&at| lower.len() == text.len() && text.is_char_boundary(at)) {
            Some(&at) => text = bare(&text[..at]),
            None => return text,
        }
    }
}

/// A text without the quotes and the markdown around and in it.
pub fn bare(text: &str) -> String {
    let text = text.replace("**", "").replace("__", "").replace('`', "");
    let around = |c: char| c.is_whitespace() || "\"'“”‘’«»„[]*_#>".contains(c);
    text.trim_matches(around).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "A dog stands in a sunny meadow, drawn in watercolor style with bold outlines, warm colours, gentle shading and a \
                        soft background of distant hills and drifting clouds at noon.";

    #[test]
    fn a_good_description_is_found_in_noise() {
        for reply in [
            GOOD.to_string(),
            format!("\"{GOOD}\""),
            format!("Sure! Here is a description of about 40 words:\n\n\"{GOOD}\""),
            format!("Sure! Here is a description of about 40 words:\n{GOOD}"),
            format!("Here's a description: {GOOD}"),
            format!("**Prompt:** {GOOD}"),
            format!("{GOOD}\n\n(Word count: 40)"),
            format!("{GOOD} (Word count: 40)"),
            format!("{GOOD}\n\nLet me know if you would like another one!"),
            format!("{GOOD} Let me know if you want more!"),
            format!("```\n{GOOD}\n```"),
            format!("```json\n{{\"description\": \"{GOOD}\"}}\n```"),
            format!("{{\"class\": \"dog\", \"prompts\": [{{\"text\": \"{GOOD}\"}}]}}"),
            format!("1. {GOOD}\n2. {GOOD}"),
            format!("<think>A dog in watercolor? Okay.</think>\n{GOOD}"),
            format!("Okay, the user wants a dog in watercolor.</think>{GOOD}"),
            format!("[THINK]hm[/THINK]{GOOD}</s>"),
            format!(
                "<|channel|>analysis<|message|>A dog.<|end|><|start|>assistant<|channel|>final<|message|>{GOOD}<|return|>"
            ),
            format!("{GOOD}<|im_end|>\n<|im_start|>user\nmore"),
            format!("<answer>{GOOD}</answer>"),
            GOOD.replace(" warm ", "\nwarm "),
            format!("Here are two paragraphs about it.\n\n{GOOD}\n\nIts fur is soft."),
        ] {
            assert_eq!(description(&reply, "dog", "watercolor", may_fit).as_deref(), Ok(GOOD), "{reply}");
        }
        let bold = GOOD.replace("dog", "**dog**");
        assert_eq!(description(&bold, "dog", "watercolor", may_fit).as_deref(), Ok(GOOD));
    }

    #[test]
    fn a_bad_description_is_never_used() {
        let long = "chrysanthemum-embroidered ".repeat(60);
        for (reply, why) in [
            ("A dog in watercolor.".to_string(), "4 words"),
            (GOOD.repeat(3), "words, not 20 to 80"),
            (GOOD.replace("dog", "cat"), "it does not name dog"),
            (GOOD.replace("watercolor", "oil"), "it does not name watercolor"),
            (
                format!("<think> Okay, they want about forty words, so let me start with this idea: {GOOD}"),
                "nothing but thoughts",
            ),
            (format!("<reasoning>{GOOD}"), "nothing but thoughts"),
            (format!("<|channel|>analysis<|message|>{GOOD}"), "nothing but thoughts"),
            (format!("Okay, the user wants this: {GOOD}"), "thoughts"),
            (
                format!(
                    "I'm sorry, but I can't help with a picture such as this one, which would be: {GOOD}"
                ),
                "refused",
            ),
            (format!("A dog in watercolor style {long}"), "too long for the text encoder"),
            (String::new(), "nothing but thoughts"),
        ] {
            let said = description(&reply, "dog", "watercolor", may_fit).unwrap_err();
            assert!(said.contains(why), "{reply}: {said}");
        }
    }

    #[test]
    fn only_what_clip_can_read_may_fit() {
        assert!(may_fit(GOOD) && may_fit(&"dog ".repeat(75)));
        assert!(!may_fit(&"dog ".repeat(76)) && !may_fit(&"dog, ".repeat(40)));
        assert!(!may_fit(&"chrysanthemum-embroidered ".repeat(20)));
    }
}
