//! What a plain scalar means: YAML 1.2's core schema (chapter 10.3), and JSON's spelling of the floats that JSON lacks.

use serde_json::{Number, Value as Json};

/// Whether a plain scalar is null.
pub(super) fn is_null(text: &str) -> bool {
    matches!(text, "" | "~" | "null" | "Null" | "NULL")
}

/// The value of a plain scalar.
pub(super) fn resolve(text: &str) -> Json {
    match text {
        _ if is_null(text) => Json::Null,
        "true" | "True" | "TRUE" => Json::Bool(true),
        "false" | "False" | "FALSE" => Json::Bool(false),
        ".nan" | ".NaN" | ".NAN" => Json::String("NaN".to_owned()),
        ".inf" | ".Inf" | ".INF" | "+.inf" | "+.Inf" | "+.INF" => Json::String("Infinity".to_owned()),
        "-.inf" | "-.Inf" | "-.INF" => Json::String("-Infinity".to_owned()),
        _ => number(text).map_or_else(|| Json::String(text.to_owned()), Json::Number),
    }
}

fn number(text: &str) -> Option<Number> {
    if let Some(digits) = text.strip_prefix("0x") {
        return radix(digits, 16);
    }
    if let Some(digits) = text.strip_prefix("0o") {
        return radix(digits, 8);
    }
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent.strip_prefix(['-', '+']).unwrap_or(exponent))),
        None => (unsigned, None),
    };
    let (whole, fraction) = mantissa.split_once('.').map_or((mantissa, None), |(whole, fraction)| (whole, Some(fraction)));
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let some = |text: &str| !text.is_empty() && digits(text);
    let mantissa_is_number = if whole.is_empty() { fraction.is_some_and(some) } else { digits(whole) && fraction.is_none_or(digits) };
    if !mantissa_is_number || !exponent.is_none_or(some) {
        return None;
    }
    if fraction.is_none() && exponent.is_none() {
        if let Ok(i) = text.parse::<i64>() {
            return Some(i.into());
        }
        if let Ok(u) = text.parse::<u64>() {
            return Some(u.into());
        }
    }
    // What no float can hold stays a text, and is refused with the type that was wanted.
    text.parse().ok().and_then(Number::from_f64)
}

fn radix(digits: &str, radix: u32) -> Option<Number> {
    if digits.starts_with('+') {
        return None;
    }
    u64::from_str_radix(digits, radix).ok().map(Number::from)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn plain_scalars_follow_the_core_schema() {
        for (text, value) in [
            ("null", json!(null)),
            ("~", json!(null)),
            ("True", json!(true)),
            ("-12", json!(-12)),
            ("+12", json!(12)),
            ("0x1F", json!(31)),
            ("0o17", json!(15)),
            ("18446744073709551615", json!(u64::MAX)),
            ("1.", json!(1.0)),
            (".5", json!(0.5)),
            ("-1.5e-3", json!(-0.0015)),
            ("2e1", json!(20.0)),
            (".nan", json!("NaN")),
            ("-.inf", json!("-Infinity")),
        ] {
            assert_eq!(resolve(text), value, "{text}");
        }
        for text in
            ["yes", "no", "on", "nan", "inf", ".", "-", "+", "1e", "e1", "1_000", "0x", "0x+1", "1.2.3", "2024-01-01", "1d", "--1", "1e999", "١"]
        {
            assert_eq!(resolve(text), json!(text), "{text}");
        }
    }
}
