//! Where events come from: the sources of `starmere.yaml`, checked and made ready.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use croner::Cron;
use croner::parser::{CronParser, Seconds};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use starmere_ingest::envelope::TIMESTAMP;
use starmere_ingest::files;
use starmere_ingest::kafka::{self, Membership, OURS, Registry, Start};

use starmere_lake::formats::{Convention, Encoding};
use starmere_models::define::StreamFile;

use crate::project::{is_whole, resolved};

/// A source: files or topics, and the stream they feed.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct SourceFile {
    pub(crate) stream: String,
    /// A file, a folder or a glob.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) files: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) kafka: Option<KafkaFile>,
    /// When `up` and `ingest` drain the source, as cron writes it (UTC); without it, they follow it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) schedule: Option<String>,
}

/// Topics of a Kafka cluster.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct KafkaFile {
    /// Addresses to begin with: `host:port`, with commas between them; may hold references.
    pub(crate) brokers: String,
    /// Names, or patterns that begin with `^`.
    pub(crate) topics: Vec<String>,
    /// The consumer group whose members share the partitions; without it, `starmere.PROJECT.SOURCE.ID`, where ID is the
    /// beginning of the id of the stream's table.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) group: Option<String>,
    /// These partitions of each topic, and no group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) partitions: Option<Vec<i32>>,
    /// Where a partition begins of which nothing has landed: `earliest` (the default), `latest`, or a time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) start: Option<String>,
    /// Where single partitions begin: topic, partition, offset.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) offsets: BTreeMap<String, BTreeMap<i32, i64>>,
    /// The schema registry of payloads in Confluent's wire format.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) registry: Option<RegistryFile>,
    /// Settings of librdkafka's; values may hold references.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) settings: BTreeMap<String, String>,
}

/// A schema registry.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct RegistryFile {
    /// Of http or https; may hold references.
    pub(crate) url: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) user: Option<String>,
    /// A reference: `${env:NAME}` or `${file:PATH}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) password: Option<String>,
}

impl RegistryFile {
    fn open(&self, root: &Path) -> anyhow::Result<Registry> {
        let optional = |text: &Option<String>| text.as_ref().map(|text| resolved(root, text)).transpose();
        let (user, password) = (optional(&self.user)?, optional(&self.password)?);
        Ok(Registry::new(&resolved(root, &self.url)?, user.map(|user| (user, password)))?)
    }
}

/// What is wrong with a source, and what to do.
pub(crate) type Wrong = (String, String);

pub(crate) fn wrong(message: impl Into<String>, hint: impl Into<String>) -> Wrong {
    (message.into(), hint.into())
}

impl SourceFile {
    /// What is wrong with it; `root` is the project's folder.
    pub(crate) fn mistakes(&self, root: &Path) -> Vec<Wrong> {
        let mut mistakes = self.where_from(root);
        mistakes.extend(self.schedule().err());
        mistakes
    }

    /// Why it cannot feed a stream, and what to do.
    pub(crate) fn misfit(&self, stream: &StreamFile) -> Option<Wrong> {
        let name = stream.stream.as_str();
        let is_confluent = matches!(stream.format().encoding, Encoding::Confluent);
        let asks_when = stream.envelope.time.as_deref() == Some(TIMESTAMP)
            || (stream.envelope.time.is_none() && stream.format().convention == Some(Convention::Outbox));
        match &self.kafka {
            Some(kafka) if is_confluent && kafka.registry.is_none() => Some(wrong(
                format!("feeds `{name}`, whose payloads name their schemas, and names no `registry`"),
                "write `registry: { url: … }` below `kafka`",
            )),
            Some(_) if matches!(stream.format().encoding, Encoding::Csv { .. }) => Some(wrong(
                format!("feeds `{name}`, whose records of `csv` have their header in files and requests only"),
                "read files, or write another `format` into the stream's definition",
            )),
            None if is_confluent => Some(wrong(
                format!("feeds `{name}`, whose payloads come by Kafka only"),
                "write `format: avro` or another one into the stream's definition, or read a topic",
            )),
            None if asks_when => Some(wrong(
                format!("feeds `{name}`, whose time is when the source got an event, and files do not say that"),
                "name a path in `time`, or read a topic",
            )),
            _ => None,
        }
    }

    /// When the source is drained.
    pub(crate) fn schedule(&self) -> Result<Option<Cron>, Wrong> {
        let Some(schedule) = &self.schedule else { return Ok(None) };
        let hint =
            "write minute, hour, day, month, weekday, such as \"*/15 * * * *\"; a sixth field in front is the second";
        if schedule.split_whitespace().count() > 6 {
            return Err(wrong(format!("`{schedule}` is no schedule: it has more than six fields"), hint));
        }
        let parser = CronParser::builder().seconds(Seconds::Optional).build();
        let parsed =
            parser.parse(schedule).map_err(|error| wrong(format!("`{schedule}` is no schedule: {error}"), hint))?;
        if parsed.find_next_occurrence(&chrono::Utc::now(), false).is_err() {
            return Err(wrong(format!("`{schedule}` never comes"), "name a day that there is"));
        }
        Ok(Some(parsed))
    }

    fn where_from(&self, root: &Path) -> Vec<Wrong> {
        match (&self.files, &self.kafka) {
            (Some(files), None) if root.join(files).exists() => Vec::new(),
            (Some(files), None) => wrong_files(files).into_iter().collect(),
            (None, Some(kafka)) => kafka.mistakes(),
            (Some(_), Some(_)) => {
                vec![wrong("the source has both `files` and `kafka`", "make two sources; both may feed the stream")]
            }
            (None, None) => {
                vec![wrong(
                    "the source says not where events come from",
                    "write `files: PATH`, or `kafka:` with topics",
                )]
            }
        }
    }
}

fn wrong_files(pattern: &str) -> Option<Wrong> {
    let error = files::check_pattern(Path::new(pattern)).err()?;
    Some(wrong(error.to_string(), error.hint().unwrap_or_default()))
}

impl KafkaFile {
    fn mistakes(&self) -> Vec<Wrong> {
        let mut mistakes = Vec::new();
        if self.brokers.trim().is_empty() {
            mistakes.push(wrong("`brokers` names no broker", "write `host:port`"));
        }
        if self.topics.iter().all(|topic| topic.trim().is_empty()) {
            mistakes.push(wrong("`topics` names no topic", "name one, or write a pattern such as ^orders"));
        }
        if let (Some(_), Some(_)) = (&self.group, &self.partitions) {
            let hint = "a group's members share the partitions; to read certain ones, leave `group` out";
            mistakes.push(wrong("the source has both `group` and `partitions`", hint));
        }
        for pattern in self.topics.iter().filter(|topic| topic.starts_with('^')) {
            if let Err(reason) = kafka::check_pattern(pattern) {
                mistakes.push(wrong(
                    format!("`{pattern}` is not a pattern of topics: {reason}"),
                    "write a regular expression",
                ));
            }
        }
        let has_port = |broker: &str| {
            broker.contains("${") || broker.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok())
        };
        if let Some(broker) =
            self.brokers.split(',').map(str::trim).find(|broker| !broker.is_empty() && !has_port(broker))
        {
            mistakes.push(wrong(format!("`{broker}` names no port"), "write `host:port`"));
        }
        let has_pattern = self.topics.iter().any(|topic| topic.starts_with('^'));
        if self.partitions.is_some() && has_pattern {
            mistakes.push(wrong("`partitions` does not go with a pattern of topics", "name the topics"));
        }
        if let Err(mistake) = self.start() {
            mistakes.push(mistake);
        }
        if self.partitions.as_ref().is_some_and(Vec::is_empty) {
            mistakes.push(wrong("`partitions` names none", "name some, or leave it out: then all are read"));
        }
        if let Some(number) = self.partitions.iter().flatten().find(|number| **number < 0) {
            mistakes.push(wrong(format!("there is no partition {number}"), "partitions are counted from 0"));
        }
        // As Kafka has them.
        let is_name = |topic: &str| {
            topic.len() <= 249
                && topic.chars().all(|letter| letter.is_ascii_alphanumeric() || matches!(letter, '.' | '_' | '-'))
        };
        let named = self.topics.iter().map(|topic| topic.trim()).filter(|topic| !topic.is_empty());
        if let Some(topic) = named.filter(|topic| !topic.starts_with('^')).find(|topic| !is_name(topic)) {
            let hint = "write letters, digits, `.`, `_` and `-`; a pattern begins with `^`";
            mistakes.push(wrong(format!("`{topic}` is not the name of a topic"), hint));
        }
        for (topic, offsets) in &self.offsets {
            if !has_pattern && !self.topics.contains(topic) {
                let known = self.topics.iter().map(String::as_str);
                let hint = starmere_models::define::suggestion(topic, known);
                mistakes.push(wrong(format!("`offsets` names `{topic}`, which is not read"), hint));
            }
            if offsets.iter().any(|(partition, offset)| *partition < 0 || *offset < 0) {
                let message = format!("`offsets` of `{topic}` has a number below 0");
                mistakes.push(wrong(message, "partitions and offsets are counted from 0"));
            }
        }
        for (name, reason) in OURS.iter().filter(|(name, _)| self.settings.contains_key(*name)) {
            mistakes.push(wrong(format!("`{name}` is no setting of a source's"), *reason));
        }
        let ours = |name: &str| OURS.iter().any(|(ours, _)| *ours == name);
        for (name, value) in self.settings.iter().filter(|(name, value)| !ours(name) && !value.contains("${")) {
            if let Err(reason) = kafka::check_setting(name, value) {
                mistakes.push(wrong(format!("the setting `{name}`: {reason}"), "see librdkafka's list of settings"));
            }
        }
        let of_registry = self.registry.iter().flat_map(|registry| {
            [Some(&registry.url), registry.user.as_ref(), registry.password.as_ref()].into_iter().flatten()
        });
        let texts = self.settings.values().chain([&self.brokers]).chain(of_registry);
        for text in texts.filter(|text| !is_whole(text)) {
            mistakes.push(wrong(
                format!("`{text}` has a reference that is not whole"),
                "write ${env:NAME} or ${file:PATH}",
            ));
        }
        if let Some(registry) = &self.registry {
            if let Some(mistake) =
                (!registry.url.contains("${")).then(|| Registry::new(&registry.url, None).err()).flatten()
            {
                mistakes.push(wrong(mistake.to_string(), "write http://host:port or https://host"));
            }
            if registry
                .url
                .split_once("://")
                .is_some_and(|(_, rest)| rest.split('/').next().unwrap_or(rest).contains('@'))
            {
                mistakes.push(wrong("the registry's `url` names a user", "write `user:` and `password: ${env:NAME}`"));
            }
            if registry.password.as_ref().is_some_and(|password| !password.contains("${")) {
                mistakes
                    .push(wrong("the registry's `password` stands in the file", "write ${env:NAME} or ${file:PATH}"));
            }
        }
        let secrets = ["sasl.password", "ssl.key.password", "ssl.key.pem", "sasl.oauthbearer.client.secret"];
        for name in secrets {
            if self.settings.get(name).is_some_and(|value| !value.contains("${")) {
                mistakes.push(wrong(format!("`{name}` stands in the file"), "write ${env:NAME} or ${file:PATH}"));
            }
        }
        mistakes
    }

    fn start(&self) -> Result<Start, Wrong> {
        match self.start.as_deref() {
            Some(_) if !self.offsets.is_empty() => Err(wrong(
                "the source has both `start` and `offsets`",
                "leave `start` out: the rest begins at its earliest",
            )),
            None if !self.offsets.is_empty() => Ok(Start::Offsets(self.offsets.clone())),
            None | Some("earliest") => Ok(Start::Earliest),
            Some("latest") => Ok(Start::Latest),
            Some(time) => match starmere_lake::time::micros(time) {
                Some(micros) => Ok(Start::Time(micros.div_euclid(1000))),
                None => {
                    let hint = "write earliest, latest, or a time such as 2024-01-31T00:00:00Z";
                    Err(wrong(format!("`{time}` is no place to start"), hint))
                }
            },
        }
    }

    /// The consumer group of the source `name` of `project`, but for what the stream's table adds to the default; none
    /// where it reads certain partitions.
    fn group(&self, project: &str, name: &str) -> Option<String> {
        match (&self.group, &self.partitions) {
            (_, Some(_)) => None,
            (Some(group), None) => Some(group.clone()),
            // The members of one group share the records of a topic, so no two sources may have the same.
            (None, None) => Some(format!("starmere.{project}.{name}")),
        }
    }

    /// A topic that both read, where that can be told from the definitions.
    fn common_topic<'a>(&'a self, other: &'a Self) -> Option<&'a str> {
        let reads = |wanted: &str, topic: &str| match wanted.starts_with('^') {
            true => wanted == topic || kafka::matches(wanted, topic),
            false => wanted == topic,
        };
        let of = |one: &'a Self, other: &Self| {
            let read = |topic: &&String| other.topics.iter().any(|wanted| reads(wanted, topic));
            one.topics.iter().find(read).map(String::as_str)
        };
        of(self, other).or_else(|| of(other, self))
    }

    /// The source `name` of `project`, with its references looked up.
    pub(crate) fn source(&self, project: &str, name: &str, root: &Path) -> anyhow::Result<kafka::Source> {
        let mut settings = BTreeMap::new();
        for (setting, value) in &self.settings {
            settings.insert(setting.clone(), resolved(root, value)?);
        }
        settings.insert("bootstrap.servers".to_owned(), resolved(root, &self.brokers)?);
        let membership = match self.group(project, name) {
            Some(group) if self.group.is_some() => Membership::Group(group),
            Some(group) => Membership::OfTable(group),
            None => {
                let distinct: BTreeSet<i32> = self.partitions.iter().flatten().copied().collect();
                Membership::Partitions(distinct.into_iter().collect())
            }
        };
        let start = self.start().map_err(|(message, hint)| crate::failure::Mendable::error(message, hint))?;
        let registry = self.registry.as_ref().map(|registry| registry.open(root)).transpose()?;
        Ok(kafka::Source { name: name.to_owned(), topics: self.topics.clone(), membership, start, registry, settings })
    }
}

/// Sources that join one group and read one topic: each would get a part of its records. The later one is named.
pub(crate) fn sharing<'a>(
    project: &str,
    sources: impl Iterator<Item = (&'a str, &'a KafkaFile)>,
) -> Vec<(&'a str, Wrong)> {
    let sources: Vec<(&str, &KafkaFile)> = sources.collect();
    let mut found = Vec::new();
    for (number, (name, kafka)) in sources.iter().enumerate() {
        let Some(group) = kafka.group(project, name) else { continue };
        let same = |(other, of): &&(&str, &KafkaFile)| of.group(project, other).as_ref() == Some(&group);
        let shares =
            sources[..number].iter().filter(same).find_map(|(other, of)| Some((other, kafka.common_topic(of)?)));
        if let Some((other, topic)) = shares {
            let message = format!(
                "the sources `{other}` and `{name}` read `{topic}` in the group `{group}`, so each would get a part of it"
            );
            found.push((*name, wrong(message, "leave `group` out, or name another one for each source")));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_of_one_group_and_one_topic_are_refused() {
        let of = |topics: &[&str], group: Option<&str>, partitions: Option<Vec<i32>>| KafkaFile {
            brokers: "localhost:9092".into(),
            topics: topics.iter().map(|&topic| topic.to_owned()).collect(),
            group: group.map(str::to_owned),
            partitions,
            start: None,
            offsets: BTreeMap::new(),
            registry: None,
            settings: BTreeMap::new(),
        };
        let shared = |first: KafkaFile, second: KafkaFile| {
            let sources = [("a", &first), ("b", &second)];
            sharing("shop", sources.into_iter())
                .into_iter()
                .map(|(name, (message, _))| format!("{name}: {message}"))
                .next()
        };
        let words = "b: the sources `a` and `b` read `t` in the group `g`, so each would get a part of it";
        assert_eq!(shared(of(&["t"], Some("g"), None), of(&["s", "t"], Some("g"), None)).as_deref(), Some(words));
        assert_eq!(shared(of(&["^t.*"], Some("g"), None), of(&["t"], Some("g"), None)).as_deref(), Some(words));
        assert_eq!(shared(of(&["t"], Some("g"), None), of(&["^t.*"], Some("g"), None)).as_deref(), Some(words));
        assert!(shared(of(&["^t"], Some("g"), None), of(&["^t"], Some("g"), None)).is_some());
        assert_eq!(shared(of(&["t"], None, None), of(&["t"], None, None)), None, "by default, each has its own");
        assert_eq!(shared(of(&["t"], Some("g"), None), of(&["t"], Some("h"), None)), None);
        assert_eq!(shared(of(&["t"], Some("g"), None), of(&["s"], Some("g"), None)), None);
        assert_eq!(shared(of(&["t"], None, Some(vec![0])), of(&["t"], None, Some(vec![1]))), None);
        assert_eq!(of(&["t"], None, None).group("shop", "orders").as_deref(), Some("starmere.shop.orders"));
    }

    fn kafka(change: impl FnOnce(&mut KafkaFile)) -> Vec<String> {
        let mut file = KafkaFile {
            brokers: "localhost:9092".into(),
            topics: vec!["orders".into()],
            group: None,
            partitions: None,
            start: None,
            offsets: BTreeMap::new(),
            registry: None,
            settings: BTreeMap::new(),
        };
        change(&mut file);
        file.mistakes().into_iter().map(|(message, _)| message).collect()
    }

    fn setting(name: &str, value: &str) -> Vec<String> {
        kafka(|file| _ = file.settings.insert(name.into(), value.into()))
    }

    #[test]
    fn mistakes_are_told() {
        let none: [&str; 0] = [];
        assert_eq!(kafka(|_| ()), none);
        assert_eq!(kafka(|file| file.start = Some("2024-01-31T00:00:00Z".into())), none);
        assert_eq!(kafka(|file| file.start = Some("soon".into())), ["`soon` is no place to start"]);
        assert_eq!(kafka(|file| file.topics.clear()), ["`topics` names no topic"]);
        let both = kafka(|file| (file.group, file.partitions) = (Some("g".into()), Some(vec![0])));
        assert_eq!(both, ["the source has both `group` and `partitions`"]);
        assert_eq!(setting("group.id", "g"), ["`group.id` is no setting of a source's"]);
        assert_eq!(kafka(|file| file.topics = vec!["a b".into()]), ["`a b` is not the name of a topic"]);
        assert_eq!(kafka(|file| file.partitions = Some(vec![])), ["`partitions` names none"]);
        assert_eq!(kafka(|file| file.partitions = Some(vec![0, -1])), ["there is no partition -1"]);
        let offsets = |topic: &str, offset| {
            let offsets = BTreeMap::from([(topic.to_owned(), BTreeMap::from([(0, offset)]))]);
            kafka(|file| file.offsets = offsets)
        };
        assert_eq!(offsets("orders", 7), none);
        assert_eq!(offsets("orders", -1), ["`offsets` of `orders` has a number below 0"]);
        assert_eq!(offsets("order", 7), ["`offsets` names `order`, which is not read"]);
        let unknown = setting("no.such.setting", "1");
        assert_eq!(unknown, ["the setting `no.such.setting`: No such configuration property: \"no.such.setting\""]);
        assert_eq!(setting("session.timeout.ms", "soon").len(), 1);
        assert_eq!(setting("session.timeout.ms", "10000"), none);
        assert_eq!(setting("sasl.password", "secret"), ["`sasl.password` stands in the file"]);
        assert_eq!(setting("sasl.password", "${env:PASSWORD}"), none);
        assert_eq!(setting("sasl.password", "${env:PASSWORD"), ["`${env:PASSWORD` has a reference that is not whole"]);
    }

    #[test]
    fn schedules_are_checked() {
        let source = |schedule: &str| SourceFile {
            stream: "s".into(),
            files: Some("in".into()),
            kafka: None,
            schedule: Some(schedule.into()),
        };
        assert!(source("*/15 * * * *").mistakes(Path::new(".")).is_empty());
        for wrong in ["", "soon", "61 * * * *", "* * * *", "0 0 30 2 *", "* * * * * * *"] {
            assert_eq!(source(wrong).mistakes(Path::new(".")).len(), 1, "{wrong}");
        }
    }

    #[test]
    fn globs_are_checked() {
        for right in ["*", "a/**/*.{gz,zst}", "[]a]", "[!a-z]x", "{a,{b,c}}", "\\{a*"] {
            assert_eq!(wrong_files(right), None, "{right}");
        }
        for wrong in ["[", "[a", "[]", "{a", "[z-a]", "*\\"] {
            assert!(wrong_files(wrong).is_some(), "{wrong}");
        }
    }
}
