//! The one place that prints.

use std::io::{ErrorKind, IsTerminal, Write};
use std::sync::Arc;
use std::time::Instant;

use arrow::array::RecordBatch;
use arrow::datatypes::{Schema, SchemaRef};
use arrow::util::pretty::pretty_format_batches;
use indicatif::{MultiProgress, ProgressBar, ProgressState, ProgressStyle};
use starmere_lake::troubles;

use crate::command_line::{Format, Global};
use crate::failure;

/// The target of log lines that are words for people otherwise.
pub(crate) const SAID: &str = "said";

/// How and how much to print.
#[derive(Clone, Debug)]
pub(crate) struct Output {
    format: Format,
    quiet: bool,
    interactive: bool,
    /// Every line on standard error is one of the log.
    logs: bool,
    /// What is drawn on the terminal just now, below what was said.
    bars: MultiProgress,
}

impl Output {
    pub(crate) fn new(global: &Global) -> Self {
        let logs = global.log_format.is_some();
        let interactive = std::io::stderr().is_terminal() && !global.quiet && !logs;
        Self { format: global.format(), quiet: global.quiet, interactive, logs, bars: MultiProgress::new() }
    }

    /// The same, without a word on standard error.
    pub(crate) fn silent(&self) -> Self {
        Self { quiet: true, interactive: false, ..self.clone() }
    }

    /// How data is printed: some listings say to programs something else than to people.
    pub(crate) fn format(&self) -> Format {
        self.format
    }

    /// Data, to standard output. Whoever closes it early, as `head` does, has got what they wanted.
    pub(crate) fn data(&self, schema: &SchemaRef, batches: &[RecordBatch]) -> anyhow::Result<()> {
        let out = WhileRead { out: std::io::stdout().lock(), closed: false };
        self.write(schema, batches, std::io::BufWriter::new(out))
    }

    /// Text that somebody will keep, to standard output.
    pub(crate) fn text(&self, text: &str) -> anyhow::Result<()> {
        let mut out = WhileRead { out: std::io::stdout().lock(), closed: false };
        Ok(out.write_all(text.as_bytes())?)
    }

    fn write(&self, schema: &SchemaRef, batches: &[RecordBatch], mut out: impl Write) -> anyhow::Result<()> {
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
                    writer.write(&starmere_sql::http::nested_as_text(batch)?)?;
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
        match (self.quiet, self.logs) {
            (true, _) => {}
            (false, true) => tracing::info!(target: SAID, "{}", text.as_ref()),
            (false, false) => self.bars.suspend(|| eprintln!("{}", text.as_ref())),
        }
    }

    /// Asks on a terminal whether to go on; where nobody can answer, the answer is no.
    #[expect(clippy::print_stderr, reason = "this is where Starmere prints")]
    pub(crate) fn ask(&self, question: &str) -> bool {
        if !self.interactive || !std::io::stdin().is_terminal() {
            return false;
        }
        eprint!("{question} [y/N] ");
        let mut answer = String::new();
        let read = std::io::stdin().read_line(&mut answer);
        read.is_ok() && matches!(answer.trim(), "y" | "Y" | "yes")
    }

    /// An error with its causes and what to do, to standard error.
    #[expect(clippy::print_stderr, reason = "this is where Starmere prints")]
    pub(crate) fn error(&self, error: &anyhow::Error) {
        if self.logs {
            tracing::error!(target: SAID, hint = failure::hint(error), "{}", troubles::causes(&**error));
        } else {
            self.bars.suspend(|| eprintln!("{}", words(error)));
        }
    }

    /// A spinner on a terminal, a plain line elsewhere.
    pub(crate) fn step(&self, what: impl Into<String>) -> Step {
        self.drawn(what.into(), "{spinner} {msg} {elapsed}", |style| style)
    }

    /// The same with a bar: `now` is asked what is done, and how much of it.
    pub(crate) fn bar(
        &self,
        what: impl Into<String>,
        now: impl Fn() -> (&'static str, f64) + Clone + Send + Sync + 'static,
    ) -> Step {
        let shown = move |_: &ProgressState, out: &mut dyn std::fmt::Write| _ = out.write_str(&share(now()));
        self.drawn(what.into(), "{spinner} {msg:40} {share:36} {elapsed}", |style| style.with_key("share", shown))
    }

    fn drawn(&self, what: String, template: &str, with: impl FnOnce(ProgressStyle) -> ProgressStyle) -> Step {
        let bar = self.interactive.then(|| {
            let bar = self.bars.add(ProgressBar::new_spinner());
            bar.set_style(with(
                ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_spinner()),
            ));
            bar.set_message(what.clone());
            bar.enable_steady_tick(std::time::Duration::from_millis(100));
            bar
        });
        Step { what, bar, begun: Instant::now(), output: self.clone() }
    }
}

/// What is done, a bar of how much of it, and the same in percent; what is done alone, as long as nobody knows how much.
fn share((doing, share): (&str, f64)) -> String {
    const WIDTH: usize = 20;
    if share == 0.0 {
        return doing.to_owned();
    }
    let full = (share * WIDTH as f64) as usize;
    format!("{doing:<9} {}{} {:3.0} %", "█".repeat(full), "░".repeat(WIDTH - full), share * 100.0)
}

/// Takes all that is written, and drops it once nobody reads any more.
struct WhileRead<W> {
    out: W,
    closed: bool,
}

impl<W: Write> WhileRead<W> {
    fn unless_closed<T>(&mut self, otherwise: T, act: impl FnOnce(&mut W) -> std::io::Result<T>) -> std::io::Result<T> {
        if self.closed {
            return Ok(otherwise);
        }
        match act(&mut self.out) {
            Err(error) if error.kind() == ErrorKind::BrokenPipe => {
                self.closed = true;
                Ok(otherwise)
            }
            outcome => outcome,
        }
    }
}

impl<W: Write> Write for WhileRead<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.unless_closed(bytes.len(), |out| out.write(bytes))
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.unless_closed((), Write::flush)
    }
}

/// An error, its causes, its place in a query and what to do.
fn words(error: &anyhow::Error) -> String {
    let mut said = error.to_string();
    let mut words = format!("error: {said}");
    for cause in error.chain().skip(1) {
        let text = cause.to_string();
        // A transparent error repeats its cause.
        if !said.contains(&text) {
            words.push_str(&format!("\n  caused by: {text}"));
            said = text;
        }
    }
    let query = error.chain().find_map(|cause| cause.downcast_ref::<starmere_sql::QueryError>());
    if let Some((line, column)) = query.and_then(|query| query.line.zip(query.column)) {
        words.push_str(&format!("\n  at line {line}, column {column}"));
    }
    if let Some(hint) = failure::hint(error) {
        words.push_str(&format!("\n\nhint: {hint}"));
    }
    words
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

/// `1 row`, `1,234 rows`.
pub(crate) fn counted(number: u64, one: &str, many: &str) -> String {
    format!("{} {}", count(number), if number == 1 { one } else { many })
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

#[cfg(test)]
mod tests {
    use arrow::array::{ArrayRef, Int32Array, ListArray};
    use arrow::datatypes::Int32Type;

    use super::*;

    fn output(format: Format) -> Output {
        Output { format, quiet: true, interactive: false, logs: false, bars: MultiProgress::new() }
    }

    fn batch() -> RecordBatch {
        let lists = ListArray::from_iter_primitive::<Int32Type, _, _>([Some(vec![Some(1), None]), None]);
        let numbers: ArrayRef = Arc::new(Int32Array::from(vec![1, 2]));
        let lists: ArrayRef = Arc::new(lists);
        RecordBatch::try_from_iter_with_nullable([("number", numbers, false), ("list", lists, true)]).unwrap()
    }

    /// A reader that has gone.
    struct Gone;

    impl Write for Gone {
        fn write(&mut self, _bytes: &[u8]) -> std::io::Result<usize> {
            Err(ErrorKind::BrokenPipe.into())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Err(ErrorKind::BrokenPipe.into())
        }
    }

    #[test]
    fn a_bar_says_how_much_is_done() {
        assert_eq!(share(("reading", 0.0)), "reading");
        assert_eq!(share(("folding", 0.55)), "folding   ███████████░░░░░░░░░  55 %");
        assert_eq!(share(("keying", 1.0)), "keying    ████████████████████ 100 %");
    }

    #[test]
    fn one_is_singular() {
        assert_eq!([0, 1, 1234].map(|number| counted(number, "row", "rows")), ["0 rows", "1 row", "1,234 rows"]);
    }

    #[test]
    fn a_reader_that_goes_away_is_no_failure() {
        let batch = batch();
        for format in [Format::Table, Format::Json, Format::Csv, Format::Arrow] {
            let mut out = WhileRead { out: Gone, closed: false };
            output(format).write(&batch.schema(), std::slice::from_ref(&batch), &mut out).unwrap();
            assert!(out.closed, "{format:?}");
            assert!(output(format).write(&batch.schema(), std::slice::from_ref(&batch), Gone).is_err(), "{format:?}");
        }
    }

    #[test]
    fn lists_in_csv_are_json() {
        let batch = batch();
        let mut out = Vec::new();
        output(Format::Csv).write(&batch.schema(), std::slice::from_ref(&batch), &mut out).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), "number,list\n1,\"[1,null]\"\n2,\n");
        let mut empty = Vec::new();
        output(Format::Csv).write(&batch.schema(), &[], &mut empty).unwrap();
        assert_eq!(String::from_utf8(empty).unwrap(), "number,list\n");
    }

    #[test]
    fn errors_of_queries_have_their_place_and_hint() {
        let error = starmere_sql::QueryError::invalid("no column `foo`").at(2, 3).with_hint("mend it");
        assert_eq!(words(&error.into()), "error: no column `foo`\n  at line 2, column 3\n\nhint: mend it");
    }
}
