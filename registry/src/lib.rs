//! Feature definitions: YAML, rules of evolution, plan and apply.
