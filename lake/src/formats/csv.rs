//! Records of CSV, written as JSON objects of text: the names are the header's, an empty field is null.

use csv_core::{ReadRecordResult, Reader, ReaderBuilder};

use super::json::{name, string};

/// The header that says what a record's fields are; rows carry it beside their record.
pub const HEADER: &str = "csv-header";

/// The header as rows carry it: without the mark of UTF-8 before it, and the carriage return behind.
pub fn header(record: &[u8]) -> &[u8] {
    let record = record.strip_prefix(b"\xef\xbb\xbf").unwrap_or(record);
    record.strip_suffix(b"\r").unwrap_or(record)
}

/// The names in a header.
pub fn names(delimiter: u8, record: &[u8]) -> Result<Vec<String>, String> {
    let mut parser = Parser::default();
    let fields = parser.parse(delimiter, header(record))?;
    (0..fields).map(|field| parser.field(field).map(str::to_owned)).collect()
}

/// Reads records.
pub(super) struct Records {
    delimiter: u8,
    parser: Parser,
    /// The header that was seen last, and what came of it.
    header: Vec<u8>,
    names: Vec<Vec<u8>>,
}

impl std::fmt::Debug for Records {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Records").field("delimiter", &char::from(self.delimiter)).finish_non_exhaustive()
    }
}

impl Records {
    pub(super) fn new(delimiter: u8) -> Self {
        Self { delimiter, parser: Parser::default(), header: Vec::new(), names: Vec::new() }
    }

    pub(super) fn write(&mut self, header: &[u8], record: &[u8], out: &mut Vec<u8>) -> Result<(), String> {
        if self.header != header || self.names.is_empty() {
            let fields = self.parser.parse(self.delimiter, header)?;
            self.names = (0..fields).map(|field| self.parser.field(field).map(name)).collect::<Result<_, _>>()?;
            self.header = header.to_vec();
        }
        let fields = self.parser.parse(self.delimiter, record)?;
        if fields != self.names.len() {
            return Err(format!("the record has {fields} fields, and the header {}", self.names.len()));
        }
        for (place, name) in self.names.iter().enumerate() {
            out.push(if place == 0 { b'{' } else { b',' });
            out.extend_from_slice(name);
            match self.parser.field(place)? {
                "" => out.extend_from_slice(b"null"),
                text => string(out, text),
            }
        }
        out.push(b'}');
        Ok(())
    }
}

/// Splits one record into its fields.
#[derive(Default)]
struct Parser {
    text: Vec<u8>,
    ends: Vec<usize>,
}

impl Parser {
    /// How many fields the record has.
    fn parse(&mut self, delimiter: u8, record: &[u8]) -> Result<usize, String> {
        let mut reader: Reader = ReaderBuilder::new().delimiter(delimiter).build();
        self.text.resize(record.len().max(1), 0);
        self.ends.resize(memchr_count(delimiter, record) + 2, 0);
        let (mut read, mut written, mut fields) = (0, 0, 0);
        loop {
            // An empty input says that the record has ended.
            let (result, nin, nout, nend) =
                reader.read_record(&record[read..], &mut self.text[written..], &mut self.ends[fields..]);
            (read, written, fields) = (read + nin, written + nout, fields + nend);
            match result {
                ReadRecordResult::InputEmpty => {}
                ReadRecordResult::Record => break,
                ReadRecordResult::End => return Err("there is no record".to_owned()),
                ReadRecordResult::OutputFull | ReadRecordResult::OutputEndsFull => {
                    return Err("the record cannot be read".to_owned());
                }
            }
        }
        if read < record.len() && record[read..].iter().any(|byte| !matches!(byte, b'\r' | b'\n')) {
            return Err(format!("more follows the record at byte {read}"));
        }
        self.ends.truncate(fields);
        quotes_are_right(delimiter, record)?;
        Ok(fields)
    }

    fn field(&self, place: usize) -> Result<&str, String> {
        let start = if place == 0 { 0 } else { self.ends[place - 1] };
        let bytes = &self.text[start..self.ends[place]];
        std::str::from_utf8(bytes).map_err(|_| format!("field {} is not UTF-8", place + 1))
    }
}

/// Where in a record of CSV we are, as RFC 4180 has it: a quote in a field that began without is a mere character.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Within {
    /// At the beginning of a field.
    Start,
    /// In a field without quotes, or behind the closing one.
    Field,
    Quotes,
    /// Behind a quote within quotes: the closing one, or the first of two.
    Quote,
}

impl Within {
    /// Where we are after a byte that does not end the record.
    #[must_use]
    pub fn after(self, byte: u8, delimiter: u8) -> Self {
        match (self, byte) {
            (Self::Quotes, b'"') => Self::Quote,
            (Self::Quotes, _) | (Self::Start | Self::Quote, b'"') => Self::Quotes,
            (_, byte) if byte == delimiter => Self::Start,
            _ => Self::Field,
        }
    }
}

/// Refuses a quote that has no end, and text behind one that has: often a quote that was not closed has met the next.
fn quotes_are_right(delimiter: u8, record: &[u8]) -> Result<(), String> {
    let record = record.strip_suffix(b"\r").unwrap_or(record);
    let mut within = Within::Start;
    for (place, &byte) in record.iter().enumerate() {
        let next = within.after(byte, delimiter);
        if within == Within::Quote && next == Within::Field {
            return Err(format!("text follows a closing quote, at byte {place}"));
        }
        within = next;
    }
    if within == Within::Quotes { Err("a quote is not closed".to_owned()) } else { Ok(()) }
}

fn memchr_count(byte: u8, bytes: &[u8]) -> usize {
    bytes.iter().filter(|&&found| found == byte).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(header: &str, record: &[u8]) -> Result<String, String> {
        let mut out = Vec::new();
        Records::new(b',').write(header.as_bytes(), record, &mut out)?;
        Ok(String::from_utf8(out).unwrap())
    }

    #[test]
    fn a_record_is_an_object_of_text() {
        assert_eq!(json("a,b", b"1,x").unwrap(), r#"{"a":"1","b":"x"}"#);
        assert_eq!(json("a,b\r", b",\"x, \"\"y\"\"\nz\"\r").unwrap(), "{\"a\":null,\"b\":\"x, \\\"y\\\"\\nz\"}");
        assert_eq!(json("a", b"\"\"").unwrap(), r#"{"a":null}"#);
    }

    #[test]
    fn what_does_not_fit_the_header_is_told() {
        assert_eq!(json("a,b", b"1").unwrap_err(), "the record has 1 fields, and the header 2");
        assert_eq!(json("a,b", b"1,2,3").unwrap_err(), "the record has 3 fields, and the header 2");
        assert_eq!(json("a,b", b"1,\xff").unwrap_err(), "field 2 is not UTF-8");
        assert_eq!(json("a,b", b"").unwrap_err(), "there is no record");
        for behind in [&b"1,\"2\"x"[..], b"\"1\"x\",2", b"\"1\nx,\"2\",3"] {
            let reason = json("a,b", behind).unwrap_err();
            assert!(reason.starts_with("text follows a closing quote") || reason.contains("fields"), "{reason}");
        }
        assert_eq!(json("a,b", b"1,\"abc,b\n\"x\"").unwrap_err(), "text follows a closing quote, at byte 10");
        for open in [&b"1,\"2"[..], b"\"1,2", b"1,\"2\"\"", b"1,\"2\"\"\"\""] {
            assert_eq!(json("a,b", open).unwrap_err(), "a quote is not closed", "{}", String::from_utf8_lossy(open));
        }
        for closed in [&b"1,2\""[..], b"5\" pipe,2", b"\"1\",\"\"", b"\"\"\"1\"\"\",2", b"\"a,b\",\"c\nd\""] {
            assert!(json("a,b", closed).is_ok(), "{}", String::from_utf8_lossy(closed));
        }
    }
}
