//! The commands: each loads the project, calls the rooms, prints.

mod copies;
mod definitions;
mod infer;
mod ingest;
mod init;
mod inspect;
mod plan;
mod rejects;
mod serve;
mod sql;
mod trace;
mod upkeep;
mod verify;

use std::sync::Arc;

use crate::command_line::{Command, CommandLine, Products, ProductsCommand, Streams, StreamsCommand};
use crate::failure::Mendable;
use crate::output::Output;
use crate::project::{Opened, Project, catalog_of};
use crate::publish;

pub(crate) async fn run(line: CommandLine, output: &Output) -> anyhow::Result<()> {
    let root = line.global.project;
    let environment = line.global.env;
    let open = || -> anyhow::Result<Opened> { Project::load(&root)?.open(environment.as_deref()) };
    // Whoever writes to a store that breaks its promises loses events without a word.
    let open_to_write = async || -> anyhow::Result<Opened> {
        let opened = open()?;
        opened.warehouse.store().try_promises().await?;
        Ok(opened)
    };
    if environment.is_some() && matches!(line.command, Command::Ingest(_) | Command::Up(_)) {
        let hint = "land without --env, and build with it";
        return Err(Mendable::error("environments share the streams, and publish for themselves alone", hint));
    }
    match line.command {
        Command::Init(arguments) => init::run(&arguments, &root, output),
        Command::Check => definitions::check(&Arc::new(Project::load(&root)?), output).await,
        Command::Plan => plan::plan(&open()?, output).await,
        Command::Products(Products { what: None }) => definitions::products(&Project::load(&root)?, output),
        Command::Products(Products { what: Some(ProductsCommand::Matrix) }) => {
            definitions::matrix(&Project::load(&root)?, output)
        }
        Command::Streams(Streams { what: None }) => inspect::streams(&open()?, output).await,
        Command::Streams(Streams { what: Some(StreamsCommand::Infer(arguments)) }) => {
            infer::run(&open()?, &arguments, output).await
        }
        Command::Streams(Streams { what: Some(StreamsCommand::Copies(arguments)) }) => {
            copies::run(&open()?, &arguments, output).await
        }
        Command::Status(arguments) => inspect::status(&open()?, &arguments, output).await,
        Command::Rejects(arguments) => rejects::run(&open()?, &arguments, output).await,
        Command::Ingest(arguments) => ingest::run(&open_to_write().await?, &arguments, output).await,
        Command::Build(arguments) => {
            let (step, snapshot) = match arguments.back_to {
                // The way back is there when definitions are wrong, too.
                Some(number) => {
                    let step = output.step("build");
                    (step, publish::back_to(&catalog_of(&root, environment.as_deref())?, number).await?)
                }
                None => {
                    let opened = open_to_write().await?;
                    let how = publish::How {
                        full: arguments.full,
                        accepted_losses: arguments.accept_loss,
                        accepted_breaks: arguments.accept_breaking,
                    };
                    let how = publish::asked(&opened, how, output).await?;
                    let step = output.step("build");
                    (step, publish::build_and_publish(&opened, &arguments.models, &how, output).await?)
                }
            };
            step.done(format!("catalog snapshot {}", snapshot.number));
            Ok(())
        }
        Command::Serve(arguments) => serve::run(&open()?, &arguments, false, output).await,
        Command::Up(arguments) => serve::run(&open_to_write().await?, &arguments, true, output).await,
        Command::Sql(arguments) => sql::run(&open()?, arguments, output).await,
        Command::Trace(arguments) => trace::run(&open()?, &arguments, output).await,
        Command::Upkeep(arguments) => upkeep::run(&open_to_write().await?, &arguments, output).await,
        Command::Verify(arguments) => verify::run(&open()?, &arguments, output).await,
    }
}

/// How long landing may take when told to stop.
const TO_STOP: std::time::Duration = std::time::Duration::from_secs(10);

/// Waits for SIGINT or SIGTERM.
pub(super) async fn told_to_stop() {
    let terminate = async {
        match tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) {
            Ok(mut signal) => {
                signal.recv().await;
            }
            Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        () = terminate => {}
    }
}
