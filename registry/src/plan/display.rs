//! A plan as people read it.
//!
//! ```text
//! + entity "plane"
//!     + join_keys.tailnum: string
//! ~ feature_view "weather"
//!     + fields.rain: f64
//!     ~ lookback: 2d -> 1d (joins no longer see rows that far back)
//!   ! - fields.temp: f64 (whoever asks for it fails; used by feature_service "delays")
//!
//! 1 to create, 1 to update, 0 to delete, 3 unchanged; 1 breaking
//! ```

use std::fmt;

use serde_json::Value as Json;

use super::{Action, DefinitionChange, FieldAction, FieldChange, Plan, Severity};

/// How much of a value is shown, in characters.
const SHOWN_CHARS: usize = 100;

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for change in self.changes.iter().filter(|change| change.action != Action::Unchanged) {
            writeln!(f, "{change}")?;
        }
        if !self.is_empty() {
            writeln!(f)?;
        }
        let [create, update, delete, unchanged] =
            [Action::Create, Action::Update, Action::Delete, Action::Unchanged].map(|action| self.count(action));
        write!(f, "{create} to create, {update} to update, {delete} to delete, {unchanged} unchanged")?;
        match self.breaking().len() {
            0 => Ok(()),
            breaking => write!(f, "; {breaking} breaking"),
        }
    }
}

impl fmt::Display for DefinitionChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = match self.action {
            Action::Create => '+',
            Action::Update => '~',
            Action::Delete => '-',
            Action::Unchanged => '=',
        };
        if self.severity == Severity::Breaking && !self.reason.is_empty() {
            f.write_str("! ")?;
        }
        write!(f, "{sign} {} {:?}{}", self.kind, self.name, bracketed(&self.reason))?;
        self.fields.iter().try_for_each(|field| write!(f, "\n{field}"))
    }
}

impl fmt::Display for FieldChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mark = if self.severity == Severity::Breaking { '!' } else { ' ' };
        let sign = match self.change {
            FieldAction::Added => '+',
            FieldAction::Dropped => '-',
            _ => '~',
        };
        write!(f, "  {mark} {sign} {}", what(self))
    }
}

impl DefinitionChange {
    /// What breaks in it, one line for each.
    pub(super) fn breaking(&self) -> Vec<String> {
        let subject = format!("{} {:?}", self.kind, self.name);
        let whole = (self.severity == Severity::Breaking && !self.reason.is_empty()).then(|| match self.action {
            Action::Delete => format!("{subject} is deleted{}", bracketed(&self.reason)),
            _ => format!("{subject}{}", bracketed(&self.reason)),
        });
        let fields = self.fields.iter().filter(|field| field.severity == Severity::Breaking);
        let word = |field: &FieldChange| match field.change {
            FieldAction::Added => "adds ",
            FieldAction::Dropped => "drops ",
            FieldAction::Narrowed => "narrows ",
            FieldAction::Changed | FieldAction::Widened | FieldAction::Retyped | FieldAction::Reordered => "changes ",
        };
        whole.into_iter().chain(fields.map(|field| format!("{subject} {}{}", word(field), what(field)))).collect()
    }
}

fn what(field: &FieldChange) -> String {
    let value = match (&field.from, &field.to) {
        (Some(from), Some(to)) => format!("{} -> {}", shown(from), shown(to)),
        (Some(value), None) | (None, Some(value)) => shown(value),
        (None, None) => String::new(),
    };
    format!("{}: {value}{}", field.path, bracketed(&field.reason))
}

fn bracketed(reason: &str) -> String {
    if reason.is_empty() { String::new() } else { format!(" ({reason})") }
}

fn shown(value: &Json) -> String {
    let text = match value {
        Json::String(text) if !text.is_empty() && !text.contains(char::is_control) => text.clone(),
        Json::Array(items) if items.iter().all(Json::is_string) => {
            format!("[{}]", items.iter().filter_map(Json::as_str).collect::<Vec<_>>().join(", "))
        }
        value => value.to_string(),
    };
    match text.char_indices().nth(SHOWN_CHARS) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text,
    }
}
