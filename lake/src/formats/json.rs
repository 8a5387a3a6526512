//! Writing JSON.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// Writes a number; not for those that JSON does not have.
pub(super) fn number<N: serde::Serialize>(out: &mut Vec<u8>, value: N) {
    serde_json::to_writer(out, &value).expect("a number is written to memory");
}

/// Writes a string.
pub(super) fn string(out: &mut Vec<u8>, text: &str) {
    serde_json::to_writer(out, text).expect("a string is written to memory");
}

/// Writes bytes, as base64.
pub(super) fn base64(out: &mut Vec<u8>, bytes: &[u8]) {
    out.push(b'"');
    let start = out.len();
    let length = base64::encoded_len(bytes.len(), true).unwrap_or_default();
    out.resize(start + length, 0);
    let written = STANDARD.encode_slice(bytes, &mut out[start..]).expect("there is room for it");
    out.truncate(start + written);
    out.push(b'"');
}

/// The name of a member, with its colon.
pub(super) fn name(name: &str) -> Vec<u8> {
    let mut text = Vec::new();
    string(&mut text, name);
    text.push(b':');
    text
}

/// Writes text as a string, and anything else as base64.
pub(super) fn text_or_base64(out: &mut Vec<u8>, bytes: &[u8]) {
    match std::str::from_utf8(bytes) {
        Ok(text) => string(out, text),
        Err(_) => base64(out, bytes),
    }
}
