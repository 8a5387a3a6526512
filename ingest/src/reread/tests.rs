use arrow::util::display::array_value_to_string;
use starmere_lake::delta::Warehouse;
use starmere_lake::formats::Incoming;
use starmere_lake::landing::SourcePartition;
use starmere_lake::paths::TablePath;
use starmere_lake::store::Store;

use super::*;
use crate::envelope::TypeOf;
use crate::rows::Batch;

const MEMORY: usize = 32 << 20;
/// What a row says that a reread may change.
const SHOWN: [&str; 6] = ["position", "event_id", "event_type", "occurred_at", "subject", "rejection"];

fn stream() -> Stream {
    Stream::new("s", Warehouse::new(Store::memory()).table(TablePath::stream("d", "s")))
}

fn mapping(id: &str) -> Mapping {
    Mapping { id: Some(id.into()), ..Mapping::new(TypeOf::Path("type".into()), Some("at".into())) }
}

fn event(shop: u32, number: u32) -> String {
    format!(r#"{{"shop":{shop},"n":{number},"type":"paid","at":"2024-01-01T00:00:{:02}Z"}}"#, number % 60)
}

/// Lands payloads, in a partition that was begun anew so often.
async fn land(stream: &Stream, mapping: &Mapping, incarnation: u32, payloads: &[String]) {
    land_of("f", stream, mapping, incarnation, payloads).await;
}

async fn land_of(source: &str, stream: &Stream, mapping: &Mapping, incarnation: u32, payloads: &[String]) {
    let partition = SourcePartition { source: source.into(), topic: "t".into(), incarnation, partition: 0 };
    let from = stream.position(&stream.open().await.unwrap(), &partition).unwrap_or_default();
    let mut reader = Reader::new(mapping.clone(), &Arc::default());
    // A microsecond for each batch: where a partition is begun anew, rows are told apart by it.
    let mut batch = Batch::landed_at(1_704_067_200_000_000 + i64::from(incarnation));
    batch.begin(partition, from);
    for (payload, position) in payloads.iter().zip(from..) {
        let event = Incoming { timestamp: Some(5), ..Incoming::of(payload.as_bytes()) };
        batch.push(&mut reader, &event, position, position + 1, None).unwrap();
    }
    batch.finish().unwrap().land(stream).await.unwrap();
}

/// All rows, in the order of their places, as text.
async fn rows(stream: &Stream, columns: &[&str]) -> Vec<Vec<String>> {
    let snapshot = stream.open().await.unwrap();
    let mut found = Vec::new();
    for add in snapshot.files() {
        let rows = stream.table().read(add, events::file_schema()).await.unwrap();
        let text = |row, name: &str| array_value_to_string(rows.column_by_name(name).unwrap(), row).unwrap();
        found.extend((0..rows.num_rows()).map(|row| columns.iter().map(|name| text(row, name)).collect::<Vec<_>>()));
    }
    found.sort();
    found
}

async fn reread(stream: &Stream, mapping: &Mapping, accepts_copies: bool) -> Result<Reread> {
    Rereading::new(stream, mapping, MEMORY).await?.carry_out(accepts_copies).await
}

async fn take_back(stream: &Stream) -> Result<TakenBack> {
    TakingBack::of(stream).await?.carry_out().await
}

async fn all(stream: &Stream) -> Vec<Vec<String>> {
    let names: Vec<&str> = events::file_schema().fields().iter().map(|field| field.name().as_str()).collect();
    rows(stream, &names).await
}

#[tokio::test]
async fn rows_are_read_anew_and_put_back() {
    let stream = stream();
    let wrong = mapping("shop");
    let payloads: Vec<String> = (0..40).map(|number| event(99, number)).chain(["{".into(), "{}".into()]).collect();
    land(&stream, &wrong, 0, &payloads[..20]).await;
    land(&stream, &wrong, 0, &payloads[20..]).await;
    let before = all(&stream).await;
    let mut rereading = Rereading::new(&stream, &mapping("n"), MEMORY).await.unwrap();
    let preview = rereading.look().await.unwrap();
    let changes = Changes { rows: 42, changed: 40, ids: 40, ..Changes::default() };
    assert_eq!(preview, Preview { changes, events_before: 1, events_after: 40, ..Preview::default() });
    assert_eq!(all(&stream).await, before, "to look changes nothing");
    // Somebody lands by the wrong mapping still.
    land(&stream, &wrong, 0, &[event(99, 40)]).await;
    let reread = rereading.carry_out(false).await.unwrap();
    assert_eq!((reread.changes.ids, reread.version), (41, 4));
    let after = rows(&stream, &SHOWN).await;
    assert_eq!(after.len(), 43);
    let of = |place: &str| after.iter().find(|row| row[0] == place).unwrap();
    assert_eq!(of("7")[..4], ["7", "7", "paid", "2024-01-01T00:00:07Z"]);
    assert_eq!(of("42")[1], "40");
    assert_eq!(of("41")[5], "no type at `type`", "a reject stays one");
    let positions = stream.positions(&stream.open().await.unwrap());
    assert_eq!(positions.iter().map(|(_, position)| *position).collect::<Vec<_>>(), [43], "sources go on as before");
    let again = self::reread(&stream, &mapping("n"), false).await.unwrap();
    assert_eq!((again.changes.changed, again.version), (0, 4), "there is nothing left to do");
    // What lands later stays where the reread is taken back.
    land(&stream, &mapping("n"), 0, &[event(98, 41)]).await;
    let back = take_back(&stream).await.unwrap();
    assert_eq!((back.reread, back.rows, back.version), (4, 43, 6));
    let now = all(&stream).await;
    assert_eq!(now.len(), 44);
    assert!(before.iter().all(|row| now.contains(row)), "each row is what it was");
    let error = take_back(&stream).await.unwrap_err();
    assert!(error.to_string().contains("the last one is taken back already"), "{error}");
    assert!(error.hint().unwrap().contains("starmere streams reread s"));
}

/// The key of a request that was sent again is not known of events that had ids of their payloads.
#[tokio::test]
async fn events_over_http_do_not_lose_their_ids() {
    let none = |number| event(7, number).replace("\"n\"", "\"m\"");
    for (source, is_refused) in [("http", true), ("f", false)] {
        let stream = stream();
        // The same request, three times.
        for _ in 0..3 {
            land_of(source, &stream, &mapping("shop"), 0, &[none(1)]).await;
        }
        let before = all(&stream).await;
        let mut rereading = Rereading::new(&stream, &mapping("n"), MEMORY).await.unwrap();
        let keyless = rereading.look().await.unwrap().changes.keyless;
        assert_eq!(keyless, if is_refused { 3 } else { 0 }, "{source}");
        match rereading.carry_out(false).await {
            Err(error) => {
                assert!(is_refused && error.to_string().contains("would have no id any more"), "{error}");
                assert!(error.hint().unwrap().contains("--allow-copies"));
                assert_eq!(all(&stream).await, before);
                rereading.carry_out(true).await.unwrap();
            }
            Ok(_) => assert!(!is_refused, "{source}"),
        }
        // What has no id but that of its place keeps it.
        assert_eq!(reread(&stream, &mapping("n"), false).await.unwrap().changes.changed, 0, "{source}");
    }
}

#[tokio::test]
async fn payloads_are_the_same_bytes_after_a_reread() {
    let stream = stream();
    let payloads: Vec<String> = (0..9_000).map(|number| event(number % 7, number)).collect();
    land(&stream, &mapping("shop"), 0, &payloads).await;
    let kept = ["position", "source", "topic", "partition", "key", "headers", "payload", "ingested_at"];
    let before = rows(&stream, &kept).await;
    reread(&stream, &mapping("n"), false).await.unwrap();
    assert_eq!(rows(&stream, &kept).await, before);
}

/// Tries to have events swallowed.
#[tokio::test]
async fn events_become_no_copies_of_others_unless_that_is_accepted() {
    let stream = stream();
    let payloads: Vec<String> = (0..5).map(|number| event(1, number)).chain([event(1, 0)]).collect();
    let without = Mapping { id: None, ..mapping("n") };
    land(&stream, &without, 0, &payloads).await;
    let look = async |mapping: &Mapping| {
        let mut rereading = Rereading::new(&stream, mapping, MEMORY).await.unwrap();
        let preview = rereading.look().await.unwrap();
        (preview.events_before, preview.events_after, preview.copies, preview.swallowed)
    };
    assert_eq!(look(&mapping("shop")).await, (6, 1, 5, 4), "one of them was sent twice");
    let refused = reread(&stream, &mapping("shop"), false).await.unwrap_err();
    assert!(refused.to_string().starts_with("4 events of `s` would become copies of others"), "{refused}");
    assert_eq!(stream.open().await.unwrap().version(), 1, "nothing is changed");
    // The same bytes, sent again, are one event.
    assert_eq!(look(&mapping("n")).await, (6, 5, 1, 0));
    reread(&stream, &mapping("shop"), true).await.unwrap();
    assert_eq!(look(&mapping("n")).await, (1, 5, 0, 0), "what is swallowed comes back");
}

#[tokio::test]
async fn rejects_become_events_and_events_rejects() {
    let stream = stream();
    let whole = event(1, 1);
    land(&stream, &mapping("n"), 0, &[whole.clone(), whole.replace("\"at\"", "\"when\"")]).await;
    let mended = Mapping { time: Some("when".into()), ..mapping("n") };
    let mut rereading = Rereading::new(&stream, &mended, MEMORY).await.unwrap();
    let changes = Changes { rows: 2, changed: 2, taken_up: 1, rejected: 1, ..Changes::default() };
    let preview = rereading.look().await.unwrap();
    assert_eq!(preview, Preview { changes, events_before: 1, events_after: 1, ..Preview::default() });
    rereading.carry_out(false).await.unwrap();
    let reject = ["0", "1", "paid", "2024-01-01T00:00:01Z", "", "no time at `when`"];
    assert_eq!(rows(&stream, &SHOWN).await, [reject, ["1", "1", "paid", "2024-01-01T00:00:01Z", "", ""]]);
}

/// When its source got an event is kept of rejects alone.
#[tokio::test]
async fn times_that_nobody_kept_stay_as_they_are() {
    let stream = stream();
    let precise = event(1, 1).replace("01Z", "01.123456Z");
    land(&stream, &mapping("n"), 0, &[precise, event(1, 2).replace("\"at\"", "\"when\"")]).await;
    let mended = Mapping { time: Some("$timestamp".into()), ..mapping("n") };
    let mut rereading = Rereading::new(&stream, &mended, MEMORY).await.unwrap();
    assert_eq!(rereading.look().await.unwrap().changes.times, 0);
    rereading.carry_out(false).await.unwrap();
    let times: Vec<String> = rows(&stream, &["occurred_at"]).await.into_iter().flatten().collect();
    assert_eq!(times, ["1970-01-01T00:00:00.005Z", "2024-01-01T00:00:01.123456Z"]);
}

/// Tries to make one event of two that were at one place of a file that was begun anew.
#[tokio::test]
async fn rows_without_an_id_are_known_by_their_places() {
    let stream = stream();
    land(&stream, &mapping("shop"), 0, &[event(1, 1), event(1, 2)]).await;
    let without = Mapping { id: None, ..mapping("n") };
    let mut rereading = Rereading::new(&stream, &without, MEMORY).await.unwrap();
    assert_eq!(rereading.look().await.unwrap().events_after, 2);
    rereading.carry_out(false).await.unwrap();
    let ids: Vec<String> = rows(&stream, &["event_id"]).await.into_iter().flatten().collect();
    assert_eq!(ids, ["f/t/0/0/0", "f/t/0/0/1"], "as landing would have made them");
    land(&stream, &mapping("shop"), 1, &[event(1, 3), event(1, 4)]).await;
    reread(&stream, &without, false).await.unwrap();
    let ids: Vec<String> = rows(&stream, &["event_id"]).await.into_iter().flatten().collect();
    let later = "f/t/~1704067200000001/0/";
    assert_eq!(ids, ["f/t/0/0/0".into(), "f/t/0/0/1".into(), format!("{later}0"), format!("{later}1")]);
    let again = Rereading::new(&stream, &without, MEMORY).await.unwrap().look().await.unwrap();
    assert_eq!(again.changes.changed, 0, "an id that was made stays");
}

#[tokio::test]
async fn what_was_changed_since_is_not_put_back() {
    let stream = stream();
    land(&stream, &mapping("shop"), 0, &[event(1, 7), event(1, 8).replace("\"at\"", "\"when\"")]).await;
    let error = take_back(&stream).await.unwrap_err();
    assert!(error.to_string().contains("there was none"), "{error}");
    reread(&stream, &mapping("n"), false).await.unwrap();
    let mended = Mapping { time: Some("when".into()), ..mapping("n") };
    crate::repair::repair(&stream, &mended, false).await.unwrap();
    let error = take_back(&stream).await.unwrap_err();
    assert!(error.to_string().contains("its rows were changed since"), "{error}");
}

/// Somebody who lands by the mapping of before makes a second reread necessary: both can be taken back.
#[tokio::test]
async fn rereads_are_taken_back_one_after_the_other() {
    let stream = stream();
    let (wrong, right) = (mapping("shop"), mapping("n"));
    let mut seen = Vec::new();
    for number in 0..3 {
        land(&stream, &wrong, 0, &[event(99, number), event(98, number + 10)]).await;
        seen.push(all(&stream).await);
        reread(&stream, &right, false).await.unwrap();
    }
    // What is read anew twice: by another mapping, too.
    let mended = all(&stream).await;
    reread(&stream, &wrong, true).await.unwrap();
    assert_eq!(take_back(&stream).await.unwrap().rows, 6);
    assert_eq!(all(&stream).await, mended);
    while let Some(before) = seen.pop() {
        let back = take_back(&stream).await.unwrap();
        assert_eq!(back.rows, 2, "what that one has changed");
        let now = all(&stream).await;
        assert!(before.iter().all(|row| now.contains(row)), "{} rereads are left", seen.len());
    }
    let error = take_back(&stream).await.unwrap_err();
    assert!(error.to_string().contains("the last one is taken back already"), "{error}");
    // A reread of what is there then is one that can be taken back.
    reread(&stream, &right, false).await.unwrap();
    assert_eq!(take_back(&stream).await.unwrap().rows, 6);
}

/// Two who look at one reread put its files back once.
#[tokio::test]
async fn a_reread_is_taken_back_once() {
    let stream = stream();
    land(&stream, &mapping("shop"), 0, &[event(99, 1)]).await;
    reread(&stream, &mapping("n"), false).await.unwrap();
    let (first, second) = (TakingBack::of(&stream).await.unwrap(), TakingBack::of(&stream).await.unwrap());
    first.carry_out().await.unwrap();
    let before = all(&stream).await;
    let error = second.carry_out().await.unwrap_err();
    assert!(error.to_string().contains("or put some back, meanwhile"), "{error}");
    assert_eq!(all(&stream).await, before);
}
