//! A member's versions from its changes, in the plainest way: write down the state after every change, keep
//! the last of each instant, and look at the whole list again for whatever a version must show.

use super::super::json::Field;
use super::super::time::{BEGINNING, END, Micros};

pub(super) enum Change {
    State(Vec<Field<String>>),
    Patch(Vec<Field<String>>),
    Delete,
}

#[derive(Clone, Copy, PartialEq)]
pub(super) enum History {
    Overwrite,
    Version,
    Keep,
}

#[derive(Debug, PartialEq)]
pub(super) struct Version {
    pub(super) from: Micros,
    pub(super) to: Micros,
    pub(super) deleted: bool,
    pub(super) values: Vec<Option<String>>,
}

/// How a member stood after a change. A lifetime ends with the delete, which still belongs to it.
#[derive(Clone)]
struct State {
    at: Micros,
    lifetime: usize,
    deleted: bool,
    values: Vec<Option<String>>,
}

/// The versions that the changes of one member make; these are in the order of events.
pub(super) fn versions(changes: &[(Micros, Change)], histories: &[History]) -> Vec<Version> {
    let states = states(changes, histories.len());
    let mut opened: Vec<&State> = Vec::new();
    for (place, state) in states.iter().enumerate() {
        let last_of_its_instant = states.get(place + 1).is_none_or(|next| next.at != state.at);
        if last_of_its_instant && opened.last().is_none_or(|before| differs(before, state, histories)) {
            opened.push(state);
        }
    }
    let version = |(place, state): (usize, &&State)| Version {
        from: if place == 0 { BEGINNING } else { state.at },
        to: opened.get(place + 1).map_or(END, |next| next.at),
        deleted: state.deleted,
        values: (0..histories.len()).map(|attribute| shown(state, attribute, histories[attribute], &states)).collect(),
    };
    opened.iter().enumerate().map(version).collect()
}

fn states(changes: &[(Micros, Change)], attributes: usize) -> Vec<State> {
    let nothing = State { at: 0, lifetime: 0, deleted: false, values: vec![None; attributes] };
    let mut states: Vec<State> = Vec::new();
    for (at, change) in changes {
        let before = states.last().unwrap_or(&nothing);
        let mut state = State { at: *at, ..before.clone() };
        if before.deleted && !matches!(change, Change::Delete) {
            state = State { at: *at, lifetime: before.lifetime + 1, ..nothing.clone() };
        }
        match change {
            Change::State(fields) => state.values = fields.iter().map(|field| field.clone().or_null()).collect(),
            Change::Patch(fields) => {
                for (value, field) in state.values.iter_mut().zip(fields) {
                    if *field != Field::Absent {
                        *value = field.clone().or_null();
                    }
                }
            }
            Change::Delete => state.deleted = true,
        }
        states.push(state);
    }
    states
}

fn differs(before: &State, after: &State, histories: &[History]) -> bool {
    let versioned = |state: &State| -> Vec<Option<String>> {
        let values = state.values.iter().zip(histories);
        values.filter(|(_, history)| **history == History::Version).map(|(value, _)| value.clone()).collect()
    };
    before.deleted != after.deleted || versioned(before) != versioned(after)
}

fn shown(state: &State, attribute: usize, history: History, states: &[State]) -> Option<String> {
    let mut lifetime = states.iter().filter(|other| other.lifetime == state.lifetime);
    match history {
        History::Version => state.values[attribute].clone(),
        History::Overwrite => lifetime.next_back().and_then(|last| last.values[attribute].clone()),
        History::Keep => lifetime.find_map(|other| other.values[attribute].clone()),
    }
}

#[cfg(test)]
mod tests;
