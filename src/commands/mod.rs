//! The commands: each loads the project, calls the rooms, prints.

mod copies;
mod definitions;
mod infer;
mod ingest;
mod init;
mod inspect;
mod plan;
mod rejects;
mod reload;
mod reread;
mod serve;
mod snapshots;
mod sql;
pub(crate) mod trace;
mod upkeep;
mod verify;

use starmere_lake::catalog::Catalog;
use starmere_lake::delta::Warehouse;
use starmere_lake::format_number;
use starmere_models::define::suggestion;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::acceptance;
use crate::command_line::{
    Build, Command, CommandLine, Models, ModelsCommand, Products, ProductsCommand, Rejects, Streams, StreamsCommand,
};
use crate::failure::Mendable;
use crate::output::Output;
use crate::project::{Opened, Project, warehouse_of};
use crate::publish;

pub(crate) async fn run(line: CommandLine, output: &Output) -> anyhow::Result<()> {
    let root = line.global.project;
    let environment = line.global.env;
    let environment = environment.as_deref();
    let open = || -> anyhow::Result<Opened> { Project::load(&root)?.open(environment) };
    let open_to_land = || -> anyhow::Result<Opened> { Project::load_to_land(&root)?.open(environment) };
    let changes_streams = matches!(
        line.command,
        Command::Ingest(_)
            | Command::Up(_)
            | Command::Rejects(Rejects { repair: true, .. })
            | Command::Streams(Streams { what: Some(StreamsCommand::Reread(_)) })
    );
    if environment.is_some() && changes_streams {
        let hint = "land, reread and repair without --env, and build with it";
        return Err(Mendable::error("environments share the streams, and publish for themselves alone", hint));
    }
    let begins_or_reads_none = matches!(
        line.command,
        Command::Init(_)
            | Command::Check
            | Command::Plan
            | Command::Models(_)
            | Command::Products(_)
            | Command::Build(Build { back_to: None, .. })
    );
    if let (Some(name), false) = (environment, begins_or_reads_none) {
        refuse_unknown(name, &warehouse_of(&root)?).await?;
    }
    match line.command {
        Command::Init(arguments) => init::run(&arguments, &root, output),
        Command::Check => definitions::check(&root, output).await,
        Command::Plan => plan::plan(&to_read(open()?).await?, output).await,
        Command::Models(Models { what: ModelsCommand::Show(arguments) }) => {
            definitions::models(&Project::load(&root)?, arguments.model.as_deref(), output)
        }
        Command::Products(Products { what: None }) => definitions::products(&Project::load(&root)?, output),
        Command::Products(Products { what: Some(ProductsCommand::Matrix) }) => {
            definitions::matrix(&Project::load(&root)?, output)
        }
        Command::Streams(Streams { what: None }) => inspect::streams(&to_read(open()?).await?, output).await,
        Command::Streams(Streams { what: Some(StreamsCommand::Infer(arguments)) }) => {
            infer::run(&to_read(open()?).await?, &arguments, output).await
        }
        Command::Streams(Streams { what: Some(StreamsCommand::Copies(arguments)) }) => {
            copies::run(&to_read(open()?).await?, &arguments, output).await
        }
        Command::Streams(Streams { what: Some(StreamsCommand::Reread(arguments)) }) => {
            reread::run(&to_write(open()?).await?, &arguments, output).await
        }
        Command::Status(arguments) => inspect::status(&to_read(open_to_land()?).await?, &arguments, output).await,
        Command::Rejects(arguments) => {
            let opened = open()?;
            let opened = if arguments.repair { to_write(opened).await? } else { to_read(opened).await? };
            rejects::run(&opened, &arguments, output).await
        }
        Command::Ingest(arguments) => ingest::run(&to_write(open_to_land()?).await?, &arguments, output).await,
        Command::Build(arguments) => {
            let (step, snapshot) = match arguments.back_to {
                // The way back is there when definitions are wrong, too.
                Some(number) => {
                    let warehouse = warehouse_of(&root)?;
                    format_number::may_write(warehouse.store()).await?;
                    let catalog = Catalog::of(&warehouse, environment);
                    let there = catalog.numbers().await?;
                    if !there.is_empty() && number.is_none_or(|number| number > 0 && !there.contains(&number)) {
                        snapshots::list(&catalog, number, output).await?;
                    }
                    let Some(number) = number else {
                        let there = publish::instead_of(0, &there);
                        return Err(Mendable::error("`--back-to` wants the number of a catalog snapshot", there));
                    };
                    let step = output.step("build");
                    (step, publish::back_to(&catalog, number).await?)
                }
                None => {
                    let opened = to_write(open()?).await?;
                    let how = publish::How {
                        models: arguments.models,
                        full: arguments.full,
                        accepted_losses: arguments.accept_loss,
                        accepted_breaks: arguments.accept_breaking,
                    };
                    if let Some(words) = publish::lost_catalog(&opened).await? {
                        output.say(words);
                    }
                    let how = acceptance::asked(&opened, how, output).await?;
                    let step = output.step("build");
                    (step, publish::build_and_publish(&opened, &how, output).await?)
                }
            };
            step.done(format!("catalog snapshot {}", snapshot.number));
            Ok(())
        }
        Command::Serve(arguments) => serve::run(&to_write(open_to_land()?).await?, &arguments, false, output).await,
        Command::Up(arguments) => serve::run(&to_write(open_to_land()?).await?, &arguments, true, output).await,
        Command::Sql(arguments) => sql::run(&to_read(open()?).await?, arguments, output).await,
        Command::Trace(arguments) => trace::run(&to_read(open()?).await?, &arguments, output).await,
        Command::Upkeep(arguments) => upkeep::run(&to_write(open()?).await?, &arguments, output).await,
        Command::Verify(arguments) => verify::run(&to_write(open()?).await?, &arguments, output).await,
    }
}

/// Refuses an environment that has published nothing: by a mistyped name, one would read what the warehouse has
/// published.
async fn refuse_unknown(name: &str, warehouse: &Warehouse) -> anyhow::Result<()> {
    let known = Catalog::environments(warehouse).await?;
    if known.iter().any(|known| known == name) {
        return Ok(());
    }
    let begin = format!("`starmere --env {name} build` begins it");
    let hint = match known.is_empty() {
        true => begin,
        false => format!("{begin}; {}", suggestion(name, known.iter().map(String::as_str))),
    };
    Err(Mendable::error(format!("there is no environment `{name}`"), hint))
}

/// A warehouse that this binary may read.
async fn to_read(opened: Opened) -> anyhow::Result<Opened> {
    format_number::may_read(opened.warehouse.store()).await?;
    Ok(opened)
}

/// A warehouse that this binary may write.
async fn to_write(opened: Opened) -> anyhow::Result<Opened> {
    // Whoever writes to a store that breaks its promises loses events without a word.
    opened.warehouse.store().try_promises().await?;
    format_number::may_write(opened.warehouse.store()).await?;
    // A newer binary may raise the number at any time. Ends with the process.
    let store = opened.warehouse.store().clone();
    tokio::spawn(async move { format_number::keep_looking(&store).await });
    Ok(opened)
}

/// How long landing may take when told to stop. All steps of an end together take less than 30 s, after which
/// supervisors kill.
const TO_STOP: std::time::Duration = std::time::Duration::from_secs(10);

/// Takes SIGINT and SIGTERM from now on, which would end the process, and waits for one of them.
pub(super) fn told_to_stop() -> impl Future<Output = ()> {
    let [interrupt, terminate] = [SignalKind::interrupt(), SignalKind::terminate()].map(signal);
    async move {
        tokio::select! {
            () = received(interrupt) => {}
            () = received(terminate) => {}
        }
    }
}

async fn received(signal: std::io::Result<Signal>) {
    match signal {
        Ok(mut signal) => _ = signal.recv().await,
        Err(_) => std::future::pending().await,
    }
}
