//! From events to the lines of files: what is sent arrives late, twice, out of order and sometimes broken.

use std::fs;
use std::io;
use std::path::Path;

use super::json::{Object, Style};
use super::random::Random;
use super::time::{self, DAY, Micros, SECOND};

/// An event as its producer knows it. Two events with one id are copies that differ.
#[derive(Clone)]
pub(super) struct Event<B> {
    pub(super) id: Option<u32>,
    pub(super) at: Micros,
    pub(super) body: B,
}

/// What a kind of event adds to the envelope.
pub(super) trait Body {
    fn event_type(&self) -> &'static str;
    fn version(&self) -> u8;
    fn write(&self, object: &mut Object, random: &mut Random);
}

/// A line that holds an event. `file` and `position` order lines as topic and position order rows in the lake.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Landed {
    pub(super) at: Micros,
    pub(super) source: Source,
    pub(super) file: u32,
    pub(super) position: u64,
    /// Which of the stream's events.
    pub(super) event: u32,
}

/// In the order of the sources' names: of one stream's sources, `http` and `order_files`, the former is less.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Source {
    Http,
    Files,
}

#[derive(Default)]
pub(super) struct Written {
    pub(super) landed: Vec<Landed>,
    pub(super) lines: u64,
    pub(super) broken: u64,
    pub(super) files: u64,
    pub(super) bytes: u64,
}

enum Slot {
    Event(u32),
    Broken(usize),
}

/// Writes a stream's events to `FOLDER/NAME-0001.jsonl` and so on, in the order of their arrival, with copies
/// and broken lines among them.
pub(super) fn write_files<B: Body>(folder: &Path, name: &str, events: &[Event<B>], seed: u64) -> io::Result<Written> {
    fs::create_dir_all(folder)?;
    let slots = arrivals(events, &mut Random::of(seed, 1));
    let files = (slots.len() / 2500).clamp(3, 64);
    let mut written = Written { landed: Vec::with_capacity(slots.len()), ..Written::default() };
    for (file, slots) in slots.chunks(slots.len().div_ceil(files)).enumerate() {
        let mut content = Vec::new();
        for slot in slots {
            let position = content.len() as u64;
            match *slot {
                Slot::Event(event) => {
                    let at = events[event as usize].at;
                    written.landed.push(Landed { at, source: Source::Files, file: file as u32, position, event });
                    content.extend(line(events, event, seed).into_bytes());
                }
                Slot::Broken(nth) => {
                    written.broken += 1;
                    content.extend(broken(nth, events, seed));
                }
            }
            content.push(b'\n');
        }
        fs::write(folder.join(format!("{name}-{:04}.jsonl", file + 1)), &content)?;
        written.lines += slots.len() as u64;
        written.files += 1;
        written.bytes += content.len() as u64;
    }
    Ok(written)
}

/// Writes the batch that is to be posted: events from `first` on, some of them twice, and copies of a few that
/// are in files.
pub(super) fn write_batch<B: Body>(path: &Path, events: &[Event<B>], first: usize, seed: u64) -> io::Result<Written> {
    let mut random = Random::of(seed, 3);
    let mut content = String::new();
    let mut written = Written { files: 1, ..Written::default() };
    for new in first..events.len() {
        let mut send = vec![new];
        if random.per_mille(30) {
            send.push(first + random.below(new + 1 - first));
        }
        if random.per_mille(30) {
            send.push(random.below(first));
        }
        for event in send.into_iter().filter(|event| events[*event].id.is_some()) {
            let position = content.len() as u64;
            let at = events[event].at;
            written.landed.push(Landed { at, source: Source::Http, file: 0, position, event: event as u32 });
            content.push_str(&line(events, event as u32, seed));
            content.push('\n');
            written.lines += 1;
        }
    }
    written.bytes = content.len() as u64;
    fs::write(path, content)?;
    Ok(written)
}

/// Events, copies and broken lines in the order in which they arrive.
fn arrivals<B>(events: &[Event<B>], random: &mut Random) -> Vec<Slot> {
    let mut slots = Vec::with_capacity(events.len() + events.len() / 40 + 64);
    for (place, event) in events.iter().enumerate() {
        let arrives = event.at + delay(random);
        slots.push((arrives, Slot::Event(place as u32)));
        if event.id.is_some() && random.per_mille(20) {
            let again = random.between(60 * SECOND, 30 * DAY);
            slots.push((arrives + again, Slot::Event(place as u32)));
            if random.per_mille(100) {
                slots.push((arrives + 2 * again, Slot::Event(place as u32)));
            }
        }
    }
    let first = slots.iter().map(|slot| slot.0).min().unwrap_or_default();
    let last = slots.iter().map(|slot| slot.0).max().unwrap_or_default();
    for nth in 0..(events.len() / 500).max(BROKEN.len()) {
        slots.push((random.between(first, last), Slot::Broken(nth)));
    }
    slots.sort_by_key(|slot| slot.0);
    slots.into_iter().map(|slot| slot.1).collect()
}

/// How long an event is under way: seconds as a rule, weeks when a till has been offline.
fn delay(random: &mut Random) -> Micros {
    match random.below(100) {
        0..80 => random.between(0, 30 * SECOND),
        80..92 => random.between(SECOND, DAY / 6),
        92..98 => random.between(DAY / 6, 4 * DAY),
        _ => random.between(4 * DAY, 40 * DAY),
    }
}

/// What can be wrong with an envelope.
#[derive(Clone, Copy, PartialEq)]
enum Flaw {
    None,
    NoType,
    NoTime,
    Time(&'static str),
}

/// The bytes of an event; each copy has the same.
fn line<B: Body>(events: &[Event<B>], event: u32, seed: u64) -> String {
    envelope(&events[event as usize], Flaw::None, &mut Random::of(seed ^ 2, event.into()))
}

fn envelope<B: Body>(event: &Event<B>, flaw: Flaw, random: &mut Random) -> String {
    let mut object = Object::new(Style::draw(random));
    if let Some(id) = event.id {
        object.text("event_id", &format!("evt-{id:07}"));
    }
    if flaw != Flaw::NoType {
        object.text("type", event.body.event_type());
    }
    if event.body.version() > 1 || random.per_mille(200) {
        object.json("version", event.body.version().to_string());
    }
    match flaw {
        Flaw::NoTime => {}
        Flaw::Time(text) => object.text("occurred_at", text),
        Flaw::None | Flaw::NoType => object.text("occurred_at", &time::as_some_write_it(event.at, random)),
    }
    event.body.write(&mut object, random);
    if random.per_mille(50) {
        let mut meta = object.inner();
        meta.text("type", "trace");
        meta.text("event_id", "none");
        meta.text("occurred_at", "1999-12-31T23:59:59Z");
        meta.json("version", "9");
        object.object("meta", meta);
    }
    if random.per_mille(30) {
        object.text("note", "said \"{\"type\":\"order_placed\"}\" \\ and left\n\u{1F44B} naïve");
    }
    object.write()
}

/// Turns a good line (or nothing) into one that no envelope can be read from.
type Breaking = fn(Good<'_>) -> Vec<u8>;

struct Good<'a> {
    with: &'a dyn Fn(Flaw) -> String,
    cut: u64,
}

impl Good<'_> {
    fn line(&self) -> String {
        (self.with)(Flaw::None)
    }

    /// The line with `more` before its last brace.
    fn and(&self, more: &[u8]) -> Vec<u8> {
        let mut line = self.line().into_bytes();
        line.pop();
        line.extend(more);
        line.push(b'}');
        line
    }
}

/// Every way in which a line can be broken; each stream has each at least once.
const BROKEN: [Breaking; 18] = [
    |_| b"Internal Server Error".to_vec(),
    |good| {
        let mut line = good.line().into_bytes();
        line.truncate(1 + good.cut as usize % (line.len() - 1));
        line
    },
    |good| (good.with)(Flaw::NoType).into_bytes(),
    |good| (good.with)(Flaw::NoTime).into_bytes(),
    |good| good.and(b",\"note\":\"caf\xe9\""),
    |_| Vec::new(),
    |good| (good.with)(Flaw::Time("yesterday")).into_bytes(),
    |good| (good.with)(Flaw::Time("2024-13-45T25:00:00Z")).into_bytes(),
    |good| good.and(b","),
    |good| good.and(b",\"weight\":NaN"),
    |good| good.and(b",\"weight\":007"),
    |good| good.and(b",\"note\":\"a\tb\""),
    |good| good.and(b",\"note\":\"a\\x41\""),
    |good| good.line().replace('"', "'").into_bytes(),
    |good| [good.line(), good.line()].concat().into_bytes(),
    |_| b"[1,2,3]".to_vec(),
    |_| b"null".to_vec(),
    |good| [b"# ".to_vec(), good.line().into_bytes()].concat(),
];

fn broken<B: Body>(nth: usize, events: &[Event<B>], seed: u64) -> Vec<u8> {
    let mut random = Random::of(seed ^ 4, nth as u64);
    let event = &events[random.below(events.len())];
    let (like, cut) = (random.next(), random.next());
    BROKEN[nth % BROKEN.len()](Good { with: &|flaw| envelope(event, flaw, &mut Random::new(like)), cut })
}
