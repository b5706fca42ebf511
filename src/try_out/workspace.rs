//! A small workspace in which something happens: people are created, changed several times in a row, put on a list,
//! written about, merged and deleted.

use std::collections::{BTreeMap, VecDeque};

use serde_json::{Value as Json, json};

use crate::fake_attio::error::ApiError;
use crate::fake_attio::store::Store;

const NAMES: [[&str; 2]; 6] = [
    ["Ada", "Lovelace"],
    ["Grace", "Hopper"],
    ["Barbara", "Liskov"],
    ["Frances", "Allen"],
    ["Katherine", "Johnson"],
    ["Margaret", "Hamilton"],
];

/// Entities that stay; older ones are deleted.
const KEPT: usize = 40;

/// Steps of a round.
pub const ROUND: usize = 12;

#[derive(Default)]
pub struct Workspace {
    steps: usize,
    company: String,
    person: String,
    entry: String,
    note: String,
    task: String,
    comment: String,
    duplicate: String,
    kept: VecDeque<String>,
}

impl Workspace {
    /// The next step: a change, or some of one entity in a row. Whoever uses the API may have deleted what it changes.
    pub fn step(&mut self, store: &mut Store) -> Result<(), ApiError> {
        let (step, round) = (self.steps % ROUND, self.steps / ROUND);
        self.steps += 1;
        let [first, last] = NAMES[round % NAMES.len()];
        let domain = format!("{}.example.com", last.to_lowercase());
        match step {
            0 => {
                let values =
                    [("name", json!(format!("{last} & Co."))), ("domains", json!({ "domain": domain }))];
                self.company = store.create_record("companies", given(values))?;
            }
            1 => self.person = store.create_record("people", person(first, last, &domain))?,
            2 => {
                for title in ["Analyst", "Engineer", "Head of Engineering"] {
                    store.set(&self.person, "job_title", title.into())?;
                }
            }
            3 => {
                let status = given([("status", "Applied".into())]);
                self.entry = store.add_entry("recruiting", &self.person, status)?;
            }
            4 => self.note = store.add_note(&self.person, "First call", "Wants to know about the team.")?,
            5 => {
                for status in ["Interview", "Offer"] {
                    store.set(&self.entry, "status", status.into())?;
                }
            }
            6 => self.task = store.add_task(&self.person, &format!("Call {first} back"))?,
            7 => store.set(&self.task, "is_completed", true.into())?,
            8 => self.comment = store.add_comment(&self.person, None, "Who takes the second call?")?,
            9 => self.duplicate = store.create_record("people", person(first, last, &domain))?,
            10 => self.person = store.merge(&self.person, &self.duplicate)?,
            _ => {
                store.remove(&self.comment)?;
                let stay = [&self.company, &self.person, &self.note, &self.task];
                self.kept.extend(stay.map(String::clone));
                let old = self.kept.len().saturating_sub(KEPT);
                // Whoever uses the API may have deleted some.
                self.kept.drain(..old).for_each(|id| drop(store.remove(&id)));
            }
        }
        Ok(())
    }
}

fn given<const N: usize>(values: [(&str, Json); N]) -> BTreeMap<String, Json> {
    values.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

fn person(first: &str, last: &str, domain: &str) -> BTreeMap<String, Json> {
    let address = format!("{}@{domain}", first.to_lowercase());
    given([
        ("name", json!({ "first_name": first, "last_name": last, "full_name": format!("{first} {last}") })),
        ("email_addresses", json!({ "email_address": address })),
    ])
}
