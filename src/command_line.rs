//! The command line: flags, and their words.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Turns streams of events into star schemas that people can query.
#[derive(Debug, Parser)]
#[command(name = "starmere", version, about, max_term_width = 100, after_help = EXAMPLES)]
pub(crate) struct CommandLine {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

const EXAMPLES: &str = "\
Examples:
  starmere init shop --example shop       write an example project
  starmere --project shop ingest --once   land its events
  starmere --project shop build           derive its facts and dimensions, and publish them
  starmere --project shop sql 'SELECT count(*) FROM sales.orders_v1.order_lines'
  starmere --project shop up              all of it, continuously";

/// Where the project is unless one says so.
pub(crate) const HERE: &str = ".";

/// Flags of every command.
#[derive(Clone, Debug, Args)]
pub(crate) struct Global {
    /// The project's folder
    #[arg(long, global = true, default_value = HERE, value_name = "DIR")]
    pub(crate) project: PathBuf,
    /// A virtual copy by this name: it shares all tables that do not differ, and publishes for itself alone
    #[arg(long, global = true, value_name = "NAME", value_parser = environment)]
    pub(crate) env: Option<String>,
    /// How data is printed
    #[arg(long, global = true, value_enum, default_value_t = Format::Table)]
    format: Format,
    /// The same as `--format json`
    #[arg(long, global = true, conflicts_with = "format")]
    json: bool,
    /// Only errors on standard error
    #[arg(long, global = true)]
    pub(crate) quiet: bool,
    /// More on standard error
    #[arg(long, global = true, conflicts_with = "quiet")]
    pub(crate) verbose: bool,
    /// Make every line on standard error a log line with time and level
    ///
    /// Without it, words for people stand there, and log lines among them.
    #[arg(long, global = true, value_enum, value_name = "FORMAT", env = "STARMERE_LOG_FORMAT")]
    pub(crate) log_format: Option<LogFormat>,
}

impl Global {
    /// How data is printed.
    pub(crate) fn format(&self) -> Format {
        if self.json { Format::Json } else { self.format }
    }
}

/// The name of an environment.
fn environment(name: &str) -> Result<String, String> {
    let place = starmere_models::define::Place::default();
    match starmere_models::resolve::check_name(name, &place) {
        None => Ok(name.to_owned()),
        Some(problem) => Err(problem.hint.unwrap_or_default()),
    }
}

/// How data is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    Table,
    Json,
    Csv,
    Arrow,
}

/// How log lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    Text,
    Json,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Write a new project, an example, or the JSON Schemas of definitions
    Init(Init),
    /// Read all definitions, report what is wrong with them, and run their tests, before any data is touched
    Check,
    /// List streams and what has landed in them
    Streams(Streams),
    /// Land events from the project's sources, a file or standard input
    Ingest(Ingest),
    /// List what would be built, and why
    Plan,
    /// Derive what is new, check contracts, publish
    Build(Build),
    /// Answer queries (Flight SQL, HTTP) and take events over HTTP
    Serve(Serve),
    /// All of it, continuously, in one process
    Up(Serve),
    /// Ask a query
    Sql(Sql),
    /// Show the columns of models: what a product can promise
    Models(Models),
    /// List data products and their contracts
    Products(Products),
    /// Show how fresh and how large everything is, and how far the sources have been read
    Status(Status),
    /// Prove on the data at hand that nothing is lost or doubled, and that tables equal a rebuild
    ///
    /// The rebuilt tables stay in the warehouse, beside those that are published.
    Verify(Verify),
    /// Put small files together, forget what streams no longer retain, delete what nobody needs
    ///
    /// But for what `retention_days` forgets, no row changes, and nobody is disturbed. `up` and `ingest` do it as well, from
    /// time to time.
    Upkeep(Upkeep),
    /// List events that could not be read, with the reasons
    Rejects(Rejects),
    /// Go from a row to the events that made it and their bytes, or from an event to the rows that it made
    Trace(Trace),
}

#[derive(Debug, Args)]
pub(crate) struct Init {
    /// The folder to write; must not hold a project yet (default: where --project says)
    pub(crate) into: Option<PathBuf>,
    /// Write this example
    #[arg(long, value_enum)]
    pub(crate) example: Option<Example>,
    /// Size of the example: its number of orders
    #[arg(long, default_value_t = 10_000, requires = "example", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) size: u32,
    /// The same seed and size give the same events
    #[arg(long, default_value_t = 42, requires = "example")]
    pub(crate) seed: u64,
    /// Write only the JSON Schemas for editors, below `schemas/`
    #[arg(long, conflicts_with = "example")]
    pub(crate) schemas: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Example {
    Shop,
}

#[derive(Debug, Args)]
pub(crate) struct Models {
    #[command(subcommand)]
    pub(crate) what: ModelsCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ModelsCommand {
    /// List columns with their types, keys, and where they come from
    Show(Show),
}

#[derive(Debug, Args)]
pub(crate) struct Show {
    /// Only this model, `domain.name` or `name`
    pub(crate) model: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Products {
    #[command(subcommand)]
    pub(crate) what: Option<ProductsCommand>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ProductsCommand {
    /// Show which fact has which dimension, in which roles: the bus matrix
    Matrix,
}

#[derive(Debug, Args)]
pub(crate) struct Streams {
    #[command(subcommand)]
    pub(crate) what: Option<StreamsCommand>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum StreamsCommand {
    /// Propose the definition of a stream, from what has landed in it
    Infer(Infer),
    /// List events that landed more than once and do not say the same, and which of their copies counts
    Copies(Copies),
    /// Read what has landed anew, by the stream's mended mapping; or take that back
    ///
    /// Ids, types, versions, times and subjects of all rows become what the envelope finds in them now; payloads stay.
    /// First it shows what would change. It is one commit, and builds fill the models of the stream again.
    Reread(Reread),
}

#[derive(Debug, Args)]
pub(crate) struct Copies {
    /// Only this stream
    pub(crate) stream: Option<String>,
    /// List at most so many
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) limit: u32,
}

#[derive(Debug, Args)]
pub(crate) struct Reread {
    /// The stream
    pub(crate) stream: String,
    /// Do it; without it, only tell what would change, and ask on a terminal
    #[arg(long)]
    pub(crate) yes: bool,
    /// Do it although events become copies of others that say something else: builds count one event for each id
    #[arg(long)]
    pub(crate) allow_copies: bool,
    /// Put back what the last reread has changed, for five days; what has landed since stays. Again: the one before it
    #[arg(long, conflicts_with = "allow_copies")]
    pub(crate) take_back: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Infer {
    /// The stream
    pub(crate) stream: String,
    /// Look at about so many events: every so many of all that landed, and a thousand of each type and version
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) events: u32,
    /// Propose these fields: names or paths, with commas between them, each with what is below it; `*` for all. Without
    /// it, some of those that are always there
    #[arg(long, value_name = "FIELD,…", value_delimiter = ',')]
    pub(crate) fields: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Ingest {
    /// Only these streams
    pub(crate) streams: Vec<String>,
    /// Land what is there, and end; without it, go on until told to stop
    #[arg(long)]
    pub(crate) once: bool,
    /// Land this file, or `-` for standard input, into the one stream named
    #[arg(long, value_name = "PATH")]
    pub(crate) file: Option<PathBuf>,
    /// Names the input, so that it is known again when more of it comes
    #[arg(long, requires = "file")]
    pub(crate) name: Option<String>,
    /// Read on a partition that is stopped, and accept what was lost (`starmere status` lists them)
    #[arg(long, value_name = "SOURCE/TOPIC/PARTITION", conflicts_with = "file")]
    pub(crate) go_on: Vec<String>,
    /// A last line without newline is an event too (always so for standard input)
    #[arg(long)]
    pub(crate) end_of_input: bool,
    /// Answer `GET /metrics`, `/livez` and `/readyz` here, while events are landed; port 0: the system chooses
    #[arg(long, value_name = "ADDRESS", conflicts_with_all = ["file", "once", "go_on"])]
    pub(crate) metrics: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Build {
    /// Only these models (`domain.name`), and those that share a stream, a table or a product with them
    pub(crate) models: Vec<String>,
    /// Build from the lake, aside, then swap
    #[arg(long)]
    pub(crate) full: bool,
    /// Build from what is left of this stream, which has forgotten its oldest events; with --full, also of one that has lost
    /// its newest
    #[arg(long, value_name = "STREAM")]
    pub(crate) accept_loss: Vec<String>,
    /// Publish although ports change so that whoever reads them breaks, or gets answers that mean something else (`starmere
    /// plan` lists them)
    #[arg(long)]
    pub(crate) accept_breaking: bool,
    /// Build nothing: publish again what this catalog snapshot held; without a number, list the snapshots
    ///
    /// The way back from a change, and from a newest snapshot that is damaged (0: to none). An `up` with other files builds
    /// nothing then, until they are put back; the next `build` publishes what the files say.
    #[arg(long, value_name = "SNAPSHOT", conflicts_with_all = ["models", "full", "accept_loss", "accept_breaking"])]
    pub(crate) back_to: Option<Option<u64>>,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct Serve {
    /// Listen here for HTTP instead of where the project says; port 0: the system chooses
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) http: Option<String>,
    /// Listen here for Flight SQL instead of where the project says
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) flight: Option<String>,
    /// Go on for so long after being told to stop, while `/readyz` says no: as long as a load balancer needs to see it
    #[arg(long, value_name = "SECONDS", default_value_t = 0, env = "STARMERE_DRAIN_SECONDS")]
    pub(crate) drain: u64,
    /// Let users who may query raw events query models as well, ports or not, as `work.<domain>.<model>`
    ///
    /// For work on the project: what the last build made, which nobody has promised to anybody.
    #[arg(long)]
    pub(crate) work: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Sql {
    /// The query; `-` reads it from standard input
    pub(crate) query: String,
    /// Against this catalog snapshot instead of the newest
    #[arg(long, value_name = "NUMBER")]
    pub(crate) as_of: Option<u64>,
}

#[derive(Debug, Args)]
pub(crate) struct Status {
    /// Only the sources: partitions, positions, lag, rate (with a format for programs, say which of the two)
    #[arg(long)]
    pub(crate) sources: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Verify {
    /// Only that nothing is lost or doubled in the lake, without rebuilding
    #[arg(long)]
    pub(crate) lake_only: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Upkeep {
    /// Only tell what would be forgotten and deleted; nothing is done
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Forget this environment first: what only it needs is deleted once it is a week old
    #[arg(long, value_name = "NAME", conflicts_with = "dry_run")]
    pub(crate) forget_env: Option<String>,
    /// Clean up as if so many days had passed, for tests: only where nothing else runs on the warehouse
    #[arg(long, value_name = "DAYS", default_value_t = 0, hide = true)]
    pub(crate) days_later: u32,
}

#[derive(Debug, Args)]
pub(crate) struct Rejects {
    /// Only of this stream or model
    pub(crate) of: Option<String>,
    /// At most so many
    #[arg(long, default_value_t = 100)]
    pub(crate) limit: usize,
    /// Only a few of each reason, with how many there are
    #[arg(long)]
    pub(crate) sample: bool,
    /// Take the stream's rejects up again that its mended definition can read
    ///
    /// First it shows what would change. They take the places of their rejects, in one commit; builds see them as new
    /// events. Rejects of models are tried again by every build whose definition has changed.
    #[arg(long, requires = "of", conflicts_with = "sample")]
    pub(crate) repair: bool,
    /// Take them up; without it, only tell what would change, and ask on a terminal
    #[arg(long, requires = "repair")]
    pub(crate) yes: bool,
    /// Take them up although events become copies of others that say something else: builds count one event for each id
    #[arg(long, requires = "repair")]
    pub(crate) allow_copies: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Trace {
    /// The model, `domain.name`, or a port of it, `domain.product_vN.port`
    #[arg(conflicts_with = "event")]
    pub(crate) model: Option<String>,
    /// Which row: values of the columns that tell rows apart, in their order, or `column=value`
    pub(crate) key: Vec<String>,
    /// Instead, this event: in which rows it is
    #[arg(long, value_name = "EVENT_ID")]
    pub(crate) event: Option<String>,
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::{Command, CommandLine, Init};

    fn init(arguments: &[&str]) -> Result<Init, clap::Error> {
        match CommandLine::try_parse_from([&["starmere"][..], arguments].concat())?.command {
            Command::Init(init) => Ok(init),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn an_example_of_no_orders_is_refused() {
        assert!(init(&["init", "x", "--example", "shop", "--size", "0"]).is_err());
        assert_eq!(init(&["init", "x", "--example", "shop", "--size", "1"]).unwrap().size, 1);
    }

    #[test]
    fn the_command_line_is_consistent() {
        super::CommandLine::command().debug_assert();
    }
}
