//! The digest of a catalog snapshot: a changed bit of what is pinned would be a wrong answer.
//!
//! It is the first key of the object, `"digest": "<publish id> <XXH3-128 of the object, with zeros in its place>"`. A binary
//! that does not know it carries the key on from a snapshot that it read; the publish id says that it is not its own.

use serde::Serialize;
use serde_json::Value;

use super::CatalogSnapshot;

const KEY: &str = "digest";
const ZEROS: &str = "00000000000000000000000000000000";

#[derive(Serialize)]
struct WithDigest<'a> {
    digest: String,
    #[serde(flatten)]
    snapshot: &'a CatalogSnapshot,
}

/// The object of a snapshot.
pub(super) fn encode(snapshot: &CatalogSnapshot) -> serde_json::Result<Vec<u8>> {
    let with_zeros = WithDigest { digest: format!("{} {ZEROS}", snapshot.publish_id), snapshot };
    let mut bytes = serde_json::to_vec_pretty(&with_zeros)?;
    let digest = of(&bytes);
    if let Some(place) = place(&bytes, &with_zeros.digest) {
        bytes[place].copy_from_slice(digest.as_bytes());
    }
    Ok(bytes)
}

/// The snapshot of an object; or why it is none.
pub(super) fn decode(bytes: &[u8]) -> Result<CatalogSnapshot, String> {
    let mut snapshot: CatalogSnapshot = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    let Some(Value::String(told)) = snapshot.rest.remove(KEY) else { return Ok(snapshot) };
    let Some((_, digest)) = told.rsplit_once(' ').filter(|(by, _)| *by == snapshot.publish_id) else {
        return Ok(snapshot);
    };
    let mut with_zeros = bytes.to_vec();
    if let Some(place) = place(bytes, &told).filter(|place| place.len() == digest.len()) {
        with_zeros[place].copy_from_slice(ZEROS.as_bytes());
    }
    match of(&with_zeros) == digest {
        true => Ok(snapshot),
        false => Err("it is not what was written: its digest is another one".to_owned()),
    }
}

fn of(bytes: &[u8]) -> String {
    format!("{:032x}", xxhash_rust::xxh3::xxh3_128(bytes))
}

/// Where the digest stands, of which the object says `told`.
fn place(bytes: &[u8], told: &str) -> Option<std::ops::Range<usize>> {
    let at = bytes.windows(told.len()).position(|window| window == told.as_bytes())?;
    let end = at + told.len();
    Some(end.checked_sub(ZEROS.len())?..end)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::Pin;
    use super::*;
    use crate::paths::TablePath;

    fn snapshot() -> CatalogSnapshot {
        let pin = Pin { path: TablePath::stream("d", "t"), version: 12, consumed: BTreeMap::new() };
        CatalogSnapshot {
            number: 7,
            publish_id: "0b6cf1f5".to_owned(),
            tables: [("a".to_owned(), pin)].into(),
            rest: serde_json::Map::from_iter([("more".to_owned(), serde_json::json!({ "x": 1 }))]),
            ..CatalogSnapshot::default()
        }
    }

    #[test]
    fn no_changed_bit_makes_another_snapshot() {
        let bytes = encode(&snapshot()).unwrap();
        assert_eq!(decode(&bytes), Ok(snapshot()));
        let mut damaged = 0;
        for at in 0..bytes.len() * 8 {
            let mut changed = bytes.clone();
            changed[at / 8] ^= 1 << (at % 8);
            match decode(&changed) {
                Err(_) => damaged += 1,
                // What says that there is a digest was hit, and nothing else.
                Ok(found) => {
                    let same = CatalogSnapshot { publish_id: String::new(), rest: snapshot().rest, ..found };
                    assert_eq!(same, CatalogSnapshot { publish_id: String::new(), ..snapshot() }, "bit {at}");
                }
            }
        }
        assert!(damaged > bytes.len() * 6, "{damaged} of {} bits", bytes.len() * 8);
    }

    #[test]
    fn a_digest_that_an_older_binary_carried_on_is_not_its_own() {
        let carried = serde_json::to_value(WithDigest { digest: "another 00".to_owned(), snapshot: &snapshot() });
        assert_eq!(decode(&serde_json::to_vec(&carried.unwrap()).unwrap()), Ok(snapshot()));
        assert_eq!(decode(&serde_json::to_vec(&snapshot()).unwrap()), Ok(snapshot()), "there was none before");
    }
}
