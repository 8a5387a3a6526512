//! `starmere ingest`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::Context;
use sha2::Digest;
use starmere_ingest::envelope::Mapping;
use starmere_ingest::files::{Progress, Refused, Report, Source, land};
use starmere_lake::landing::Stream;

use super::told_to_stop;
use crate::command_line::Ingest;
use crate::failure::{self, Mendable};
use crate::output::{Output, bytes, count, counted};
use crate::project::Opened;

/// Sources are looked at this often while nothing is new.
const LOOK_EVERY: Duration = Duration::from_secs(1);

pub(super) async fn run(opened: &Opened, arguments: &Ingest, output: &Output) -> anyhow::Result<()> {
    if let Some(file) = &arguments.file {
        return one_file(opened, arguments, file, output).await;
    }
    let feeds = feeds(opened, &arguments.streams, arguments.end_of_input)?;
    if feeds.is_empty() {
        let hint = "declare one under `sources` in starmere.yaml, or land a file with --file";
        return Err(Mendable::error("the project has no source of files", hint));
    }
    if arguments.once {
        return all_once(opened, &feeds, output).await;
    }
    tokio::select! {
        result = continuously(opened, &feeds, output) => result,
        () = told_to_stop() => Ok(()),
    }
}

/// Lands what is new in each source, whatever becomes of the others.
async fn all_once(opened: &Opened, feeds: &[Feed], output: &Output) -> anyhow::Result<()> {
    let (mut refused, mut troubles) = (0, Vec::new());
    for feed in feeds {
        match once(opened, feed, output, true).await {
            Ok(report) => refused += report.refused.len() as u64,
            Err(error) => troubles.push(error),
        }
    }
    if refused > 0 {
        let message = format!("{} refused", counted(refused, "file was", "files were"));
        let rest = if troubles.is_empty() { "see above; everything else has landed" } else { "see above" };
        troubles.push(Mendable::error(message, rest));
    }
    // The worst comes last: it is told, and makes the status, where the program ends.
    troubles.sort_by_key(failure::status);
    let worst = troubles.pop();
    troubles.iter().for_each(|error| output.error(error));
    worst.map_or(Ok(()), Err)
}

/// A source of files, and the stream it feeds.
pub(super) struct Feed {
    stream: Stream,
    mapping: Mapping,
    source: Source,
}

/// The project's sources of files, of these streams or all.
pub(super) fn feeds(opened: &Opened, only: &[String], end_of_input: bool) -> anyhow::Result<Vec<Feed>> {
    for stream in only {
        opened.stream(stream)?;
    }
    let wanted = |stream: &String| only.is_empty() || only.contains(stream);
    let file = &opened.project.file;
    let mut feeds = Vec::new();
    for (name, source) in file.sources.iter().filter(|(_, source)| wanted(&source.stream)) {
        let (stream, mapping) = opened.stream(&source.stream)?;
        let pattern = opened.project.root.join(&source.files);
        let source = Source { name: name.clone(), pattern, topic: None, end_of_input };
        feeds.push(Feed { stream, mapping, source });
    }
    Ok(feeds)
}

/// Lands what is new, for as long as it runs.
pub(super) async fn continuously(opened: &Opened, feeds: &[Feed], output: &Output) -> anyhow::Result<()> {
    let mut told: BTreeMap<&str, Told> = BTreeMap::new();
    loop {
        for feed in feeds {
            let name = feed.source.name.as_str();
            let told = told.entry(name).or_default();
            match follow(opened, feed, output, told).await {
                Ok(()) => told.trouble = None,
                Err(error) => {
                    let words = format!("{error:#}");
                    if told.trouble.as_ref() != Some(&words) {
                        tracing::warn!(source = name, error = words, "could not land; trying again");
                    }
                    told.trouble = Some(words);
                }
            }
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// What has been said of a source that is looked at again and again.
#[derive(Default)]
struct Told {
    refused: Vec<Refused>,
    trouble: Option<String>,
}

/// Lands what is new in one source, and tells only what was not told before.
async fn follow(opened: &Opened, feed: &Feed, output: &Output, told: &mut Told) -> anyhow::Result<()> {
    let report = once(opened, feed, output, false).await?;
    for refused in report.refused.iter().filter(|refused| !told.refused.contains(refused)) {
        output.say(format!("refused {}: {}", refused.path, refused.reason));
    }
    told.refused = report.refused;
    Ok(())
}

/// Lands what is new in one source; `always` says something even where nothing is.
async fn once(opened: &Opened, feed: &Feed, output: &Output, always: bool) -> anyhow::Result<Report> {
    let Feed { stream, mapping, source } = feed;
    if always && !source.pattern.exists() && !source.pattern.to_string_lossy().contains(['*', '?', '[', '{']) {
        let hint = format!("mend `sources.{}` in starmere.yaml, or make it", source.name);
        return Err(Mendable::error(format!("`{}` does not exist", source.pattern.display()), hint));
    }
    let progress = Arc::new(Progress::default());
    let step = always.then(|| output.step(format!("landing {}", source.name)));
    let begun = Instant::now();
    let landing = land(stream, mapping, source, &progress);
    tokio::pin!(landing);
    let report = loop {
        tokio::select! {
            report = &mut landing => break report.with_context(|| format!("could not land `{}`", source.name))?,
            () = tokio::time::sleep(Duration::from_millis(200)) => {
                if let Some(step) = &step {
                    let events = progress.events.load(Ordering::Relaxed);
                    let read = progress.bytes.load(Ordering::Relaxed);
                    let rate = read as f64 / begun.elapsed().as_secs_f64().max(0.001);
                    let events = counted(events, "event", "events");
                    step.now(format!("{events}, {}, {}/s", bytes(read), bytes(rate as u64)));
                }
            }
        }
    };
    if let Some(step) = step {
        step.done(words(&report));
    } else if report.events > 0 {
        output.say(format!("landed {}: {}", source.name, words(&report)));
    }
    if let Some(words) = undescribed(opened, stream.name(), &report) {
        output.say(words);
    }
    if always {
        for refused in &report.refused {
            output.say(format!("refused {}: {}", refused.path, refused.reason));
        }
        if report.files_waiting > 0 {
            let files = counted(report.files_waiting, "file waits", "files wait");
            output.say(format!("{files} for the newline of a last line (--end-of-input takes it as it is)"));
        }
    }
    Ok(report)
}

/// Events that no model can see, since the stream does not describe their types.
fn undescribed(opened: &Opened, stream: &str, report: &Report) -> Option<String> {
    /// So many types are named.
    const MOST: usize = 5;
    let parsed = opened.project.streams.iter().find(|parsed| *parsed.definition.stream == stream)?;
    let described = &parsed.definition.events;
    let (mut events, mut names) = (0, Vec::new());
    for (name, count) in report.types.iter().filter(|(name, _)| !described.contains_key(name.as_str())) {
        events += count;
        names.push(name.as_str());
    }
    let more = names.len().saturating_sub(MOST);
    let more = if more > 0 { format!(" and {} more", count(more as u64)) } else { String::new() };
    names.truncate(MOST);
    (events > 0).then(|| {
        let (events, names) = (counted(events, "event", "events"), names.join(", "));
        format!("{events} of types that the stream does not describe: {names}{more}")
    })
}

fn words(report: &Report) -> String {
    let mut words = format!("{}, {}", counted(report.events, "event", "events"), bytes(report.bytes));
    let mut also = |number: u64, one: &str, many: &str| {
        if number > 0 {
            words += &format!(", {}", counted(number, one, many));
        }
    };
    also(report.rejects, "reject", "rejects");
    also(report.files_new, "file new", "files new");
    also(report.files_continued, "continued", "continued");
    also(report.files_unchanged, "unchanged", "unchanged");
    also(report.files_copied, "copy", "copies");
    format!("{words}; version {}", report.version)
}

async fn one_file(opened: &Opened, arguments: &Ingest, file: &std::path::Path, output: &Output) -> anyhow::Result<()> {
    let [stream] = arguments.streams.as_slice() else {
        return Err(Mendable::error("--file lands into one stream", "name it: starmere ingest STREAM --file PATH"));
    };
    let from_input = file.as_os_str() == "-";
    // Kept until it has landed.
    let spooled = if from_input { Some(spool()?) } else { None };
    let (path, topic) = match &spooled {
        Some((spooled, digest)) => {
            let topic = arguments.name.clone().unwrap_or_else(|| format!("stdin-{digest}"));
            (spooled.path().to_path_buf(), Some(topic))
        }
        None => (file.to_path_buf(), arguments.name.clone()),
    };
    if !path.is_file() {
        return Err(Mendable::error(
            format!("`{}` is not a file", path.display()),
            "name a file, or `-` for standard input",
        ));
    }
    let source = Source {
        name: if from_input { "stdin".into() } else { "file".into() },
        pattern: path,
        topic,
        end_of_input: arguments.end_of_input || from_input,
    };
    let (stream, mapping) = opened.stream(stream)?;
    match once(opened, &Feed { stream, mapping, source }, output, true).await?.refused.as_slice() {
        [] => Ok(()),
        _ => Err(Mendable::error("the file was refused", "see above")),
    }
}

/// Standard input, kept in a file until it has landed; its digest is its name where it has none.
fn spool() -> anyhow::Result<(tempfile::NamedTempFile, String)> {
    use std::io::{Read, Write};
    let mut spooled = tempfile::NamedTempFile::new().context("could not make a file for standard input")?;
    let mut input = std::io::stdin().lock();
    let mut digest = sha2::Sha256::new();
    let mut block = vec![0; 1 << 20];
    loop {
        let read = input.read(&mut block).context("could not read standard input")?;
        if read == 0 {
            break;
        }
        digest.update(&block[..read]);
        spooled.write_all(&block[..read]).context("could not keep standard input")?;
    }
    spooled.flush().context("could not keep standard input")?;
    Ok((spooled, hex::encode(&digest.finalize()[..16])))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_not_many() {
        let report = Report { events: 1, rejects: 1, files_new: 1, files_copied: 2, ..Report::default() };
        assert_eq!(words(&report), "1 event, 0 B, 1 reject, 1 file new, 2 copies; version 0");
    }
}
