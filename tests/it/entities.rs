//! Reads of entities, against the fake Attio.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use attio_bridge::attio::Options;
use attio_bridge::attio::entities::{
    Answer, Entity, EntityReader, EntityRef, Kind, Position, ReadError, ReadResult, Single, Walk,
};
use attio_bridge::catalog::Category;
use attio_bridge::fake_attio::changes::Given;
use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::support::attio::{Attio, KEY};
use crate::support::faults::Fault;
use crate::support::wait::PATIENCE;

type Results = Arc<Mutex<Vec<ReadResult>>>;

fn reader(attio: &Attio, per_second: u32) -> (EntityReader, Results) {
    let options = Options { api_key: Some(KEY.to_owned().into()), api_url: attio.url(), timeout: PATIENCE };
    let results = Results::default();
    let observed = Arc::clone(&results);
    let reader = EntityReader::new(&options, per_second, move |_, result| observed.lock().push(result));
    (reader.unwrap(), results)
}

fn named(name: &str) -> Given {
    BTreeMap::from([("name".to_owned(), json!(name))])
}

fn people(attio: &Attio, count: usize) -> Vec<String> {
    let mut store = attio.store();
    (0..count)
        .map(|number| store.create_record("people", named(&format!("person {number}"))).unwrap())
        .collect()
}

fn object(attio: &Attio, slug: &str) -> String {
    attio.store().objects.iter().find(|object| object.slug == slug).unwrap().id.clone()
}

fn record(attio: &Attio, id: &str) -> EntityRef {
    EntityRef {
        kind: Kind::Record,
        container: Some(object(attio, "people").into()),
        object: None,
        id: id.into(),
    }
}

fn ids(entities: &[Entity]) -> BTreeSet<String> {
    entities.iter().map(|entity| entity.id.clone()).collect()
}

fn data(entity: &Entity) -> Value {
    serde_json::from_slice(&entity.data).unwrap()
}

#[test]
fn many_reads_those_asked_for_and_leaves_out_what_is_gone() {
    let attio = Attio::start();
    let (reader, _) = reader(&attio, 100);
    let all = people(&attio, 5);
    attio.store().remove(&all[0]).unwrap();
    let other = attio.store().create_record("companies", named("a company")).unwrap();
    let asked = [all[0].clone(), all[2].clone(), all[4].clone(), other];
    let answer = attio.block_on(reader.many(Kind::Record, &object(&attio, "people"), &asked)).unwrap();
    assert_eq!(ids(&answer.value), BTreeSet::from([all[2].clone(), all[4].clone()]));
    let world = attio.store().everything(Category::Record);
    for entity in &answer.value {
        assert_eq!(data(entity), world[&entity.id]);
        assert_eq!(entity.object.as_deref(), Some(&*object(&attio, "people")));
    }
}

#[test]
fn many_fails_for_all_and_leaves_out_what_cannot_be_read() {
    let attio = Attio::start();
    let (reader, _) = reader(&attio, 100);
    let (all, people) = (people(&attio, 3), object(&attio, "people"));
    let many = || attio.block_on(reader.many(Kind::Record, &people, &all));
    let world = attio.store().everything(Category::Record);
    let mut rows: Vec<Value> = all.iter().map(|id| world[id].clone()).collect();
    rows[1]["created_at"] = json!(7);
    let refusal = json!({ "status_code": 400, "type": "x", "code": "filter_error", "message": "z" });
    attio.faults([
        Fault::Status(503),
        Fault::Answer(200, "{\"data\":".into()),
        Fault::Answer(400, refusal.to_string()),
        Fault::Answer(200, json!({ "data": rows }).to_string()),
        Fault::Answer(200, json!({ "data": rows[1] }).to_string()),
    ]);
    for _ in 0..2 {
        assert!(matches!(many(), Err(ReadError::Retryable(_))));
    }
    assert_eq!(ids(&many().unwrap().value), BTreeSet::new(), "each is to be asked for alone");
    assert_eq!(ids(&many().unwrap().value), BTreeSet::from([all[0].clone(), all[2].clone()]));
    let alone = attio.block_on(reader.one(&record(&attio, &all[1])));
    assert!(matches!(alone, Err(ReadError::OfOne(_))), "{alone:?}");
}

#[test]
fn one_of_each_kind_is_read_and_then_gone() {
    let attio = Attio::start();
    let (reader, results) = reader(&attio, 100);
    let person = people(&attio, 1).remove(0);
    let list = attio.store().lists[0].id.clone();
    let entry = attio.store().add_entry("sales_pipeline", &person, Given::new()).unwrap();
    let note = attio.store().add_note(&person, "a title", "a text").unwrap();
    let task = attio.store().add_task(&person, "call back").unwrap();
    let comment = attio.store().add_comment(&entry, None, "well done").unwrap();
    let alone = |kind, id: &str| EntityRef { kind, container: None, object: None, id: id.into() };
    let all = [
        (alone(Kind::Comment, &comment), Category::Comment),
        (
            EntityRef { container: Some(list.as_str().into()), ..alone(Kind::ListEntry, &entry) },
            Category::ListEntry,
        ),
        (alone(Kind::Note, &note), Category::Note),
        (alone(Kind::Task, &task), Category::Task),
        (record(&attio, &person), Category::Record),
    ];
    for (wanted, category) in all {
        let Single::Found(entity) = attio.block_on(reader.one(&wanted)).unwrap().value else {
            panic!("{wanted:?} is not found")
        };
        assert_eq!(data(&entity), attio.store().everything(category)[&*wanted.id]);
        if wanted.kind == Kind::Comment {
            assert_eq!((entity.thread.as_deref(), entity.list.as_deref()), (Some(&*comment), Some(&*list)));
        }
        attio.store().remove(&wanted.id).unwrap();
        let gone = attio.block_on(reader.one(&wanted)).unwrap();
        assert!(matches!(gone.value, Single::Gone), "{gone:?}");
    }
    assert!(results.lock().ends_with(&[ReadResult::Ok, ReadResult::Gone]));
}

#[test]
fn answer_is_as_old_as_it_says() {
    let attio = Attio::start();
    attio.store().lag = Duration::from_secs(2);
    let (reader, _) = reader(&attio, 100);
    let before = time::OffsetDateTime::now_utc() - Duration::from_millis(2);
    let person = people(&attio, 1).remove(0);
    let mut seen = BTreeSet::new();
    let start = Instant::now();
    while seen.len() < 2 && start.elapsed() < PATIENCE {
        let Answer { accurate_at, value, .. } = attio.block_on(reader.one(&record(&attio, &person))).unwrap();
        let found = matches!(value, Single::Found(_));
        let when =
            if found { accurate_at >= before } else { accurate_at <= before + Duration::from_millis(100) };
        assert!(when, "at {accurate_at}: found {found}, created after {before}");
        seen.insert(found);
    }
    assert_eq!(seen, BTreeSet::from([false, true]), "first it is too early, then it is there");
}

#[test]
fn merge_leaves_a_record_that_cannot_be_read_yet_and_two_that_are_gone() {
    let attio = Attio::start();
    attio.store().merge_time = Duration::from_millis(300);
    let (reader, _) = reader(&attio, 100);
    let pair = people(&attio, 2);
    let merged = attio.store().merge(&pair[0], &pair[1]).unwrap();
    let read = |id: &str| attio.block_on(reader.one(&record(&attio, id))).unwrap().value;
    assert!(matches!(read(&merged), Single::MergeInProgress));
    assert!(pair.iter().all(|original| matches!(read(original), Single::Gone)));
    while matches!(read(&merged), Single::MergeInProgress) {}
    let Single::Found(entity) = read(&merged) else { panic!("the new record is not there") };
    assert_eq!(data(&entity)["values"]["name"][0]["value"], "person 0");
}

#[test]
fn rate_limit_is_waited_out_and_the_own_one_kept() {
    let attio = Attio::start();
    let (reader, results) = reader(&attio, 20);
    let person = people(&attio, 1).remove(0);
    attio.faults([Fault::Limited, Fault::Limited]);
    let wanted = record(&attio, &person);
    attio.block_on(reader.one(&wanted)).unwrap();
    assert_eq!(*results.lock(), [ReadResult::RateLimited, ReadResult::RateLimited, ReadResult::Ok]);
    attio.block_on(async {
        let reads = (0..50).map(|_| reader.one(&wanted));
        for read in futures_util::future::join_all(reads).await {
            read.unwrap();
        }
    });
    let rate = attio.store().rate.clone();
    assert!((10..=20).contains(&rate.most_reads), "{rate:?}");
}

#[test]
fn refused_key_says_what_to_grant_and_everything_else_is_to_be_tried_again() {
    let attio = Attio::start();
    let (reader, _) = reader(&attio, 100);
    let person = people(&attio, 1).remove(0);
    let wanted = record(&attio, &person);
    let failed = || attio.block_on(reader.one(&wanted)).unwrap_err();
    attio.faults([
        Fault::Status(502),
        Fault::Status(404),
        Fault::Answer(200, "{\"data\":".into()),
        Fault::Answer(
            500,
            json!({ "status_code": 500, "type": "x", "code": "y", "message": "z" }).to_string(),
        ),
    ]);
    for _ in 0..4 {
        let error = failed();
        assert!(matches!(error, ReadError::Retryable(_)), "{error:?}");
    }
    attio.store().scopes.remove("record_permission:read-write");
    let ReadError::Denied { scopes, reason } = failed() else { panic!("it is not refused") };
    assert!(scopes.contains("record_permission:read") && reason.contains(scopes), "{reason}");
    attio.store().token = "another".into();
    assert!(matches!(failed(), ReadError::Denied { .. }));
}

#[test]
fn walk_asks_for_many_pages_at_once_where_each_answer_takes_long() {
    const PEOPLE: usize = 12_000;
    let attio = Attio::start();
    let (reader, _) = reader(&attio, 50);
    people(&attio, PEOPLE);
    attio.always("/query", Fault::Late(Duration::from_millis(500)));
    let mut walk = Walk::new(reader, Kind::Record, Some(object(&attio, "people")), Position::default());
    let mut seen = 0;
    while let Some(answer) = attio.block_on(walk.next()).unwrap() {
        seen += answer.value.entities.len();
    }
    assert_eq!(seen, PEOPLE);
    // Five under way at a time would be at most ten within a second.
    let most = attio.store().rate.most_reads;
    assert!(most > 12, "{most}");
}

#[test]
fn page_that_cannot_be_read_is_asked_for_again_without_those_behind_it() {
    const PEOPLE: usize = 16_000;
    // Each page has 480 that the one before does not have. The last ones that are read ahead are empty.
    const REQUESTS: usize = PEOPLE / 480 + 1 + 16;
    let attio = Attio::start();
    attio.store().rate.reads = 10_000;
    let (reader, _) = reader(&attio, 10_000);
    people(&attio, PEOPLE);
    let mut walk = Walk::new(reader, Kind::Record, Some(object(&attio, "people")), Position::default());
    let (mut seen, mut ordered, mut failed) = (0, 0, 0);
    loop {
        match attio.block_on(walk.next()) {
            Ok(Some(answer)) => seen += answer.value.entities.len(),
            Ok(None) => break,
            Err(_) => failed += 1,
        }
        if ordered < 2 && seen > 5_000 + ordered * 1_000 {
            attio.faults([Fault::Status(502)]);
            ordered += 1;
        }
    }
    let asked = attio.store().rate.all_reads as usize;
    assert_eq!((seen, failed), (PEOPLE, 2));
    assert!(asked <= REQUESTS, "{asked}");
}

#[test]
fn walk_sees_every_row_while_others_are_deleted() {
    let attio = Attio::start();
    let (reader, _) = reader(&attio, 100);
    let all = people(&attio, 1300);
    let mut walk =
        Walk::new(reader.clone(), Kind::Record, Some(object(&attio, "people")), Position::default());
    let mut seen = BTreeSet::new();
    for page in 0.. {
        let Some(answer) = attio.block_on(walk.next()).unwrap() else { break };
        seen.extend(ids(&answer.value.entities));
        if page == 0 {
            all[100..150].iter().for_each(|id| attio.store().remove(id).unwrap());
        }
    }
    let left: BTreeSet<String> = attio.store().everything(Category::Record).into_keys().collect();
    assert!(left.len() == 1250 && left.is_subset(&seen));
    let person = &all[0];
    for number in 0..120 {
        attio.store().add_note(person, "a title", &format!("note {number}")).unwrap();
    }
    let mut notes = Walk::new(reader.clone(), Kind::Note, None, Position::default());
    let mut seen = BTreeSet::new();
    while let Some(answer) = attio.block_on(notes.next()).unwrap() {
        seen.extend(ids(&answer.value.entities));
    }
    assert_eq!(seen.len(), 120);
    for number in 0..60 {
        attio.store().add_comment(person, None, &format!("comment {number}")).unwrap();
    }
    let comments = attio.block_on(reader.comments(&record(&attio, person))).unwrap();
    assert_eq!(ids(&comments.unwrap().value.entities).len(), 60);
    let first = attio.store().add_comment(person, None, "the first of many").unwrap();
    for number in 0..300 {
        attio.store().add_comment(person, Some(&first), &format!("reply {number}")).unwrap();
    }
    let comments = attio.block_on(reader.comments(&record(&attio, person))).unwrap();
    assert_eq!(ids(&comments.unwrap().value.entities).len(), 361);
}
