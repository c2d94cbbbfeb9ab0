//! Reading the body of a server's answer: the model's text, why there is none, or what the server says went wrong. Chat completions
//! come whole, in pieces, with parts in place of a text; Ollama's own form and Anthropic's are read as well.

use super::chat::Reply;
use serde_json::Value;

/// What a body holds.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// A completion.
    Reply(Reply),
    /// An error, though the HTTP status may say that all is well.
    Error(Failure),
    /// Nothing that is known here.
    Unknown,
}

/// What a server says went wrong.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Failure {
    /// The HTTP status that it stands for, where it says.
    pub status: Option<u16>,
    /// Its own word for it, such as `insufficient_quota`; may be empty.
    pub code: String,
    /// For people; may be empty.
    pub message: String,
}

impl Failure {
    /// Whether waiting will not help, whatever the status: an account without money stays one.
    pub fn is_final(&self) -> bool {
        ["insufficient_quota", "billing", "credit"].iter().any(|word| self.code.contains(word))
    }
}

/// What the body of an answer says.
pub fn read(body: &str) -> Answer {
    match serde_json::from_str(body.trim()) {
        Ok(value) => whole(&value),
        Err(_) => pieces(body),
    }
}

/// An answer that came as one JSON value.
fn whole(answer: &Value) -> Answer {
    let choice = &answer["choices"][0];
    if let Some(failure) = failure(answer).or_else(|| failure(choice)) {
        return Answer::Error(failure);
    }
    // Ollama's and Anthropic's have no choices.
    let (message, ended) = match choice.is_null() {
        false => (&choice["message"], &choice["finish_reason"]),
        true if answer["message"].is_object() => (&answer["message"], &answer["done_reason"]),
        true => (answer, &answer["stop_reason"]),
    };
    let is_completion =
        !choice.is_null() || message.get("role").is_some() || message.get("content").is_some();
    if !is_completion {
        return Answer::Unknown;
    }
    let text = match &message["content"] {
        Value::Null => choice["text"].as_str().unwrap_or_default().to_string(),
        content => joined(content),
    };
    let refusal = joined(&message["refusal"]);
    let calls_tool = ["tool_calls", "function_call"].iter().any(|key| !is_empty(&message[*key]));
    Answer::Reply(reply(text, &refusal, ended.as_str().unwrap_or_default(), calls_tool))
}

/// A text that a model gave and why it ended, or why it is of no use.
fn reply(text: String, refusal: &str, ended: &str, calls_tool: bool) -> Reply {
    let nothing = text.trim().is_empty();
    Reply::Nothing(match ended.to_lowercase().as_str() {
        _ if !refusal.trim().is_empty() => format!("the model refused: {}", refusal.trim()),
        "length" | "max_tokens" | "model_length" if nothing => {
            format!("no text: it ran out of tokens (finish_reason {ended})")
        }
        "length" | "max_tokens" | "model_length" => {
            format!("cut off by the token limit (finish_reason {ended})")
        }
        "content_filter" | "safety" => format!("held back by a filter (finish_reason {ended})"),
        _ if !nothing => return Reply::Text(text),
        _ if calls_tool => "it called a tool instead of answering".into(),
        _ => "an empty reply".into(),
    })
}

/// An answer as a stream of events (`data: {..}`) or of lines, which some servers send unasked.
fn pieces(body: &str) -> Answer {
    let (mut text, mut refusal, mut ended, mut seen) = (String::new(), String::new(), String::new(), false);
    for line in body.lines().map(str::trim) {
        let data = line.strip_prefix("data:").unwrap_or(line).trim();
        let Ok(piece) = serde_json::from_str::<Value>(data) else { continue };
        let choice = &piece["choices"][0];
        if let Some(failure) = failure(&piece).or_else(|| failure(choice)) {
            return Answer::Error(failure);
        }
        let delta = [&choice["delta"], &choice["message"], &piece["message"], &piece["delta"]];
        seen |= !choice.is_null() || delta.iter().any(|d| d.is_object());
        for delta in delta {
            text += &joined(&delta["content"]);
            refusal += &joined(&delta["refusal"]);
            // Anthropic's.
            text += delta["text"].as_str().unwrap_or_default();
        }
        text += choice["text"].as_str().unwrap_or_default();
        let why = [&choice["finish_reason"], &piece["done_reason"], &piece["delta"]["stop_reason"]];
        ended = why.iter().find_map(|w| w.as_str()).map_or(ended, str::to_string);
    }
    if seen { Answer::Reply(reply(text, &refusal, &ended, false)) } else { Answer::Unknown }
}

/// A text, or the texts of a list of parts; what a model thought is left out.
fn joined(content: &Value) -> String {
    match content {
        Value::String(text) => text.clone(),
        Value::Array(parts) => parts.iter().map(joined).collect(),
        Value::Object(part) => match part.get("type").and_then(Value::as_str) {
            Some("thinking" | "reasoning" | "redacted_thinking" | "tool_use") => String::new(),
            _ => part.get("text").or(part.get("refusal")).map(joined).unwrap_or_default(),
        },
        _ => String::new(),
    }
}

fn is_empty(value: &Value) -> bool {
    value.is_null() || value.as_array().is_some_and(Vec::is_empty)
}

/// The error in an answer.
pub fn failure(answer: &Value) -> Option<Failure> {
    let of = |keys: &[&str], error: &Value| {
        keys.iter().find_map(|key| match &error[*key] {
            Value::String(text) => Some(text.clone()),
            Value::Number(number) => Some(number.to_string()),
            _ => None,
        })
    };
    let error = match &answer["error"] {
        Value::Null | Value::Bool(false) if answer["object"] == "error" || answer["type"] == "error" => {
            answer
        }
        Value::Null | Value::Bool(false) => {
            // Frameworks for servers say it so.
            let detail = answer["detail"].as_str()?;
            return Some(Failure { message: detail.into(), ..Failure::default() });
        }
        Value::String(text) => return Some(Failure { message: text.clone(), ..Failure::default() }),
        error => error,
    };
    let words = [of(&["code"], error), of(&["type"], error), of(&["status"], error)].into_iter().flatten();
    let words: Vec<String> = words.map(|w| w.to_lowercase()).collect();
    let number = words.iter().find_map(|w| w.parse().ok()).filter(|n| (300..600).contains(n));
    let code = words.iter().filter(|w| w.parse::<u16>().is_err()).cloned().collect::<Vec<_>>().join(" ");
    let named = || match &code {
        code if code.contains("rate_limit") || code.contains("resource_exhausted") => Some(429),
        code if ["server_error", "overloaded", "unavailable", "timeout"].iter().any(|w| code.contains(w)) => {
            Some(503)
        }
        _ => None,
    };
    let message = of(&["message", "detail"], error).unwrap_or_default();
    Some(Failure { status: number.or_else(named), message, code })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn text(body: impl ToString) -> String {
        match read(&body.to_string()) {
            Answer::Reply(Reply::Text(text)) => text,
            other => panic!("{other:?}"),
        }
    }

    fn nothing(body: impl ToString) -> String {
        match read(&body.to_string()) {
            Answer::Reply(Reply::Nothing(why)) => why,
            other => panic!("{other:?}"),
        }
    }

    fn chat(message: Value, ended: &str) -> Value {
        json!({"choices": [{"message": message, "finish_reason": ended}]})
    }

    #[test]
    fn texts_in_all_shapes() {
        assert_eq!(text(chat(json!({"content": "a dog"}), "stop")), "a dog");
        assert_eq!(text(chat(json!({"content": "a dog", "reasoning_content": "Okay"}), "stop")), "a dog");
        let parts = json!([{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "a "}, {"type": "text", "text": "dog"}]);
        assert_eq!(text(chat(json!({"content": parts}), "stop")), "a dog");
        assert_eq!(text(json!({"content": parts, "role": "assistant", "stop_reason": "end_turn"})), "a dog");
        assert_eq!(text(json!({"choices": [{"text": "a dog", "finish_reason": "stop"}]})), "a dog");
        assert_eq!(
            text(json!({"message": {"role": "assistant", "content": "a dog"}, "done_reason": "stop"})),
            "a dog"
        );
        assert_eq!(text(format!("\n\n  {}\n", chat(json!({"content": "a dog"}), "stop"))), "a dog");
        let piece = |text: &str| json!({"choices": [{"delta": {"content": text}}]});
        let end = json!({"choices": [{"delta": {}, "finish_reason": "stop"}]});
        let stream = format!(
            ": comment\n\ndata: {}\n\ndata:{}\n\ndata: {end}\n\ndata: [DONE]\n\n",
            piece("a "),
            piece("dog")
        );
        assert_eq!(text(stream.clone()), "a dog");
        assert!(nothing(stream.replace("\"stop\"", "\"length\"")).contains("cut off by the token limit"));
        let lines = ["a ", "dog"]
            .map(|t| json!({"message": {"role": "assistant", "content": t}, "done": false}).to_string());
        assert_eq!(text(lines.join("\n")), "a dog");
    }

    #[test]
    fn why_there_is_no_text() {
        assert_eq!(
            nothing(chat(json!({"content": null, "refusal": "I can't."}), "stop")),
            "the model refused: I can't."
        );
        let ran_out = nothing(chat(json!({"content": null, "reasoning_content": "Okay .."}), "length"));
        assert_eq!(ran_out, "no text: it ran out of tokens (finish_reason length)");
        assert!(nothing(chat(json!({"content": "A dog in"}), "length")).contains("cut off"));
        assert!(nothing(chat(json!({"content": "A dog in"}), "content_filter")).contains("filter"));
        assert!(
            nothing(chat(json!({"content": null, "tool_calls": [{"id": 1}]}), "tool_calls")).contains("tool")
        );
        assert_eq!(nothing(chat(json!({"content": "  "}), "stop")), "an empty reply");
        for body in ["<html>", "{\"choices\": [", "[]", "{}", "3", "data: [DONE]", "{\"choices\": []}"] {
            assert_eq!(read(body), Answer::Unknown, "{body}");
        }
    }

    #[test]
    fn errors_inside_and_what_they_stand_for() {
        let error = |body: Value| match read(&body.to_string()) {
            Answer::Error(failure) => failure,
            other => panic!("{other:?}"),
        };
        let limited =
            error(json!({"error": {"code": 429, "message": "Rate limit exceeded: free-models-per-day"}}));
        assert_eq!(
            (limited.status, limited.message.as_str()),
            (Some(429), "Rate limit exceeded: free-models-per-day")
        );
        assert!(!limited.is_final());
        let quota =
            json!({"error": {"message": "You exceeded your current quota", "code": "insufficient_quota"}});
        assert!(error(quota).is_final());
        assert_eq!(
            error(json!({"error": {"type": "overloaded_error", "message": "Overloaded"}})).status,
            Some(503)
        );
        assert_eq!(error(json!({"error": "model not found"})).message, "model not found");
        assert_eq!(error(json!({"object": "error", "message": "too long", "code": 400})).status, Some(400));
        assert_eq!(
            error(json!({"choices": [{"error": {"code": 502, "message": "bad gateway"}}]})).status,
            Some(502)
        );
        assert_eq!(error(json!({"detail": "Not Found"})).message, "Not Found");
        let stream = "data: {\"error\": {\"code\": 503, \"message\": \"no slot\"}}";
        assert!(matches!(read(stream), Answer::Error(Failure { status: Some(503), .. })));
    }
}
