//! `starmere init`.

use anyhow::Context;
use schemars::schema_for;

use crate::command_line::{Example, Init};
use crate::example::shop;
use crate::failure::Mendable;
use crate::output::{Output, bytes, count};
use crate::project::ProjectFile;

pub(super) fn run(arguments: &Init, output: &Output) -> anyhow::Result<()> {
    let into = &arguments.into;
    if arguments.schemas {
        return schemas(&into.join("schemas"), output);
    }
    if into.join("starmere.yaml").exists() {
        let hint = "name another folder";
        return Err(Mendable::error(format!("there is a project in `{}` already", into.display()), hint));
    }
    match arguments.example {
        Some(Example::Shop) => {
            let step = output.step(format!("writing the shop example to {}", into.display()));
            let size = shop::Size { orders: arguments.size };
            let written = shop::generate(into, size, arguments.seed)
                .with_context(|| format!("could not write the example to `{}`", into.display()))?;
            let events = written.customers + written.products + written.orders;
            step.done(format!(
                "{} events in {} files, {}; {} more to post over HTTP",
                count(events),
                written.files,
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

fn empty(into: &std::path::Path) -> std::io::Result<()> {
    for folder in ["streams", "domains", "policies"] {
        std::fs::create_dir_all(into.join(folder))?;
    }
    let name = into.canonicalize()?.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let text = format!(
        "project: {}\nwarehouse: ./warehouse\nsources: {{}}\nlisteners:\n  http: 127.0.0.1:7070\n  flight: 127.0.0.1:7071\n",
        if name.is_empty() { "project".to_owned() } else { name }
    );
    std::fs::write(into.join("starmere.yaml"), text)
}

fn schemas(folder: &std::path::Path, output: &Output) -> anyhow::Result<()> {
    use starmere_models::define::{DimensionFile, FactFile, StreamFile};
    std::fs::create_dir_all(folder).with_context(|| format!("could not make `{}`", folder.display()))?;
    let all = [
        ("project", schema_for!(ProjectFile)),
        ("stream", schema_for!(StreamFile)),
        ("dimension", schema_for!(DimensionFile)),
        ("fact", schema_for!(FactFile)),
        ("product", schema_for!(starmere_marts::define::ProductFile)),
    ];
    for (name, schema) in all {
        let path = folder.join(format!("{name}.json"));
        std::fs::write(&path, serde_json::to_string_pretty(&schema)?)
            .with_context(|| format!("could not write `{}`", path.display()))?;
    }
    output.say(format!("wrote 5 schemas to {}", folder.display()));
    Ok(())
}
