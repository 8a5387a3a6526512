//! Values that the files of a project name and do not hold: `${env:NAME}` and `${file:PATH}`.

use std::path::Path;

use anyhow::Context;

use crate::failure::Mendable;

/// Where a value is to be had.
pub(super) enum Reference<'a> {
    Variable(&'a str),
    File(&'a str),
}

pub(super) fn reference(text: &str) -> Option<Reference<'_>> {
    match text.strip_prefix("${")?.strip_suffix('}')?.split_once(':')? {
        (_, "") => None,
        ("env", name) => Some(Reference::Variable(name)),
        ("file", path) => Some(Reference::File(path)),
        _ => None,
    }
}

/// The text, each of its references replaced by its value.
fn with_references(text: &str, value: impl Fn(&str) -> anyhow::Result<String>) -> anyhow::Result<String> {
    let (mut result, mut rest) = (String::new(), text);
    while let Some(start) = rest.find("${") {
        // One that does not end is told by `value`.
        let end = rest[start..].find('}').map_or(rest.len(), |end| start + end + 1);
        result += &rest[..start];
        result += &value(&rest[start..end])?;
        rest = &rest[end..];
    }
    Ok(result + rest)
}

/// Whether the text is a reference, and nothing else.
pub(crate) fn is_reference(text: &str) -> bool {
    reference(text).is_some()
}

/// Whether all references in the text are whole.
pub(crate) fn is_whole(text: &str) -> bool {
    let whole = |text: &str| reference(text).map(|_| String::new()).context("not a reference");
    with_references(text, whole).is_ok()
}

/// The text, each of its references looked up; `root` is the project's folder.
pub(crate) fn resolved(root: &Path, text: &str) -> anyhow::Result<String> {
    with_references(text, |reference| secret(root, reference))
}

/// The value behind `${env:NAME}` or `${file:PATH}`.
pub(super) fn secret(root: &Path, text: &str) -> anyhow::Result<String> {
    match reference(text) {
        Some(Reference::Variable(name)) => std::env::var(name).map_err(|_| {
            Mendable::error(format!("the variable `{name}` is not set"), "set it, or change the reference")
        }),
        Some(Reference::File(path)) => {
            let text = std::fs::read_to_string(root.join(path)).with_context(|| format!("could not read `{path}`"))?;
            Ok(text.trim_end().to_owned())
        }
        None => Err(Mendable::error(format!("`{text}` is not a reference"), "write ${env:NAME} or ${file:PATH}")),
    }
}
