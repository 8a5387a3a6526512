//! Landing what files have.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use sha2::Digest;
use starmere_ingest::files::{Progress, Refused, Report, Source, land, record_refused};
use starmere_lake::troubles::{self, About};
use tokio_util::sync::CancellationToken;

use super::{Feed, From, shown, undescribed};
use crate::command_line::Ingest;
use crate::failure::Mendable;
use crate::output::{Output, bytes, counted};
use crate::project::Opened;

/// So many files are named.
const MOST_NAMED: usize = 10;
/// Sources are looked at this often while nothing is new.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Lands what is new in each source of files, until told to stop.
pub(super) async fn follow_all(opened: &Opened, feeds: &[&Feed], output: &Output, stop: &CancellationToken) {
    let mut told: BTreeMap<&str, Told> = BTreeMap::new();
    let looking = async {
        loop {
            for feed in feeds.iter().take_while(|_| !stop.is_cancelled()) {
                let From::Files(source) = &feed.from else { continue };
                let name = source.name.as_str();
                let told = told.entry(name).or_default();
                match follow(opened, feed, source, output, told, stop).await {
                    Ok(()) => troubles::well(About::Source, name),
                    Err(error) => troubles::failed(About::Source, name, &troubles::causes(&*error)),
                }
            }
            tokio::select! {
                () = tokio::time::sleep(LOOK_EVERY) => {}
                () = stop.cancelled() => return,
            }
        }
    };
    looking.await;
}

/// What has been said of a source that is looked at again and again.
#[derive(Default)]
struct Told {
    refused: Option<Vec<Refused>>,
}

/// Lands what is new in one source, and tells only what was not told before.
async fn follow(
    opened: &Opened,
    feed: &Feed,
    source: &Source,
    output: &Output,
    told: &mut Told,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    let report = once(opened, feed, source, output, false, stop).await?;
    if stop.is_cancelled() || told.refused.as_ref() == Some(&report.refused) {
        return Ok(());
    }
    let known = told.refused.take().unwrap_or_default();
    tell(report.refused.iter().filter(|refused| !known.contains(refused)), output);
    record_refused(&feed.stream, &source.name, &report.refused).await?;
    told.refused = Some(report.refused);
    Ok(())
}

/// Lands what is new in one source; tells, and writes down, what is refused.
pub(super) async fn drain(
    opened: &Opened,
    feed: &Feed,
    source: &Source,
    output: &Output,
    always: bool,
    stop: &CancellationToken,
) -> anyhow::Result<Report> {
    let report = once(opened, feed, source, output, always, stop).await?;
    if stop.is_cancelled() {
        // It has not met all files.
        return Ok(report);
    }
    tell(&report.refused, output);
    record_refused(&feed.stream, &source.name, &report.refused).await?;
    Ok(report)
}

fn tell<'a>(refused: impl IntoIterator<Item = &'a Refused>, output: &Output) {
    for Refused { path, reason } in refused {
        output.say(format!("refused {path}: {reason}"));
    }
}

/// Lands what is new in one source; `always` says something even where nothing is.
async fn once(
    opened: &Opened,
    feed: &Feed,
    source: &Source,
    output: &Output,
    always: bool,
    stop: &CancellationToken,
) -> anyhow::Result<Report> {
    let Feed { stream, mapping, .. } = feed;
    if always && !source.pattern.exists() && !source.pattern.to_string_lossy().contains(['*', '?', '[', '{']) {
        let hint = format!("mend `sources.{}` in starmere.yaml, or make it", source.name);
        return Err(Mendable::error(format!("`{}` does not exist", source.pattern.display()), hint));
    }
    let progress = Arc::new(Progress::default());
    let step = always.then(|| output.step(format!("landing {}", source.name)));
    let landing = shown(land(stream, mapping, source, &progress, &opened.memory, stop), step.as_ref(), &progress);
    let report = landing.await.with_context(|| format!("could not land `{}`", source.name))?;
    if let Some(step) = step {
        step.done(words(&report));
    } else if report.counts.events > 0 {
        output.say(format!("landed {}: {}", source.name, words(&report)));
    }
    if let Some(words) = undescribed(opened, stream.name(), &report.counts.types) {
        output.say(words);
    }
    if always && !report.files_waiting.is_empty() {
        let files = counted(report.files_waiting.len() as u64, "file waits", "files wait");
        let named = report.files_waiting.iter().take(MOST_NAMED).map(String::as_str).collect::<Vec<_>>().join(", ");
        let more = if report.files_waiting.len() > MOST_NAMED { " …" } else { "" };
        output.say(format!(
            "{files} for the end of the last line or block (--end-of-input takes a last line as it is): {named}{more}"
        ));
    }
    Ok(report)
}

fn words(report: &Report) -> String {
    let mut words = format!("{}, {}", counted(report.counts.events, "event", "events"), bytes(report.counts.bytes));
    let mut also = |number: u64, one: &str, many: &str| {
        if number > 0 {
            words += &format!(", {}", counted(number, one, many));
        }
    };
    also(report.counts.rejects, "reject", "rejects");
    also(report.counts.without_id, "without its id", "without their ids");
    also(report.files_new, "file new", "files new");
    also(report.files_continued, "continued", "continued");
    also(report.files_unchanged, "unchanged", "unchanged");
    also(report.files_copied, "copy", "copies");
    format!("{words}; version {}", report.version)
}

pub(super) async fn one_file(
    opened: &Opened,
    arguments: &Ingest,
    file: &std::path::Path,
    output: &Output,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
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
    let feed = Feed { stream, mapping, from: From::Files(source.clone()), schedule: None };
    let refused = once(opened, &feed, &source, output, true, stop).await?.refused;
    tell(&refused, output);
    match refused.is_empty() {
        true => Ok(()),
        false => Err(Mendable::error("the file was refused", "see above")),
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
    use starmere_ingest::rows::Counts;

    use super::*;

    #[test]
    fn one_is_not_many() {
        let counts = Counts { events: 1, rejects: 1, ..Counts::default() };
        let report = Report { counts, files_new: 1, files_copied: 2, ..Report::default() };
        assert_eq!(words(&report), "1 event, 0 B, 1 reject, 1 file new, 2 copies; version 0");
    }
}
