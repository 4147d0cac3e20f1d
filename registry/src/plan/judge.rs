//! How much a change matters: the rules of evolution.

use std::cmp::Ordering;

use anabranch_core::definition::{Definition, DefinitionKind, Definitions, JoinKey};
use anabranch_core::{DataType, Scalar, Span, Value};
use serde_json::Value as Json;

use super::{FieldAction, Severity};
use crate::rules;

/// How much a change matters, and why.
#[derive(Debug)]
pub(super) struct Verdict {
    pub(super) severity: Severity,
    pub(super) reason: String,
}

impl Verdict {
    pub(super) fn safe() -> Self {
        Self { severity: Severity::Safe, reason: String::new() }
    }

    fn noted(reason: impl Into<String>) -> Self {
        Self { severity: Severity::Noted, reason: reason.into() }
    }

    fn breaking(reason: impl Into<String>) -> Self {
        Self { severity: Severity::Breaking, reason: reason.into() }
    }
}

/// Judges the change of one definition, knowing what was and will be around it.
#[derive(Debug)]
pub(super) struct Judge<'a> {
    pub(super) current: &'a Definitions,
    pub(super) after: &'a Definitions,
    pub(super) kind: DefinitionKind,
    pub(super) name: &'a str,
}

impl Judge<'_> {
    /// A definition that is new.
    pub(super) fn creation(&self) -> Verdict {
        match self.kind {
            DefinitionKind::Check => Verdict::noted("rows that break it go to quarantine from now on"),
            _ => Verdict::safe(),
        }
    }

    /// A definition that goes, after nothing refers to it any more.
    pub(super) fn deletion(&self) -> Verdict {
        match self.kind {
            DefinitionKind::Entity | DefinitionKind::Source => Verdict::safe(),
            DefinitionKind::Check => Verdict::noted("rows that break it are let in from now on"),
            DefinitionKind::FeatureView => {
                let users = self.users(|user| takes_view(user, self.name));
                Verdict::breaking(format!("its features are no longer served or joined{}", listed("; used by ", &users)))
            }
            DefinitionKind::FeatureService => Verdict::breaking("models that ask for it by name fail"),
        }
    }

    /// A field that differs; one of `from` and `to` is there.
    pub(super) fn field(&self, path: &str, from: Option<&Json>, to: Option<&Json>) -> (FieldAction, Verdict) {
        let action = match (from, to) {
            (None, _) => FieldAction::Added,
            (_, None) => FieldAction::Dropped,
            _ => FieldAction::Changed,
        };
        if matches!(path, "description" | "owner") || path.starts_with("tags.") {
            return (action, Verdict::safe());
        }
        match self.kind {
            DefinitionKind::Entity => self.join_key(path, action, from, to),
            DefinitionKind::Source => (action, Verdict::noted("rows come in another way from now on")),
            DefinitionKind::FeatureView => self.view_field(path, action, from, to),
            DefinitionKind::Check => (action, self.check_field(path, from, to)),
            DefinitionKind::FeatureService => (action, service_field(path, action)),
        }
    }

    fn join_key(&self, path: &str, action: FieldAction, from: Option<&Json>, to: Option<&Json>) -> (FieldAction, Verdict) {
        let key = path.trim_start_matches("join_keys.");
        let views = self.users(|user| matches!(user, Definition::FeatureView(view) if view.entities.iter().any(|entity| entity == self.name)));
        let whose = listed("; views that have it: ", &views);
        match action {
            FieldAction::Added => {
                (action, Verdict::breaking(format!("rows stored and lookups made without {key:?} no longer name one entity{whose}")))
            }
            FieldAction::Dropped => (action, Verdict::breaking(format!("rows of unlike {key:?} become rows of one entity{whose}"))),
            _ => match type_change(from, to) {
                // Integer keys of every width are one key space.
                FieldAction::Widened => (FieldAction::Widened, Verdict::safe()),
                other => (other, Verdict::breaking(format!("keys stored under the old type are not found under the new one{whose}"))),
            },
        }
    }

    fn view_field(&self, path: &str, action: FieldAction, from: Option<&Json>, to: Option<&Json>) -> (FieldAction, Verdict) {
        let verdict = match path {
            "entities" => self.entities(),
            "event_timestamp" | "known_timestamp" => Verdict::breaking("rows already stored have no such time"),
            "lookback" => shrunk(from, to, "joins no longer see rows that far back"),
            "online_ttl" => shrunk(from, to, "values expire online sooner"),
            "retention" => shrunk(from, to, "older history is kept no longer"),
            "max_future" => match span(from) > span(to) {
                true => Verdict::noted("rows whose event time lies further ahead go to quarantine from now on"),
                false => Verdict::noted("rows whose event time lies further ahead are let in from now on"),
            },
            "source" => Verdict::noted("rows come from another source from now on"),
            "partition" => Verdict::noted("files written from now on are laid out anew; those that are there stay"),
            _ => return self.feature(path.trim_start_matches("fields."), action, from, to),
        };
        (action, verdict)
    }

    fn feature(&self, feature: &str, action: FieldAction, from: Option<&Json>, to: Option<&Json>) -> (FieldAction, Verdict) {
        if feature.ends_with(".description") {
            return (action, Verdict::safe());
        }
        let users = self.users(|user| takes_feature(user, self.name, feature));
        match action {
            FieldAction::Added => (action, Verdict::safe()),
            FieldAction::Dropped => (action, Verdict::breaking(format!("whoever asks for it fails{}", listed("; used by ", &users)))),
            _ => match type_change(from, to) {
                FieldAction::Widened => (FieldAction::Widened, Verdict::safe()),
                FieldAction::Narrowed => {
                    (FieldAction::Narrowed, Verdict::breaking(format!("stored values may not fit the new type{}", listed("; used by ", &users))))
                }
                other => (other, Verdict::breaking(format!("stored values are of another type{}", listed("; used by ", &users)))),
            },
        }
    }

    /// Other entities are no break where their join keys are the same.
    fn entities(&self) -> Verdict {
        let keys = |definitions: &Definitions| definitions.layout(self.name).map(|layout| layout.keys().to_vec()).unwrap_or_default();
        let (before, after): (Vec<JoinKey>, Vec<JoinKey>) = (keys(self.current), keys(self.after));
        if before == after {
            return Verdict::noted("the join keys stay the same");
        }
        let names = |keys: &[JoinKey]| keys.iter().map(|key| key.name.as_str()).collect::<Vec<_>>().join(", ");
        Verdict::breaking(format!("its rows are keyed by ({}), not by ({})", names(&before), names(&after)))
    }

    fn check_field(&self, path: &str, from: Option<&Json>, to: Option<&Json>) -> Verdict {
        const TIGHTER: &str = "tightened: rows that passed may go to quarantine from now on";
        const LOOSER: &str = "relaxed: rows that went to quarantine may pass from now on";
        let other = Verdict::noted("rows are judged differently from now on");
        let bound = |json: Option<&Json>| json.and_then(|json| self.column_value(json));
        match path {
            "rule.range.min" | "rule.range.max" => {
                let order = match (from, to) {
                    (None, _) => Some(Ordering::Less),
                    (_, None) => Some(Ordering::Greater),
                    _ => bound(from).zip(bound(to)).and_then(|(from, to)| rules::order(&from, &to)),
                };
                // A new bound tightens; else a greater minimum does, or a smaller maximum.
                let tighter = match (path.ends_with("min") || from.is_none() || to.is_none(), order) {
                    (_, None) => return other,
                    (true, Some(order)) => order == Ordering::Less,
                    (false, Some(order)) => order == Ordering::Greater,
                };
                Verdict::noted(if tighter { TIGHTER } else { LOOSER })
            }
            "rule.one_of.values" => match (from.and_then(Json::as_array), to.and_then(Json::as_array)) {
                (Some(from), Some(to)) if from.iter().all(|value| to.contains(value)) => Verdict::noted(LOOSER),
                (Some(from), Some(to)) if to.iter().all(|value| from.contains(value)) => Verdict::noted(TIGHTER),
                _ => other,
            },
            _ => other,
        }
    }

    /// A bound of the check as a value of its column.
    fn column_value(&self, json: &Json) -> Option<Value> {
        let Some(Definition::Check(check)) = self.after.get(DefinitionKind::Check, self.name) else { return None };
        let layout = self.after.layout(&check.view).ok()?;
        let column = layout.columns().iter().find(|column| column.name == check.column)?;
        Value::from_json(column.data_type, json).ok()
    }

    /// The definitions that are there now and pass, as `kind "name"`.
    fn users(&self, passes: impl Fn(&Definition) -> bool) -> Vec<String> {
        let users = self.current.iter().filter(|user| passes(user));
        users.map(|user| format!("{} {:?}", user.kind(), user.name())).collect()
    }
}

fn service_field(path: &str, action: FieldAction) -> Verdict {
    if path == "logging.sample_rate" {
        return Verdict::noted(match action {
            FieldAction::Added => "lookups are logged from now on",
            FieldAction::Dropped => "lookups are logged no longer; what was logged stays",
            _ => "another part of lookups is logged from now on",
        });
    }
    let part = path.split('.').nth(2).unwrap_or_default();
    match (part, action) {
        ("features" | "view", FieldAction::Added) => Verdict::safe(),
        ("all", FieldAction::Added) => Verdict::noted("features that the view gains later are taken too"),
        ("all", _) => Verdict::noted("features that the view gains later are not taken"),
        ("key_map", _) => Verdict::breaking("callers must give the key in another column"),
        ("view", FieldAction::Dropped) => Verdict::breaking("models that ask for the service miss the view's columns"),
        ("features", FieldAction::Dropped) => Verdict::breaking("models that ask for the service miss a column"),
        _ => Verdict::breaking("the same columns hold values of another view"),
    }
}

fn takes_view(user: &Definition, view: &str) -> bool {
    match user {
        Definition::FeatureService(service) => service.features.iter().any(|projection| projection.view == view),
        Definition::Check(check) => check.view == view,
        Definition::Entity(_) | Definition::Source(_) | Definition::FeatureView(_) => false,
    }
}

fn takes_feature(user: &Definition, view: &str, feature: &str) -> bool {
    match user {
        Definition::FeatureService(service) => {
            let takes = |features: &Option<Vec<String>>| features.as_ref().is_none_or(|features| features.iter().any(|taken| taken == feature));
            service.features.iter().any(|projection| projection.view == view && takes(&projection.features))
        }
        Definition::Check(check) => check.view == view && check.column == feature,
        Definition::Entity(_) | Definition::Source(_) | Definition::FeatureView(_) => false,
    }
}

fn type_change(from: Option<&Json>, to: Option<&Json>) -> FieldAction {
    let parse =
        |json: Option<&Json>| json.and_then(Json::as_str).and_then(|text| text.parse::<DataType>().ok()).unwrap_or(DataType::Scalar(Scalar::Bytes));
    let (from, to) = (parse(from), parse(to));
    if from.widens_to(to) {
        FieldAction::Widened
    } else if to.widens_to(from) {
        FieldAction::Narrowed
    } else {
        FieldAction::Retyped
    }
}

/// Noted where a span, without end if there is none, becomes shorter.
fn shrunk(from: Option<&Json>, to: Option<&Json>, reason: &str) -> Verdict {
    if span(to) < span(from) { Verdict::noted(reason) } else { Verdict::safe() }
}

fn span(json: Option<&Json>) -> Span {
    json.and_then(Json::as_str).and_then(|text| text.parse().ok()).unwrap_or(Span(i64::MAX))
}

fn listed(lead: &str, names: &[String]) -> String {
    if names.is_empty() { String::new() } else { format!("{lead}{}", names.join(", ")) }
}
