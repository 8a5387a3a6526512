//! What a build takes, and what it leaves as it is published: pure.
//!
//! ```text
//! build MODEL   takes what hangs together with it: a change of its ports is judged and accepted, and no other one
//! up            leaves out what hangs together with a change that is not accepted, where the rest is
//! ```
//!
//! Models hang together that share a stream, a table or a product (in all of its versions), by what is published or by
//! what is defined. So a snapshot fits together, and a product is published whole, whichever part is left out.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use starmere_lake::catalog::Pin;
use starmere_marts::meaning::{Described, Meaning, Port};
use starmere_models::resolve::Models;

use crate::held::owner;

/// Models and streams, by their names in the catalog.
pub(crate) type Names = BTreeSet<String>;

/// What a build takes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Part {
    /// Where it is none: all.
    names: Option<Names>,
}

impl Part {
    /// What hangs together with these.
    pub(crate) fn with(groups: &[Names], names: &Names) -> Self {
        Self::of(groups, |group| !group.is_disjoint(names))
    }

    /// All but what hangs together with these.
    pub(crate) fn without(groups: &[Names], names: &Names) -> Self {
        Self::of(groups, |group| group.is_disjoint(names))
    }

    fn of(groups: &[Names], is_taken: impl Fn(&Names) -> bool) -> Self {
        if groups.iter().all(&is_taken) {
            return Self::default();
        }
        Self { names: Some(groups.iter().filter(|group| is_taken(group)).flatten().cloned().collect()) }
    }

    pub(crate) fn is_all(&self) -> bool {
        self.names.is_none()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.names.as_ref().is_some_and(Names::is_empty)
    }

    /// Whether it has a table, by its name in the catalog.
    pub(crate) fn has(&self, table: &str) -> bool {
        self.names.as_ref().is_none_or(|names| names.contains(owner(table)))
    }

    /// The models of it, and their streams.
    pub(crate) fn models<'a>(&self, all: &'a Models) -> Cow<'a, Models> {
        if self.is_all() {
            return Cow::Borrowed(all);
        }
        let mut models = all.clone();
        models.models.retain(|model| self.has(&model.name().to_string()));
        models.streams.retain(|_, stream| self.has(&lake_name(&stream.domain, &stream.name)));
        Cow::Owned(models)
    }

    /// The ports of it.
    pub(crate) fn ports<'a>(&self, all: &'a Meaning) -> Cow<'a, Meaning> {
        if self.is_all() {
            return Cow::Borrowed(all);
        }
        let ports = all.ports.iter().filter(|port| self.has(&port.table)).cloned().collect();
        Cow::Owned(Meaning { ports, ..Meaning::default() })
    }

    /// What the next snapshot says of its tables: of what is left out, what the published one says.
    pub(crate) fn meaning(&self, before: &Meaning, now: &Meaning) -> Meaning {
        let ports = |of: &Meaning, is_taken: bool| -> Vec<Port> {
            of.ports.iter().filter(|port| self.has(&port.table) == is_taken).cloned().collect()
        };
        let described = |of: &[Described], is_taken: bool| -> Vec<Described> {
            of.iter().filter(|described| self.has(&described.name) == is_taken).cloned().collect()
        };
        Meaning {
            ports: [ports(now, true), ports(before, false)].concat(),
            models: [described(&now.models, true), described(&before.models, false)].concat(),
            streams: [described(&now.streams, true), described(&before.streams, false)].concat(),
        }
    }
}

/// The name of a stream in the catalog.
fn lake_name(domain: &str, stream: &str) -> String {
    format!("lake.{domain}.{stream}")
}

/// What hangs together, by what is published and by what is defined.
pub(crate) fn groups(
    (published, before): (&BTreeMap<String, Pin>, &Meaning),
    (models, now): (&Models, &Meaning),
) -> Vec<Names> {
    let mut links: Vec<Names> = Vec::new();
    for (table, pin) in published {
        links.push(pin.consumed.keys().chain([table]).map(|name| owner(name).to_owned()).collect());
    }
    links.extend(models.streams.values().map(|stream| Names::from([lake_name(&stream.domain, &stream.name)])));
    for model in &models.models {
        let mut link = Names::from([model.name().to_string()]);
        link.extend(model.inputs().into_iter().map(ToString::to_string));
        let streams = model.streams().into_iter().filter_map(|name| models.streams.get(name));
        link.extend(streams.map(|stream| lake_name(&stream.domain, &stream.name)));
        links.push(link);
    }
    let mut products: BTreeMap<(&str, &str), Names> = BTreeMap::new();
    for port in before.ports.iter().chain(&now.ports) {
        products.entry((port.domain.as_str(), port.product.as_str())).or_default().insert(port.table.clone());
    }
    links.extend(products.into_values());
    let mut groups: Vec<Names> = Vec::new();
    for mut link in links {
        let (joined, others): (Vec<Names>, Vec<Names>) =
            groups.into_iter().partition(|group| !group.is_disjoint(&link));
        link.extend(joined.into_iter().flatten());
        groups = others;
        groups.push(link);
    }
    groups
}

#[cfg(test)]
mod tests {
    use starmere_lake::paths::TablePath;

    use super::*;
    use crate::project::Project;

    const MAIN: &str = "project: p\nwarehouse: ./warehouse\n";

    /// A fact of the domain `d`, of a stream of its own name, and a product that shows it.
    fn write(root: &std::path::Path, name: &str) {
        let stream = format!(
            "stream: {name}_events\ndomain: d\nenvelope: {{ type: type, time: at }}\nevents:\n  sold: \
             {{ versions: {{ 1: {{ fields: {{ code: {{ type: string }}, pieces: {{ type: int }} }} }} }} }}\n"
        );
        let fact = format!(
            "fact: {name}\nfrom: {{ stream: {name}_events, event: sold }}\ngrain: [code]\n\
             degenerate: {{ code: {{}} }}\nmeasures: {{ pieces: {{}} }}\n"
        );
        let product = format!(
            "product: {name}\nversion: 1\nports:\n  {name}:\n    model: {name}\n    \
             columns: {{ pieces: {{ type: int }} }}\n"
        );
        for (file, text) in [
            ("starmere.yaml".to_owned(), MAIN.to_owned()),
            (format!("streams/{name}_events.yaml"), stream),
            (format!("domains/d/models/{name}.yaml"), fact),
            (format!("domains/d/products/{name}_v1.yaml"), product),
        ] {
            let path = root.join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
    }

    fn project(names: &[&str]) -> Project {
        let folder = tempfile::tempdir().unwrap();
        names.iter().for_each(|name| write(folder.path(), name));
        Project::load(folder.path()).unwrap()
    }

    fn names(of: &[&str]) -> Names {
        of.iter().map(|name| (*name).to_owned()).collect()
    }

    fn pin(name: &str, consumed: &[&str]) -> (String, Pin) {
        let consumed = consumed.iter().map(|input| ((*input).to_owned(), 1)).collect();
        (format!("d.{name}"), Pin { path: TablePath::model("d", name, "old", "rows"), version: 1, consumed })
    }

    fn found(published: &BTreeMap<String, Pin>, before: &Meaning, project: &Project) -> Vec<Names> {
        let mut groups = groups((published, before), (&project.models, &project.meaning));
        groups.sort();
        groups
    }

    #[test]
    fn models_hang_together_by_streams_tables_and_products() {
        let project = project(&["a", "b", "c"]);
        let alone = |name: &str| names(&[&format!("d.{name}"), &format!("lake.d.{name}_events")]);
        let (nothing, none) = (BTreeMap::new(), Meaning::default());
        assert_eq!(found(&nothing, &none, &project), [alone("a"), alone("b"), alone("c")]);
        // As it is published, one read another stream, and the changes of another model.
        let published = BTreeMap::from([pin("a", &["lake.d.b_events"])]);
        let both: Names = alone("a").union(&alone("b")).cloned().collect();
        assert_eq!(found(&published, &none, &project), [both.clone(), alone("c")]);
        let published = BTreeMap::from([pin("a", &["d.b/changes"])]);
        assert_eq!(found(&published, &none, &project), [both.clone(), alone("c")]);
        // An earlier version of the product shows another model, which may be gone.
        let mut before = project.meaning.clone();
        before.ports.retain(|port| port.product == "a");
        before.ports[0].table = "d.b".to_owned();
        assert_eq!(found(&nothing, &before, &project), [both, alone("c")]);
        before.ports[0].table = "d.gone".to_owned();
        let with_gone: Names = alone("a").union(&names(&["d.gone"])).cloned().collect();
        assert_eq!(found(&nothing, &before, &project), [with_gone, alone("b"), alone("c")]);
    }

    #[test]
    fn a_part_is_what_was_named_and_the_rest_what_was_not() {
        let project = project(&["a", "b"]);
        let groups = found(&BTreeMap::new(), &Meaning::default(), &project);
        let (with, without) = (Part::with(&groups, &names(&["d.a"])), Part::without(&groups, &names(&["d.b"])));
        assert_eq!(with, without);
        assert!(with.has("d.a/rejects") && with.has("lake.d.a_events") && !with.has("d.b") && !with.is_empty());
        let models = with.models(&project.models);
        assert_eq!((models.models.len(), models.streams.len()), (1, 1));
        assert!(Part::with(&groups, &names(&["d.a", "d.b"])).is_all());
        assert!(Part::without(&groups, &names(&["d.a", "d.b"])).is_empty());
        // What is left out is said as it was, and what is taken as it is.
        let mut before = project.meaning.clone();
        before.ports.iter_mut().for_each(|port| port.owner = Some("before".to_owned()));
        let next = with.meaning(&before, &project.meaning);
        let owners: Vec<(&str, Option<&str>)> =
            next.ports.iter().map(|port| (port.table.as_str(), port.owner.as_deref())).collect();
        assert_eq!(owners, [("d.a", None), ("d.b", Some("before"))]);
    }
}
