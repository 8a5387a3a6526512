use super::super::super::json::Field::{Absent, Is, Null};
use super::super::super::time::{BEGINNING, END};
use super::History::{Keep, Overwrite, Version as Versioned};
use super::{Change, Version, versions};

fn is(text: &str) -> super::Field<String> {
    Is(text.to_owned())
}

/// Versions of a member with three attributes (overwrite, version, keep) as `from..to deleted values`.
fn told(changes: &[(i64, Change)]) -> Vec<String> {
    let instant = |at| match at {
        BEGINNING => "…".to_owned(),
        END => "…".to_owned(),
        at => at.to_string(),
    };
    let line = |version: &Version| {
        let values: Vec<&str> = version.values.iter().map(|value| value.as_deref().unwrap_or("-")).collect();
        let deleted = if version.deleted { " deleted" } else { "" };
        format!("{}..{}{deleted} {}", instant(version.from), instant(version.to), values.join(" "))
    };
    versions(changes, &[Overwrite, Versioned, Keep]).iter().map(line).collect()
}

#[test]
fn only_versioned_attributes_open_a_version() {
    let changes = [
        (1, Change::State(vec![is("ann"), is("oslo"), Absent])),
        (2, Change::Patch(vec![is("anna"), Absent, is("web")])),
        (3, Change::Patch(vec![Absent, is("rome"), is("store")])),
        (4, Change::Patch(vec![Absent, is("rome"), Absent])),
        (5, Change::Patch(vec![Absent, Null, Absent])),
    ];
    assert_eq!(told(&changes), ["…..3 anna oslo web", "3..5 anna rome web", "5..… anna - web"]);
}

#[test]
fn what_is_created_again_carries_nothing_over() {
    let changes = [
        (1, Change::State(vec![is("ann"), is("oslo"), is("web")])),
        (2, Change::Delete),
        (3, Change::Delete),
        (4, Change::Patch(vec![is("bea"), Absent, Absent])),
    ];
    assert_eq!(told(&changes), ["…..2 ann oslo web", "2..4 deleted ann oslo web", "4..… bea - -"]);
}

#[test]
fn changes_at_one_instant_make_one_version() {
    let changes = [
        (1, Change::State(vec![is("ann"), is("oslo"), Absent])),
        (2, Change::Patch(vec![Absent, is("rome"), Absent])),
        (2, Change::Patch(vec![Absent, is("bonn"), Absent])),
        (3, Change::Patch(vec![Absent, is("rome"), Absent])),
        (3, Change::Patch(vec![Absent, is("bonn"), Absent])),
    ];
    assert_eq!(told(&changes), ["…..2 ann oslo -", "2..… ann bonn -"]);
}

#[test]
fn a_delete_alone_makes_a_deleted_member() {
    assert_eq!(told(&[(1, Change::Delete)]), ["…..… deleted - - -"]);
}
