//! `starmere sql`.

use std::io::Read;
use std::sync::Arc;

use anyhow::Context;
use futures::TryStreamExt;
use starmere_lake::machine::Machine;
use starmere_sql::{Caller, Queries, Query, QueryError, View, Views};

use crate::command_line::Sql;
use crate::output::Output;
use crate::project::Opened;
use crate::views::ProjectViews;

/// Views of one snapshot, whatever is asked.
struct AsOf {
    views: ProjectViews,
    number: u64,
}

#[async_trait::async_trait]
impl Views for AsOf {
    async fn newest(&self) -> Result<View, QueryError> {
        self.views.at(self.number).await
    }
}

pub(super) async fn run(opened: &Opened, arguments: Sql, output: &Output) -> anyhow::Result<()> {
    let query = match arguments.query.as_str() {
        "-" => {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text).context("could not read the query")?;
            text
        }
        text => text.to_owned(),
    };
    let views = ProjectViews::new(opened).with_work();
    let views: Arc<dyn Views> = match arguments.as_of {
        Some(number) => Arc::new(AsOf { views, number }),
        None => Arc::new(views),
    };
    let queries = Queries::new(views, opened.project.file.queries.limits(Machine::here()));
    let caller = Caller::named("command line");
    let answer = queries.start(Query::new(query, caller)).await?;
    let schema = answer.schema.clone();
    let batches: Vec<_> = answer.batches.try_collect().await?;
    output.data(&schema, &batches)
}
