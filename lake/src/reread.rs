//! Rereading: the rows of a stream get other envelopes after they have landed.
//!
//! Payload, key, headers and place of a row stay; its id, type, version, time and subject are what the stream's mapping finds
//! now, and it may become a reject or cease to be one. One commit takes out each file whose rows differ and puts one with the
//! same rows in its place. A later commit can put the files of before back.
//!
//! ```text
//!               reread                         taken back
//! files F ─────────────────► files G ─────────────────────────► files F, and what has landed since
//!   removed, kept for a week    added, not put together for days
//! ```
//!
//! Each of these commits carries the `txn` of [`REREAD`]: the version by which the stream's rows were read anew. What was
//! made of rows of before is not gone on with; builds fill it again.

use crate::delta::{Action, Add, Committed, REWRITE, Snapshot, Txn};

/// The `txn` application id whose version is the last one by which rows that had landed were read anew.
pub const REREAD: &str = "starmere/reread";
/// The tag of a file that a reread has made.
const TAG: &str = "starmere.reread";
/// How long a reread can be taken back, in milliseconds. The files of before are kept for longer: see [`crate::upkeep`].
const TAKEN_BACK_WITHIN: i64 = 5 * 24 * 60 * 60 * 1000;

/// The last version of a stream, up to the snapshot's, by which rows that had landed were read anew.
pub fn reread_at(snapshot: &Snapshot) -> Option<u64> {
    u64::try_from(snapshot.txn(REREAD)?).ok()
}

/// The positions that a commit after `base` carries which reads rows anew.
pub fn positions(base: &Snapshot) -> Vec<Txn> {
    [REWRITE, REREAD].map(|application| Txn::now(application.to_owned(), base.version() as i64 + 1)).into()
}

/// Whether a commit has read rows anew.
pub fn has_reread(commit: &Committed) -> bool {
    commit.actions.iter().any(|action| matches!(action, Action::Txn(txn) if txn.app_id == REREAD))
}

/// Says of a file that a reread has made it.
pub fn tag(add: &mut Add) {
    add.tags.get_or_insert_default().insert(TAG.to_owned(), Some(String::new()));
}

/// Whether a reread that was committed at `at` can be taken back at `now`, both in milliseconds since 1970.
pub fn can_be_taken_back(at: i64, now: i64) -> bool {
    now.saturating_sub(at) < TAKEN_BACK_WITHIN
}

/// Whether a file is not put together with others: a reread has made it that can be taken back.
pub(crate) fn stays_alone(add: &Add, now: i64) -> bool {
    let is_of_a_reread = add.tags.as_ref().is_some_and(|tags| tags.contains_key(TAG));
    is_of_a_reread && can_be_taken_back(add.modification_time, now)
}
