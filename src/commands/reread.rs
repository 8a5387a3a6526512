//! `starmere streams reread` and `starmere rejects --repair`: rows that have landed, read by a mended mapping.

use anyhow::Context;
use starmere_ingest::envelope::TIMESTAMP;
use starmere_ingest::repair::{self, Repaired, repair};
use starmere_ingest::reread::{Changes, Preview, Rereading, TakenBack, TakingBack, refuse_copies, refuse_keyless};
use starmere_lake::formats::Convention;
use starmere_lake::upkeep::cut_of;

use super::inspect::{Cell, Holds, listing};
use crate::command_line::{Rejects, Reread};
use crate::output::{Output, counted};
use crate::project::Opened;

/// What is said where nobody has said that it is to be done.
const UNCHANGED: &str = "nothing is changed; `--yes` does it";

/// Reads what has landed in a stream anew, or takes that back.
pub(super) async fn run(opened: &Opened, arguments: &Reread, output: &Output) -> anyhow::Result<()> {
    let (stream, mapping) = opened.stream(&arguments.stream)?;
    let name = stream.name();
    if arguments.take_back {
        let failed = || format!("could not take back a reread of `{name}`");
        let taking_back = TakingBack::of(&stream).await.with_context(failed)?;
        let at = chrono::DateTime::from_timestamp_millis(taking_back.at).unwrap_or_default();
        let at = at.format("%Y-%m-%d %H:%M:%S UTC");
        output.say(format!("the last reread of {name} is of {at}, and has made version {}", taking_back.reread));
        if !arguments.yes && !output.ask("put back what was there before?") {
            output.say(UNCHANGED);
            return Ok(());
        }
        let step = output.step(format!("taking back the reread of {name}"));
        let TakenBack { reread, rows, version } = taking_back.carry_out().await.with_context(failed)?;
        let rows = counted(rows, "row", "rows");
        step.done(format!("{rows} as before version {reread}; version {version}"));
        return Ok(());
    }
    let failed = || format!("could not reread `{name}`");
    let step = output.step(format!("looking at {name}"));
    let mut rereading = Rereading::new(&stream, &mapping, opened.memory.bytes()).await.with_context(failed)?;
    let preview = rereading.look().await.with_context(failed)?;
    step.done(counted(preview.changes.rows, "row", "rows"));
    show(&rows_of(&preview), output)?;
    let has_time = matches!(mapping.format.convention, Some(Convention::CloudEvents | Convention::Debezium));
    if mapping.time.as_deref().map_or(!has_time, |time| time == TIMESTAMP) {
        output.say("when sources got events is kept of rejects alone; where that is the time of an event, it stays");
    }
    if preview.changes.changed == 0 {
        output.say("nothing would change");
        return Ok(());
    }
    if let Some(day) = stream.newest().await?.and_then(|newest| cut_of(&newest)) {
        output.say(format!(
            "{name} has forgotten what landed before {day}: models are filled again from what is left, by `starmere build \
             --accept-loss {name}`"
        ));
    }
    if !arguments.allow_copies {
        refuse_keyless(name, preview.changes.keyless)?;
    }
    let swallowed = if arguments.allow_copies { 0 } else { preview.swallowed };
    if !goes_on(arguments.yes, swallowed, name, output)? {
        return Ok(());
    }
    let step = output.step(format!("rereading {name}"));
    let done = rereading.carry_out(arguments.allow_copies).await.with_context(failed)?;
    step.done(format!("{} changed; version {}", counted(done.changes.changed, "row", "rows"), done.version));
    output.say(format!(
        "the next build fills the models of `{name}` again; `starmere streams reread {name} --take-back` is the way back"
    ));
    Ok(())
}

/// Takes rejected rows of a stream up again.
pub(super) async fn take_up(opened: &Opened, stream: &str, arguments: &Rejects, output: &Output) -> anyhow::Result<()> {
    let (stream, mapping) = opened.stream(stream)?;
    let name = stream.name();
    let failed = || format!("could not repair rejects of `{name}`");
    let preview = repair::look(&stream, &mapping).await.with_context(failed)?;
    let repair::Preview { events, still_rejected, copies, swallowed } = preview;
    let rows = [
        ("rejects that become events", events),
        ("rejects that stay rejects", still_rejected),
        ("events that become copies of another", copies),
        ("copies that say something else", swallowed),
    ];
    show(&rows, output)?;
    if events == 0 {
        output.say("nothing would change");
        return Ok(());
    }
    let swallowed = if arguments.allow_copies { 0 } else { swallowed };
    if !goes_on(arguments.yes, swallowed, name, output)? {
        return Ok(());
    }
    let step = output.step(format!("repairing {name}"));
    let Repaired { events, still_rejected, version, types } =
        repair(&stream, &mapping, arguments.allow_copies).await.with_context(failed)?;
    let rest = match still_rejected {
        0 => String::new(),
        rest => format!(", {} left", counted(rest, "reject", "rejects")),
    };
    step.done(format!("{} repaired{rest}; version {version}", counted(events, "reject", "rejects")));
    if let Some(words) = super::ingest::undescribed(opened, name, &types) {
        output.say(words);
    }
    Ok(())
}

/// Whether it is to be done. Not where events would be swallowed that nobody has given up.
fn goes_on(yes: bool, swallowed: u64, stream: &str, output: &Output) -> anyhow::Result<bool> {
    refuse_copies(stream, swallowed)?;
    let goes_on = yes || output.ask("change these rows?");
    if !goes_on {
        output.say(UNCHANGED);
    }
    Ok(goes_on)
}

/// What a reread would change, in words and numbers.
fn rows_of(preview: &Preview) -> [(&'static str, u64); 13] {
    let Preview { changes, events_before, events_after, copies, swallowed } = preview;
    let Changes { rows: _, changed, ids, types, versions, times, subjects, taken_up, rejected, keyless } = changes;
    [
        ("rows that change", *changed),
        ("events with another id", *ids),
        ("events with another type", *types),
        ("events with another version", *versions),
        ("events with another time", *times),
        ("events with another subject", *subjects),
        ("rejects that become events", *taken_up),
        ("events that become rejects", *rejected),
        ("events that become copies of another", *copies),
        ("copies that say something else", *swallowed),
        ("events over HTTP that have no id any more", *keyless),
        ("events that count now", *events_before),
        ("events that count then", *events_after),
    ]
}

fn show(rows: &[(&str, u64)], output: &Output) -> anyhow::Result<()> {
    let cells = rows.iter().map(|(what, number)| vec![(*what).to_owned().into(), Cell::Number(*number)]);
    listing(output, &[("change", Holds::Text), ("rows", Holds::Number)], &cells.collect::<Vec<_>>())
}
