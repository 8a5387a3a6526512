//! `starmere init`.

use std::path::Path;

use anyhow::Context;
use schemars::schema_for;

use crate::command_line::{Example, HERE, Init};
use crate::example::shop;
use crate::failure::Mendable;
use crate::output::{Output, bytes, count, counted};
use crate::project::ProjectFile;
use crate::references;

pub(super) fn run(arguments: &Init, project: &Path, output: &Output) -> anyhow::Result<()> {
    let into = folder(arguments.into.as_deref(), project)?;
    if arguments.schemas {
        return schemas(&into.join("schemas"), output);
    }
    if into.join("starmere.yaml").exists() {
        let hint = "name another folder";
        return Err(Mendable::error(format!("there is a project in `{}` already", into.display()), hint));
    }
    match arguments.example {
        Some(Example::Shop) => {
            if let Some(path) = shop::in_the_way(into) {
                let message = format!("`{}` is there already, and the example would overwrite it", path.display());
                return Err(Mendable::error(message, "name a folder that is empty or does not exist"));
            }
            let step = output.step(format!("writing the shop example to {}", into.display()));
            let size = shop::Size { orders: arguments.size };
            let written = shop::generate(into, size, arguments.seed)
                .with_context(|| format!("could not write the example to `{}`", into.display()))?;
            let events = written.customers + written.products + written.orders;
            step.done(format!(
                "{} in {}, {}; {} more to post over HTTP",
                counted(events, "event", "events"),
                counted(written.files, "file", "files"),
                bytes(written.bytes),
                count(written.orders_to_post)
            ));
        }
        None => {
            empty(into).with_context(|| format!("could not write a project to `{}`", into.display()))?;
            output.say(format!(
                "wrote a project to {}; describe a stream in {}",
                into.display(),
                into.join("streams").display()
            ));
        }
    }
    Ok(())
}

/// The folder to write: the one named, or the project's.
fn folder<'a>(into: Option<&'a Path>, project: &'a Path) -> anyhow::Result<&'a Path> {
    match into {
        None => Ok(project),
        Some(into) if project == Path::new(HERE) => Ok(into),
        Some(into) => Err(Mendable::error(
            format!("two folders are named: `{}`, and `{}` by --project", into.display(), project.display()),
            "name one",
        )),
    }
}

fn empty(into: &Path) -> std::io::Result<()> {
    for folder in ["streams", "domains"] {
        std::fs::create_dir_all(into.join(folder))?;
    }
    let name = into.canonicalize()?.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let text = format!(
        "project: {}\nwarehouse: ./warehouse\nsources: {{}}\nlisteners:\n  http: 127.0.0.1:7070\n  flight: 127.0.0.1:7071\n",
        if name.is_empty() { "project".to_owned() } else { name }
    );
    std::fs::write(into.join("starmere.yaml"), text)
}

fn schemas(folder: &Path, output: &Output) -> anyhow::Result<()> {
    use starmere_models::define::{
        AccumulatingFile, AllocationFile, BridgeFile, DerivedFactFile, DimensionFile, FactFile, HierarchyFile,
        LedgerFile, PeriodicFile, RollupFile, ShrunkenFile, SqlFile, StreamFile,
    };
    std::fs::create_dir_all(folder).with_context(|| format!("could not make `{}`", folder.display()))?;
    let all = [
        ("project", schema_for!(ProjectFile)),
        ("stream", schema_for!(StreamFile)),
        ("dimension", schema_for!(DimensionFile)),
        ("fact", schema_for!(FactFile)),
        ("rollup", schema_for!(RollupFile)),
        ("sql", schema_for!(SqlFile)),
        ("derived_fact", schema_for!(DerivedFactFile)),
        ("periodic_snapshot", schema_for!(PeriodicFile)),
        ("accumulating_snapshot", schema_for!(AccumulatingFile)),
        ("ledger", schema_for!(LedgerFile)),
        ("allocation", schema_for!(AllocationFile)),
        ("bridge", schema_for!(BridgeFile)),
        ("shrunken_dimension", schema_for!(ShrunkenFile)),
        ("hierarchy", schema_for!(HierarchyFile)),
        ("test", schema_for!(crate::project_tests::TestFile)),
        ("product", schema_for!(starmere_marts::define::ProductFile)),
    ];
    let count = all.len();
    for (name, schema) in all {
        let path = folder.join(format!("{name}.json"));
        let mut schema = serde_json::to_value(schema)?;
        let pattern = if name == "project" { references::REFERENCE } else { references::VARIABLE };
        references::allow(&mut schema, pattern);
        std::fs::write(&path, serde_json::to_string_pretty(&schema)?)
            .with_context(|| format!("could not write `{}`", path.display()))?;
    }
    output.say(format!("wrote {count} schemas to {}", folder.display()));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_folder_is_written() {
        let (here, there, elsewhere) = (Path::new(HERE), Path::new("a"), Path::new("b"));
        assert_eq!(folder(None, here).unwrap(), here);
        assert_eq!(folder(Some(there), here).unwrap(), there);
        assert_eq!(folder(None, elsewhere).unwrap(), elsewhere);
        assert_eq!(crate::failure::status(&folder(Some(there), elsewhere).unwrap_err()), 1);
    }
}
