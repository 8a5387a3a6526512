//! Reads the files of a project: which there are, what they say, and which stand where nobody looks.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use starmere_models::define::{Parsed, Place, Problem, StreamFile, parse, parse_text, read_text};
use starmere_models::resolve::Definitions;

use super::starmere_yaml::ProjectFile;
use crate::failure::Mendable;
use crate::references::looked_up;
use crate::stamps::{Stamps, stamp};
use crate::variables::{Variables, advised};

/// The file that says where all else is.
pub(super) fn main_file(root: &Path) -> anyhow::Result<PathBuf> {
    let main = root.join("starmere.yaml");
    if main.is_file() {
        return Ok(main);
    }
    let hint = "go to a project's folder, name one with --project, or write one with `starmere init`";
    Err(Mendable::error(format!("there is no project in `{}`", root.display()), hint))
}

/// Reads `starmere.yaml`, which problems call `name`, with its references looked up.
pub(super) fn project_file(root: &Path, main: &Path, name: &str) -> Result<Parsed<ProjectFile>, Vec<Problem>> {
    let text = match std::fs::read_to_string(main) {
        Ok(text) => looked_up(root, &text, name)?,
        // This says why.
        Err(_) => return parse(main, name).map_err(|problem| vec![problem]),
    };
    parse_text(&text, name).map_err(|problem| vec![problem])
}

/// Reads the files of a project one after another.
pub(super) struct Reading {
    pub(super) root: PathBuf,
    pub(super) problems: Vec<Problem>,
    pub(super) read: BTreeSet<PathBuf>,
    pub(super) stamps: Stamps,
    /// None where they could not be read.
    pub(super) variables: Option<Variables>,
}

impl Reading {
    pub(super) fn name(&self, path: &Path) -> String {
        path.strip_prefix(&self.root).unwrap_or(path).display().to_string()
    }

    pub(super) fn project(&mut self, main: &Path) -> Option<Parsed<ProjectFile>> {
        self.read.insert(main.to_path_buf());
        self.stamps.insert(main.to_path_buf(), stamp(main));
        let name = self.name(main);
        let read = project_file(&self.root, main, &name);
        let file = read.map_err(|problems| self.problems.extend(problems)).ok()?;
        match Variables::of(&file.definition.variables, &name) {
            Ok(variables) => self.variables = Some(variables),
            Err(problems) => self.problems.extend(problems),
        }
        Some(file)
    }

    fn one<T: serde::de::DeserializeOwned>(&mut self, path: &Path) -> Option<Parsed<T>> {
        self.one_by(path, parse_text)
    }

    pub(super) fn one_by<T>(&mut self, path: &Path, parse: fn(&str, &str) -> Result<T, Problem>) -> Option<T> {
        self.read.insert(path.to_path_buf());
        self.stamps.insert(path.to_path_buf(), stamp(path));
        let name = self.name(path);
        let filled_in =
            read_text(path, &name).map_err(|problem| vec![problem]).and_then(|text| match &self.variables {
                Some(variables) => variables.filled_in(&text, &name),
                // What it would say follows from what starmere.yaml does not say rightly.
                None if text.contains("${") => Err(Vec::new()),
                None => Ok(text),
            });
        let parsed = filled_in.and_then(|text| parse(&text, &name).map_err(|problem| vec![advised(problem, &text)]));
        parsed.map_err(|problems| self.problems.extend(problems)).ok()
    }

    pub(super) fn all<T: serde::de::DeserializeOwned>(&mut self, folder: &Path) -> Vec<Parsed<T>> {
        yaml_files(folder).iter().filter_map(|path| self.one(path)).collect()
    }

    /// Reads the holidays that calendars declare.
    pub(super) fn holidays(&mut self, definitions: &mut Definitions) {
        for (_, parsed) in &mut definitions.dimensions {
            let Some(calendar) = &mut parsed.definition.calendar else { continue };
            let Some(file) = calendar.value.holidays.clone() else { continue };
            let path = self.root.join(&file);
            self.stamps.insert(path.clone(), stamp(&path));
            match std::fs::read_to_string(path) {
                Ok(text) => calendar.value.holidays_text = Some(text),
                Err(error) => {
                    let place = calendar.place(&parsed.file);
                    let problem = Problem::new(place, format!("`{file}` could not be read: {error}"));
                    self.problems.push(problem.hint("name a file of the project"));
                }
            }
        }
    }

    /// Reads the schemas that streams declare.
    pub(super) fn schemas(&mut self, streams: &mut [Parsed<StreamFile>]) {
        for stream in streams {
            let Some(schema) = &stream.definition.schema else { continue };
            let path = self.root.join(schema.as_str());
            self.stamps.insert(path.clone(), stamp(&path));
            match std::fs::read_to_string(path) {
                Ok(text) => stream.definition.schema_text = Some(text),
                Err(error) => {
                    let problem =
                        Problem::new(schema.place(&stream.file), format!("`{}` could not be read: {error}", &**schema));
                    self.problems.push(problem.hint("name a file of the project"));
                }
            }
        }
    }

    /// Tells of files that look like definitions and stand where nobody looks.
    pub(super) fn never_read(&mut self) {
        let all = ["streams", "domains"].iter().chain(&BESIDE);
        let all = all.flat_map(|folder| yaml_below(&self.root.join(folder), DEPTH));
        // Other programs have tests of theirs.
        let tests = yaml_below(&self.root.join("tests"), DEPTH).into_iter().filter(|path| is_test(path));
        let unread: Vec<PathBuf> = all.chain(tests).filter(|path| !self.read.contains(path)).collect();
        for path in unread {
            let file = self.name(&path);
            // Below a domain, its folder says what the file is.
            let folder = match file.split('/').collect::<Vec<_>>().as_slice() {
                ["domain" | "domains", _, folder, _, ..] | [folder, ..] => *folder,
                [] => "",
            };
            let belongs = BELONGS.iter().find(|(word, _)| folder.starts_with(word)).map_or(MODELS, |(_, words)| *words);
            let message = format!("is never read; {belongs}");
            let place = Place { file, line: 1, column: 1 };
            self.problems.push(Problem::new(place, message));
        }
    }
}

/// So deep are files looked for that stand in the wrong place.
pub(super) const DEPTH: usize = 5;
/// Folders of a project in which definitions are looked for that nobody reads there.
const BESIDE: [&str; 8] = ["dimensions", "domain", "facts", "model", "models", "product", "products", "stream"];
/// Where definitions belong, by how a folder is called.
const BELONGS: [(&str, &str); 3] = [
    ("stream", "streams are in streams/*.yaml"),
    ("product", "products are in domains/<domain>/products/*.yaml"),
    ("test", "tests are in domains/<domain>/tests/*.yaml"),
];
const MODELS: &str = "models are in domains/<domain>/models/*.yaml";

/// Whether a file looks like a test of a domain.
fn is_test(path: &Path) -> bool {
    std::fs::read_to_string(path).is_ok_and(|text| text.lines().any(|line| line.starts_with("test:")))
}

pub(super) fn yaml_below(folder: &Path, depth: usize) -> Vec<PathBuf> {
    let hidden = |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
    let mut found = yaml_files(folder);
    if depth > 0 {
        let folders = folders(folder).into_iter().filter(|folder| !hidden(folder));
        found.extend(folders.flat_map(|folder| yaml_below(&folder, depth - 1)));
    }
    found.retain(|path| !hidden(path));
    found
}

pub(super) fn folders(folder: &Path) -> Vec<PathBuf> {
    entries(folder).into_iter().filter(|path| path.is_dir()).collect()
}

pub(super) fn yaml_files(folder: &Path) -> Vec<PathBuf> {
    let is_yaml = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "yaml" || extension == "yml");
    entries(folder).into_iter().filter(|path| path.is_file()).filter(is_yaml).collect()
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> =
        std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    found.sort();
    found
}
