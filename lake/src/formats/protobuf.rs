//! Messages of Protocol Buffers, written as their JSON form with the names of the `.proto` file.

use std::collections::HashMap;

use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor, SerializeOptions};
use protox::file::{ChainFileResolver, File, FileResolver, GoogleFileResolver};

/// The name that the file has among its references.
const MAIN: &str = "starmere_main.proto";

/// A `.proto` file, ready to read messages of its types.
#[derive(Debug)]
pub(super) struct Decoder {
    pool: DescriptorPool,
}

struct Known(HashMap<String, String>);

impl FileResolver for Known {
    fn open_file(&self, name: &str) -> Result<File, protox::Error> {
        let source = self.0.get(name).ok_or_else(|| protox::Error::file_not_found(name))?;
        File::from_source(name, source)
    }
}

/// `references`: what the file imports, by name.
pub(super) fn parse(schema: &str, references: &[(String, String)]) -> Result<Decoder, String> {
    let failed = |error: protox::Error| format!("not a schema of Protocol Buffers: {error}");
    let mut known: HashMap<String, String> = references.iter().cloned().collect();
    known.insert(MAIN.to_owned(), schema.to_owned());
    let mut resolver = ChainFileResolver::new();
    resolver.add(Known(known));
    resolver.add(GoogleFileResolver::new());
    let mut compiler = protox::Compiler::with_file_resolver(resolver);
    compiler.include_imports(true).open_file(MAIN).map_err(failed)?;
    Ok(Decoder { pool: compiler.descriptor_pool() })
}

impl Decoder {
    /// Writes the message as JSON. `input` begins with the indexes that say which type of the file it has.
    pub(super) fn write(&self, input: &[u8], out: &mut Vec<u8>) -> Result<(), String> {
        let (message, rest) = self.message(input)?;
        let message =
            DynamicMessage::decode(message, rest).map_err(|error| format!("not a message of its schema: {error}"))?;
        // What is not written is zero, or nothing, where the schema has no other way to say so.
        let options = SerializeOptions::new()
            .use_proto_field_name(true)
            .stringify_64_bit_integers(false)
            .skip_default_fields(false);
        let mut writer = serde_json::Serializer::new(out);
        message
            .serialize_with_options(&mut writer, &options)
            .map_err(|error| format!("cannot be written as JSON: {error}"))
    }

    /// The type that the indexes name: of the file's messages the first, of that one's messages the second, ...
    fn message<'a>(&self, input: &'a [u8]) -> Result<(MessageDescriptor, &'a [u8]), String> {
        let wrong = || "it does not say which message of its schema it is".to_owned();
        let mut rest = input;
        let count = zigzag(&mut rest).ok_or_else(wrong)?;
        let file = self.pool.get_file_by_name(MAIN).ok_or_else(wrong)?;
        if count == 0 {
            return Ok((file.messages().next().ok_or_else(wrong)?, rest));
        }
        let mut found: Option<MessageDescriptor> = None;
        for _ in 0..count {
            let index = zigzag(&mut rest).ok_or_else(wrong)?;
            let next = match &found {
                None => file.messages().nth(index),
                Some(outer) => outer.child_messages().nth(index),
            };
            found = Some(next.ok_or_else(wrong)?);
        }
        Ok((found.ok_or_else(wrong)?, rest))
    }
}

/// A small number, variable-length and zigzag.
fn zigzag(rest: &mut &[u8]) -> Option<usize> {
    let mut value = 0_u64;
    for shift in (0..35).step_by(7) {
        let (&byte, after) = rest.split_first()?;
        *rest = after;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return (value & 1 == 0).then_some((value >> 1) as usize);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROTO: &str = r#"syntax = "proto3";
        import "money.proto";
        import "google/protobuf/timestamp.proto";
        message Order { string id = 1; int64 quantity = 2; Money total = 3; google.protobuf.Timestamp at = 4; message Line { bool gift = 1; } }
        message Refund { string order_id = 1; }"#;
    const MONEY: &str = "syntax = \"proto3\"; message Money { int64 cents = 1; }";

    fn json(input: &[u8]) -> Result<String, String> {
        let decoder = parse(PROTO, &[("money.proto".to_owned(), MONEY.to_owned())]).unwrap();
        let mut out = Vec::new();
        decoder.write(input, &mut out)?;
        Ok(String::from_utf8(out).unwrap())
    }

    #[test]
    fn a_message_is_found_by_its_indexes() {
        let order = [0, 0x0a, 1, b'x', 0x10, 7, 0x1a, 2, 0x08, 5, 0x22, 2, 0x08, 1];
        let expected = r#"{"id":"x","quantity":7,"total":{"cents":5},"at":"1970-01-01T00:00:01Z"}"#;
        assert_eq!(json(&order).unwrap(), expected);
        assert_eq!(json(&[2, 2, 0x0a, 1, b'y']).unwrap(), r#"{"order_id":"y"}"#);
        assert_eq!(json(&[4, 0, 0, 0x08, 1]).unwrap(), r#"{"gift":true}"#);
    }

    #[test]
    fn zeros_are_there_and_what_may_be_absent_is_not() {
        let proto = r#"syntax = "proto3"; message M { int64 n = 1; optional int64 maybe = 2; E state = 3; repeated bool flags = 4; M inner = 5;
            oneof either { string a = 6; int32 b = 7; } } enum E { NEW = 0; OLD = 1; }"#;
        let mut out = Vec::new();
        parse(proto, &[]).unwrap().write(&[0], &mut out).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), r#"{"n":0,"state":"NEW","flags":[]}"#);
    }

    #[test]
    fn what_is_no_message_is_told() {
        assert!(json(&[]).unwrap_err().contains("which message"));
        assert!(json(&[2, 20]).unwrap_err().contains("which message"));
        assert!(json(&[0, 0x0a, 9]).unwrap_err().contains("not a message of its schema"));
        assert!(parse("message {", &[]).unwrap_err().contains("not a schema of Protocol Buffers"));
    }
}
