//! Paths that lead into lists: `lines[0].sku` is the member `sku` of the first element of `lines`.

use starmere_lake::json::{self, Kind, Paths, Span};

/// From a list to one of its elements, and on from there.
#[derive(Debug)]
pub(super) struct Hop {
    element: usize,
    /// None: the element itself.
    paths: Option<Paths>,
}

/// The path up to its first list, and what follows: which element, and the path from there.
fn parts(path: &str) -> (&str, Vec<(usize, &str)>) {
    let mut hops = Vec::new();
    let mut pieces = path.split('[');
    let base = pieces.next().unwrap_or_default();
    for piece in pieces {
        let Some((element, rest)) = piece.split_once(']') else { return (path, Vec::new()) };
        let is_place = element.bytes().all(|byte| byte.is_ascii_digit());
        let (true, Ok(element)) = (is_place, element.parse()) else { return (path, Vec::new()) };
        match rest.strip_prefix('.') {
            Some(rest) if !rest.is_empty() => hops.push((element, rest)),
            None if rest.is_empty() => hops.push((element, rest)),
            _ => return (path, Vec::new()),
        }
    }
    (base, hops)
}

/// The path up to its first list: what can be found in one pass over a document.
pub(crate) fn base(path: &str) -> &str {
    parts(path).0
}

/// What follows the base of a path.
pub(super) fn hops(path: &str) -> Vec<Hop> {
    let hops = parts(path).1.into_iter();
    hops.map(|(element, rest)| Hop { element, paths: (!rest.is_empty()).then(|| Paths::new(&[rest])) }).collect()
}

/// Where the value is that `hops` lead to from `span` of `text`, and the text that its span is of.
pub(super) fn follow<'a>(hops: &[Hop], span: Span, text: &'a [u8]) -> Result<(Span, &'a [u8]), String> {
    let (mut span, mut text) = (span, text);
    for hop in hops {
        match span.kind {
            Kind::Missing | Kind::Null => return Ok((Span::MISSING, text)),
            Kind::Array => {}
            _ => return Err(format!("element {} of what is no list", hop.element)),
        }
        let list = span.raw(text);
        let Some(element) = json::elements(list).nth(hop.element) else { return Ok((Span::MISSING, text)) };
        (span, text) = (element, list);
        if let Some(paths) = &hop.paths {
            let mut found = [Span::MISSING];
            // What is no object has no members; a string without its quotes is no document at all.
            if element.kind == Kind::Object {
                text = element.raw(list);
                json::scan(paths, text, &mut found).map_err(|error| error.to_string())?;
            }
            span = found[0];
        }
    }
    Ok((span, text))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(path: &str, document: &str) -> Result<Option<String>, String> {
        let mut found = [Span::MISSING];
        json::scan(&Paths::new(&[base(path)]), document.as_bytes(), &mut found).unwrap();
        let (span, text) = follow(&hops(path), found[0], document.as_bytes())?;
        Ok((span.kind != Kind::Missing).then(|| span.str(text).into_owned()))
    }

    #[test]
    fn elements_are_found_by_their_places() {
        let document = r#"{"a":{"b":[{"c":"x"},{"c":[1,["y\n",{"d":true}]]}]},"s":["p","q"],"n":null,"o":{}}"#;
        for (path, expected) in [
            ("a.b[0].c", Some("x")),
            ("a.b[1].c[0]", Some("1")),
            ("a.b[1].c[1][0]", Some("y\n")),
            ("a.b[1].c[1][1].d", Some("true")),
            ("s[1]", Some("q")),
            ("s[2]", None),
            ("s[0].x", None),
            ("n[0]", None),
            ("nothing[3].x", None),
            ("a.b[7].c", None),
        ] {
            assert_eq!(at(path, document), Ok(expected.map(str::to_owned)), "{path}");
        }
        for path in ["o[0]", "s[0][0]"] {
            assert_eq!(at(path, document), Err("element 0 of what is no list".to_owned()), "{path}");
        }
    }

    #[test]
    fn brackets_that_are_no_places_are_names() {
        for path in ["a[x]", "a[", "a[+1]", "a[]", "a[0]b", "a[0].", "a]0["] {
            assert_eq!(base(path), path);
            assert!(hops(path).is_empty(), "{path}");
        }
    }
}
