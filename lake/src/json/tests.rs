//! What the scanner promises, and a naive parser that must agree with it on random texts.

mod naive;

use super::*;
use naive::{Dice, random_document};

fn find(paths: &[&str], text: &str) -> Result<Vec<Span>, JsonError> {
    let paths = Paths::new(paths);
    let mut found = vec![Span::MISSING; paths.len()];
    scan(&paths, text.as_bytes(), &mut found).map(|()| found)
}

/// Kind and raw text of what stands at the path.
fn at<'a>(path: &str, text: &'a str) -> (Kind, &'a str) {
    let span = find(&[path], text).unwrap()[0];
    (span.kind, &text[span.start as usize..span.end as usize])
}

fn fault_of(text: &str) -> (Reason, u32) {
    let error = find(&["a"], text).unwrap_err();
    (error.reason, error.offset)
}

fn is_valid(text: &str) -> bool {
    find(&[], text).is_ok()
}

#[test]
fn every_kind_is_found_with_its_raw_text() {
    let text = r#" { "n" : null, "t":true,"f":false, "i":-12.50e+3 ,"s":"h\u00e9", "a":[1,[2]], "o":{"x":{}} } "#;
    assert_eq!(at("n", text), (Kind::Null, "null"));
    assert_eq!(at("t", text), (Kind::True, "true"));
    assert_eq!(at("f", text), (Kind::False, "false"));
    assert_eq!(at("i", text), (Kind::Number, "-12.50e+3"));
    assert_eq!(at("s", text), (Kind::String, r"h\u00e9"));
    assert_eq!(at("a", text), (Kind::Array, "[1,[2]]"));
    assert_eq!(at("o", text), (Kind::Object, r#"{"x":{}}"#));
    assert_eq!(at("o.x", text), (Kind::Object, "{}"));
    assert_eq!(at("", text), (Kind::Object, text.trim()));
    assert_eq!(at("zz", text), (Kind::Missing, ""));
}

#[test]
fn a_scalar_document_is_found_at_the_empty_path() {
    assert_eq!(at("", " 7 "), (Kind::Number, "7"));
    assert_eq!(at("", "\"x\""), (Kind::String, "x"));
    assert_eq!(at("", "\t[ ]\r\n"), (Kind::Array, "[ ]"));
    assert_eq!(at("a", "7"), (Kind::Missing, ""));
}

#[test]
fn a_path_may_begin_another_and_appear_twice() {
    let text = r#"{"a":{"b":1,"c":{"d":2}}}"#;
    let found = find(&["a.b", "a", "a.b", "a.c.d", "a.c", ""], text).unwrap();
    let raw: Vec<_> = found.iter().map(|span| std::str::from_utf8(span.raw(text.as_bytes())).unwrap()).collect();
    assert_eq!(raw, ["1", r#"{"b":1,"c":{"d":2}}"#, "1", "2", r#"{"d":2}"#, text]);
}

#[test]
fn steps_lead_through_objects_only() {
    assert_eq!(at("a.b", r#"{"a":"b"}"#), (Kind::Missing, ""));
    assert_eq!(at("a.b", r#"{"a":[{"b":1}]}"#), (Kind::Missing, ""));
    assert_eq!(at("a.0", r#"{"a":[1]}"#), (Kind::Missing, ""));
    assert_eq!(at("b", r#"[{"b":1}]"#), (Kind::Missing, ""));
    assert_eq!(at("b", r#"{"a":{"b":1}}"#), (Kind::Missing, ""));
}

#[test]
fn empty_steps_are_empty_names() {
    assert_eq!(at("a..b", r#"{"a":{"":{"b":1}}}"#), (Kind::Number, "1"));
    assert_eq!(at(".", r#"{"":{"":1}}"#), (Kind::Number, "1"));
}

#[test]
fn the_last_of_repeated_names_wins() {
    assert_eq!(at("a", r#"{"a":1,"a":2}"#), (Kind::Number, "2"));
    assert_eq!(at("a.b", r#"{"a":{"b":1},"a":{"c":2}}"#), (Kind::Missing, ""));
    assert_eq!(at("a.b", r#"{"a":{"b":1},"a":7}"#), (Kind::Missing, ""));
    assert_eq!(at("a.b.c", r#"{"a":{"b":{"c":1}},"\u0061":[]}"#), (Kind::Missing, ""));
    assert_eq!(at("a.b", r#"{"a":3,"a":{"b":1}}"#), (Kind::Number, "1"));
    let found = find(&["a", "a.b", "c"], r#"{"a":{"b":1},"c":5,"a":null}"#).unwrap();
    assert_eq!(found.map_kinds(), [Kind::Null, Kind::Missing, Kind::Number]);
}

trait MapKinds {
    fn map_kinds(&self) -> Vec<Kind>;
}

impl MapKinds for Vec<Span> {
    fn map_kinds(&self) -> Vec<Kind> {
        self.iter().map(|span| span.kind).collect()
    }
}

#[test]
fn escaped_names_match_their_plain_step() {
    assert_eq!(at("abc", r#"{"\u0061b\u0063":1}"#), (Kind::Number, "1"));
    assert_eq!(at("a/b", r#"{"a\/b":1}"#), (Kind::Number, "1"));
    assert_eq!(at("😀\n", r#"{"\ud83d\ude00\n":1}"#), (Kind::Number, "1"));
    assert_eq!(at("\\u0061", r#"{"a":1}"#), (Kind::Missing, ""));
}

#[test]
fn names_of_all_lengths_are_told_apart() {
    let names: Vec<String> = (0..40)
        .flat_map(|length| ["x", "y"].map(|middle| "a".repeat(length) + middle + &"b".repeat(length)))
        .chain((1..40).map(|length| "a".repeat(length)))
        .collect();
    let members: Vec<String> = names.iter().enumerate().map(|(value, name)| format!("{name:?}:{value}")).collect();
    let text = format!("{{{}}}", members.join(","));
    let paths = Paths::new(&names);
    let mut found = vec![Span::MISSING; paths.len()];
    scan(&paths, text.as_bytes(), &mut found).unwrap();
    for (value, span) in found.iter().enumerate() {
        assert_eq!(span.str(text.as_bytes()), value.to_string(), "{}", names[value]);
    }
    for name in names.iter().filter(|name| name.len() > 2) {
        let shorter = &name[1..];
        let expected = if names.iter().any(|other| other == shorter) { Kind::Null } else { Kind::Missing };
        scan(&paths, format!("{{{shorter:?}:null}}").as_bytes(), &mut found).unwrap();
        assert_eq!(found.iter().any(|span| span.kind == Kind::Null), expected == Kind::Null, "{shorter}");
    }
}

#[test]
fn strings_are_unescaped_on_demand() {
    let text = r#"{"a":"q\"b\\s\/\b\f\n\r\t\u00e9\uD83D\uDE00 é😀","b":"plain é"}"#;
    let found = find(&["a", "b"], text).unwrap();
    assert!(found[0].escaped && !found[1].escaped);
    assert_eq!(found[0].str(text.as_bytes()), "q\"b\\s/\u{8}\u{c}\n\r\té😀 é😀");
    assert!(matches!(found[1].str(text.as_bytes()), Cow::Borrowed("plain é")));
    assert_eq!(Span::MISSING.str(text.as_bytes()), "");
}

#[test]
fn special_bytes_are_noticed_at_every_place_of_a_string() {
    for length in 0..40 {
        for place in 0..length {
            let with = |inner: &str| format!("\"{}{inner}{}\"", "é".repeat(place), "~".repeat(length - place));
            assert!(is_valid(&with("")));
            assert!(is_valid(&with("\u{7f}\u{80} !#[]")));
            assert!(is_valid(&with(r"\n")) && is_valid(&with(r#"\""#)));
            assert!(!is_valid(&with("\"")) && !is_valid(&with("\\!")));
            for control in 0..0x20u8 {
                assert!(!is_valid(&with(&char::from(control).to_string())));
            }
        }
    }
}

#[test]
fn numbers_follow_the_grammar() {
    for good in ["0", "-0", "10", "1234567890123456789012", "0.5", "1e5", "1E-05", "-1.25e+10", "0e0"] {
        assert!(is_valid(good), "{good}");
        assert_eq!(at("a", &format!(r#"{{"a":{good}}}"#)), (Kind::Number, good));
    }
    for bad in ["-", "01", "-01", "1.", ".5", "+1", "1e", "1e+", "1.e5", "0x1", "1-", "--1", "NaN", "Infinity", "1_0"] {
        assert!(!is_valid(bad), "{bad}");
        assert!(!is_valid(&format!("[{bad}]")), "{bad}");
    }
}

#[test]
fn faults_say_where_and_why() {
    assert_eq!(fault_of(""), (Reason::ExpectedValue, 0));
    assert_eq!(fault_of(" x"), (Reason::ExpectedValue, 1));
    assert_eq!(fault_of("nul"), (Reason::ExpectedValue, 0));
    assert_eq!(fault_of("{"), (Reason::ExpectedNameOrClose, 1));
    assert_eq!(fault_of(r#"{"a" 1}"#), (Reason::ExpectedColon, 5));
    assert_eq!(fault_of(r#"{"a":1 "b":2}"#), (Reason::ExpectedCommaOrBrace, 7));
    assert_eq!(fault_of(r#"{"a":1,}"#), (Reason::ExpectedName, 7));
    assert_eq!(fault_of("[1,]"), (Reason::ExpectedValue, 3));
    assert_eq!(fault_of("[1 2]"), (Reason::ExpectedCommaOrBracket, 3));
    assert_eq!(fault_of("1.x"), (Reason::ExpectedDigit, 2));
    assert_eq!(fault_of("[-012]"), (Reason::LeadingZero, 2));
    assert_eq!(fault_of(r#"{"a":"b"#), (Reason::UnterminatedString, 7));
    assert_eq!(fault_of("\"a\\"), (Reason::UnterminatedString, 3));
    assert_eq!(fault_of("\"a\nb\""), (Reason::ControlCharacter, 2));
    assert_eq!(fault_of("\"a\0b\""), (Reason::ControlCharacter, 2));
    assert_eq!(fault_of(r#""a\x""#), (Reason::UnknownEscape, 2));
    assert_eq!(fault_of(r#""\u12g4""#), (Reason::ExpectedHex, 1));
    assert_eq!(fault_of("1 2"), (Reason::TrailingText, 2));
    assert_eq!(fault_of("1\0"), (Reason::TrailingText, 1));
    let error = find(&[], r#"{"a":1,"bcd":[1]x}"#).unwrap_err();
    assert_eq!(error.to_string(), "expected `,` or `}` at byte 16");
}

#[test]
fn lone_surrogates_are_faults() {
    for bad in [r#""\ud800""#, r#""\udc00""#, r#""\ud800\ud800""#, r#""\ud800x""#, r#""\ud800\n""#, r#""\ud83d\u00e9""#]
    {
        assert_eq!(fault_of(bad).0, Reason::LoneSurrogate, "{bad}");
    }
    assert_eq!(fault_of(r#"{"\udc00":1}"#), (Reason::LoneSurrogate, 2));
    assert!(is_valid(r#""\ud800\udc00\uDBFF\uDFFF""#));
}

#[test]
fn nesting_is_bounded() {
    let nested = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
    assert!(is_valid(&nested(128)));
    assert_eq!(fault_of(&nested(129)), (Reason::TooDeep, 128));
    assert_eq!(fault_of(&"[".repeat(1_000_000)), (Reason::TooDeep, 128));
    assert_eq!(fault_of(&r#"{"a":"#.repeat(1_000_000)), (Reason::TooDeep, 640));
    let path = vec!["a"; 127].join(".");
    let text = format!("{}7{}", r#"{"a":"#.repeat(127), "}".repeat(127));
    assert_eq!(at(&path, &text), (Kind::Number, "7"));
    assert_eq!(at(&vec!["a"; 100_000].join("."), &text), (Kind::Missing, ""));
}

#[test]
fn lengths_beyond_32_bits_are_faults() {
    assert!(scanner::check_length(u32::MAX as usize).is_ok());
    let error = scanner::check_length(u32::MAX as usize + 1).unwrap_err();
    assert_eq!(error.reason, Reason::TooLong);
}

#[test]
fn a_fault_leaves_no_findings() {
    let paths = Paths::new(&["a", "b"]);
    let mut found = vec![Span { kind: Kind::True, start: 1, end: 2, escaped: true }; 2];
    scan(&paths, br#"{"a":1"#, &mut found).unwrap_err();
    assert_eq!(found, [Span::MISSING; 2]);
}

#[test]
fn elements_are_listed() {
    let list = |text: &str| -> Vec<(Kind, String)> {
        elements(text.as_bytes()).map(|span| (span.kind, span.str(text.as_bytes()).into_owned())).collect()
    };
    assert_eq!(list("[]"), []);
    assert_eq!(list(" [1]"), [], "raw text starts at the bracket");
    let expected = [
        (Kind::Number, "1".to_owned()),
        (Kind::String, "b\n".to_owned()),
        (Kind::Array, "[2, 3]".to_owned()),
        (Kind::Object, r#"{"c":[]}"#.to_owned()),
        (Kind::Null, "null".to_owned()),
    ];
    assert_eq!(list(r#"[ 1 , "b\n",[2, 3],{"c":[]} , null ]"#), expected);
    assert_eq!(list(r#"[1,,2]"#), [(Kind::Number, "1".to_owned())]);
    assert_eq!(list("{}"), []);
}

#[test]
fn random_documents_agree_with_the_naive_parser() {
    let names = ["a", "b", "", "é", "a\"b", "longer_than_8", "longer_than_sixteen_bytes", "longer_than_sixtean_bytes"];
    let mut verdicts = [0u32; 2];
    for seed in 0..6_000 {
        let mut dice = Dice::new(seed);
        let document = random_document(&mut dice, &names);
        let wanted: Vec<String> = (0..dice.below(12))
            .map(|_| (0..dice.below(4)).map(|_| names[dice.below(names.len())]).collect::<Vec<_>>().join("."))
            .collect();
        let paths = Paths::new(&wanted);
        for round in 0..12 {
            let mut text = document.clone();
            (0..dice.below(3)).for_each(|_| dice.damage(&mut text));
            let mut found = vec![Span::MISSING; paths.len()];
            let verdict = scan(&paths, &text, &mut found);
            let tree = naive::parse(&text);
            let context = || format!("seed {seed} round {round}: {:?}", String::from_utf8_lossy(&text));
            assert_eq!(verdict.is_ok(), tree.is_some(), "{} {verdict:?}", context());
            verdicts[usize::from(tree.is_some())] += 1;
            for (path, span) in wanted.iter().zip(&found) {
                let expected = tree.as_ref().and_then(|tree| tree.at(path));
                let kind = expected.map_or(Kind::Missing, |node| node.kind);
                let place = expected.map_or(0..0, |node| node.place.clone());
                assert_eq!(span.kind, kind, "{path:?} {}", context());
                assert_eq!(span.start as usize..span.end as usize, place, "{path:?} {}", context());
                if let Some(node) = expected.filter(|node| node.kind == Kind::String) {
                    assert_eq!(span.str(&text), String::from_utf8_lossy(&node.characters), "{path:?} {}", context());
                }
                if let Some(node) = expected.filter(|node| node.kind == Kind::Array) {
                    let starts = node.elements.iter().map(|element| (element.kind, element.place.clone()));
                    let listed = elements(span.raw(&text)).map(|element| {
                        let base = span.start;
                        (element.kind, (base + element.start) as usize..(base + element.end) as usize)
                    });
                    assert!(starts.eq(listed), "{path:?} {}", context());
                }
            }
            elements(&text).for_each(drop);
        }
    }
    assert!(verdicts[0] > 10_000 && verdicts[1] > 10_000, "both verdicts are tested: {verdicts:?}");
}

/// Run with `--ignored --nocapture` in an optimised build.
#[test]
#[ignore = "a measurement"]
#[expect(clippy::print_stderr, reason = "a measurement is for reading")]
fn throughput() {
    let compact = naive::sample_document();
    let wide = format!(r#"{{"text":"{}"}}"#, "Lorem ipsum dolor sit amet ".repeat(36));
    let envelope = ["id", "type", "time", "source", "data.customer.id"];
    let all = naive::every_path(&compact);
    let all: Vec<&str> = all.iter().map(String::as_str).collect();
    let cases: [(&str, &str, &[&str]); 4] = [
        ("nested, no paths", &compact, &[]),
        ("nested, envelope", &compact, &envelope),
        ("nested, all fields", &compact, &all),
        ("one long string", &wide, &["text"]),
    ];
    for (name, text, wanted) in cases {
        let one_pass = [Paths::new(wanted)];
        let one_call_each: Vec<Paths> = wanted.iter().map(|path| Paths::new(&[*path])).collect();
        let took = seconds(&one_pass, text);
        let rate = text.len() as f64 / took / 1e6;
        let count = wanted.len();
        eprint!("{name}: {} bytes, {count} paths in one pass: {:.0} ns, {rate:.0} MB/s", text.len(), took * 1e9);
        match one_call_each.len() {
            0 | 1 => eprintln!(),
            _ => eprintln!("; a call for each path takes {:.1} times that", seconds(&one_call_each, text) / took),
        }
    }
}

/// What it takes to find the paths of each of these, one after another; the best of twenty runs.
fn seconds(all: &[Paths], text: &str) -> f64 {
    let mut found: Vec<Vec<Span>> = all.iter().map(|paths| vec![Span::MISSING; paths.len()]).collect();
    let mut best = f64::MAX;
    for _ in 0..20 {
        let start = std::time::Instant::now();
        for _ in 0..2_000 {
            for (paths, found) in all.iter().zip(&mut found) {
                scan(paths, std::hint::black_box(text.as_bytes()), found).unwrap();
                std::hint::black_box(found);
            }
        }
        best = best.min(start.elapsed().as_secs_f64() / 2_000.0);
    }
    best
}
