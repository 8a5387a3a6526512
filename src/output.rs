//! The one place that prints.

use std::io::{IsTerminal, Write};
use std::sync::Arc;
use std::time::Instant;

use arrow::array::RecordBatch;
use arrow::datatypes::{Schema, SchemaRef};
use arrow::util::pretty::pretty_format_batches;
use indicatif::{ProgressBar, ProgressStyle};

use crate::command_line::{Format, Global};
use crate::failure;

/// How and how much to print.
#[derive(Clone, Debug)]
pub(crate) struct Output {
    format: Format,
    quiet: bool,
    interactive: bool,
}

impl Output {
    pub(crate) fn new(global: &Global) -> Self {
        let interactive = std::io::stderr().is_terminal() && !global.quiet;
        Self { format: global.format, quiet: global.quiet, interactive }
    }

    /// The same, without a word on standard error.
    pub(crate) fn silent(&self) -> Self {
        Self { quiet: true, interactive: false, ..self.clone() }
    }

    /// Data, to standard output.
    pub(crate) fn data(&self, schema: &SchemaRef, batches: &[RecordBatch]) -> anyhow::Result<()> {
        let mut out = std::io::BufWriter::new(std::io::stdout().lock());
        let plain = Arc::new(Schema::new(schema.fields().clone()));
        match self.format {
            Format::Table => {
                let empty = [RecordBatch::new_empty(plain)];
                let shown = if batches.is_empty() { &empty[..] } else { batches };
                writeln!(out, "{}", pretty_format_batches(shown)?)?;
            }
            Format::Json => {
                let mut writer = arrow::json::WriterBuilder::new()
                    .with_explicit_nulls(true)
                    .build::<_, arrow::json::writer::JsonArray>(&mut out);
                writer.write_batches(&batches.iter().collect::<Vec<_>>())?;
                writer.finish()?;
                writeln!(writer.into_inner())?;
            }
            Format::Csv => {
                let mut writer = arrow::csv::Writer::new(&mut out);
                let empty = [RecordBatch::new_empty(plain)];
                for batch in if batches.is_empty() { &empty[..] } else { batches } {
                    writer.write(batch)?;
                }
            }
            Format::Arrow => {
                let mut writer = arrow::ipc::writer::StreamWriter::try_new(&mut out, schema)?;
                batches.iter().try_for_each(|batch| writer.write(batch))?;
                writer.finish()?;
            }
        }
        out.flush()?;
        Ok(())
    }

    /// Rows of text, as data.
    pub(crate) fn rows(&self, columns: &[&str], rows: Vec<Vec<String>>) -> anyhow::Result<()> {
        let fields: Vec<arrow::datatypes::Field> = columns
            .iter()
            .map(|name| arrow::datatypes::Field::new(*name, arrow::datatypes::DataType::Utf8, false))
            .collect();
        let schema = Arc::new(Schema::new(fields));
        let arrays = (0..columns.len()).map(|index| -> arrow::array::ArrayRef {
            Arc::new(rows.iter().map(|row| Some(row[index].as_str())).collect::<arrow::array::StringArray>())
        });
        let batch = RecordBatch::try_new(schema.clone(), arrays.collect())?;
        self.data(&schema, &[batch])
    }

    /// A line about what happened, to standard error.
    #[expect(clippy::print_stderr, reason = "this is where Starmere prints")]
    pub(crate) fn say(&self, text: impl AsRef<str>) {
        if !self.quiet {
            eprintln!("{}", text.as_ref());
        }
    }

    /// An error with its causes and what to do, to standard error.
    #[expect(clippy::print_stderr, reason = "this is where Starmere prints")]
    pub(crate) fn error(&self, error: &anyhow::Error) {
        eprintln!("error: {error}");
        let mut said = error.to_string();
        for cause in error.chain().skip(1) {
            let text = cause.to_string();
            // A transparent error repeats its cause.
            if !said.contains(&text) {
                eprintln!("  caused by: {text}");
                said = text;
            }
        }
        if let Some(hint) = failure::hint(error) {
            eprintln!("\nhint: {hint}");
        }
    }

    /// A spinner on a terminal, a plain line elsewhere.
    pub(crate) fn step(&self, what: impl Into<String>) -> Step {
        let what = what.into();
        let bar = self.interactive.then(|| {
            let bar = ProgressBar::new_spinner();
            let style = ProgressStyle::with_template("{spinner} {msg} {elapsed}")
                .unwrap_or_else(|_| ProgressStyle::default_spinner());
            bar.set_style(style);
            bar.set_message(what.clone());
            bar.enable_steady_tick(std::time::Duration::from_millis(100));
            bar
        });
        Step { what, bar, begun: Instant::now(), output: self.clone() }
    }
}

/// Something that takes a while.
pub(crate) struct Step {
    what: String,
    bar: Option<ProgressBar>,
    begun: Instant,
    output: Output,
}

impl Step {
    /// What is happening just now, on a terminal.
    pub(crate) fn now(&self, text: impl AsRef<str>) {
        if let Some(bar) = &self.bar {
            bar.set_message(format!("{} {}", self.what, text.as_ref()));
        }
    }

    /// It is done, and came to this.
    pub(crate) fn done(self, result: impl AsRef<str>) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        let took = self.begun.elapsed().as_secs_f64();
        self.output.say(format!("{:<28} {} ({took:.2} s)", self.what, result.as_ref()));
    }
}

/// `1234567` as `1,234,567`.
pub(crate) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Bytes in words.
pub(crate) fn bytes(number: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KB", "MB", "GB", "TB"];
    let mut value = number as f64;
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    if unit == 0 { format!("{number} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}
