//! `starmere ingest`.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::Context;
use sha2::Digest;
use starmere_ingest::files::{Progress, Report, Source, land};

use super::told_to_stop;
use crate::command_line::Ingest;
use crate::failure::Mendable;
use crate::output::{Output, bytes, count};
use crate::project::Opened;

/// Sources are looked at this often while nothing is new.
const LOOK_EVERY: Duration = Duration::from_secs(1);

pub(super) async fn run(opened: &Opened, arguments: &Ingest, output: &Output) -> anyhow::Result<()> {
    if let Some(file) = &arguments.file {
        return one_file(opened, arguments, file, output).await;
    }
    let sources = sources(opened, &arguments.streams, arguments.end_of_input)?;
    if sources.is_empty() {
        let hint = "declare one under `sources` in starmere.yaml, or land a file with --file";
        return Err(Mendable::error("the project has no source of files", hint));
    }
    if arguments.once {
        let mut refused = 0;
        for (stream, source) in &sources {
            refused += once(opened, stream, source, output, true).await?;
        }
        return match refused {
            0 => Ok(()),
            1 => Err(Mendable::error("1 file was refused", "see above; everything else has landed")),
            count => {
                Err(Mendable::error(format!("{count} files were refused"), "see above; everything else has landed"))
            }
        };
    }
    tokio::select! {
        result = continuously(opened, &sources, output) => result,
        () = told_to_stop() => Ok(()),
    }
}

/// The project's sources of files, with their streams.
pub(super) fn sources(opened: &Opened, only: &[String], end_of_input: bool) -> anyhow::Result<Vec<(String, Source)>> {
    for stream in only {
        opened.stream(stream)?;
    }
    let wanted = |stream: &String| only.is_empty() || only.contains(stream);
    let file = &opened.project.file;
    let sources = file.sources.iter().filter(|(_, source)| wanted(&source.stream)).map(|(name, source)| {
        let pattern = opened.project.root.join(&source.files);
        (source.stream.clone(), Source { name: name.clone(), pattern, topic: None, end_of_input })
    });
    Ok(sources.collect())
}

/// Lands what is new, for as long as it runs.
pub(super) async fn continuously(opened: &Opened, sources: &[(String, Source)], output: &Output) -> anyhow::Result<()> {
    let mut last_trouble: Option<String> = None;
    loop {
        for (stream, source) in sources {
            match once(opened, stream, source, output, false).await {
                Ok(_) => {}
                Err(error) => {
                    let words = format!("{error:#}");
                    if last_trouble.as_ref() != Some(&words) {
                        tracing::warn!(source = source.name, error = words, "could not land; trying again");
                    }
                    last_trouble = Some(words);
                }
            }
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Lands what is new in one source; returns how many files were refused.
async fn once(
    opened: &Opened,
    stream_name: &str,
    source: &Source,
    output: &Output,
    always: bool,
) -> anyhow::Result<usize> {
    let (stream, mapping) = opened.stream(stream_name)?;
    if always && !source.pattern.exists() && !source.pattern.to_string_lossy().contains(['*', '?', '[', '{']) {
        let hint = format!("mend `sources.{}` in starmere.yaml, or make it", source.name);
        return Err(Mendable::error(format!("`{}` does not exist", source.pattern.display()), hint));
    }
    let progress = Arc::new(Progress::default());
    let step = always.then(|| output.step(format!("landing {}", source.name)));
    let begun = Instant::now();
    let landing = land(&stream, &mapping, source, &progress);
    tokio::pin!(landing);
    let report = loop {
        tokio::select! {
            report = &mut landing => break report.with_context(|| format!("could not land `{}`", source.name))?,
            () = tokio::time::sleep(Duration::from_millis(200)) => {
                if let Some(step) = &step {
                    let events = progress.events.load(Ordering::Relaxed);
                    let read = progress.bytes.load(Ordering::Relaxed);
                    let rate = read as f64 / begun.elapsed().as_secs_f64().max(0.001);
                    step.now(format!("{} events, {}, {}/s", count(events), bytes(read), bytes(rate as u64)));
                }
            }
        }
    };
    if let Some(step) = step {
        step.done(words(&report));
    } else if report.events > 0 {
        output.say(format!("landed {}: {}", source.name, words(&report)));
    }
    if always {
        for refused in &report.refused {
            output.say(format!("refused {}: {}", refused.path, refused.reason));
        }
        if report.files_waiting > 0 {
            let files = if report.files_waiting == 1 {
                "1 file waits".into()
            } else {
                format!("{} files wait", report.files_waiting)
            };
            output.say(format!("{files} for the newline of a last line (--end-of-input takes it as it is)"));
        }
    }
    Ok(report.refused.len())
}

fn words(report: &Report) -> String {
    let mut words = format!("{} events, {}", count(report.events), bytes(report.bytes));
    let mut also = |number: u64, what: &str| {
        if number > 0 {
            words += &format!(", {} {what}", count(number));
        }
    };
    also(report.rejects, "rejects");
    also(report.files_new, "files new");
    also(report.files_continued, "continued");
    also(report.files_unchanged, "unchanged");
    also(report.files_copied, "copies");
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
    match once(opened, stream, &source, output, true).await? {
        0 => Ok(()),
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
