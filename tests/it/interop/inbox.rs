//! The database of an example, through Python's SQLite.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use crate::support::watched::kit;

/// Answers each line of its input with one line of JSON.
const SERVER: &str = r#"
import base64, json, sqlite3, sys

db = sqlite3.connect(sys.argv[1], timeout=60, isolation_level=None)
db.row_factory = sqlite3.Row

def plain(value):
    return base64.b64encode(value.encode() if isinstance(value, str) else value).decode()

def rows(table, raw):
    read = [dict(row) for row in db.execute(f"SELECT * FROM {table}")]
    return [row | {raw: plain(row[raw] or b"")} if raw else row for row in read]

def count():
    known = db.execute("SELECT count(*) FROM sqlite_master WHERE name = 'event'").fetchone()[0]
    return db.execute("SELECT count(*) FROM event").fetchone()[0] if known else 0

for line in sys.stdin:
    word = line.strip()
    answer = None
    if word == "lock":
        db.execute("BEGIN IMMEDIATE")
    elif word == "unlock":
        db.execute("ROLLBACK")
    elif word == "count":
        answer = count()
    else:
        answer = {"event": rows("event", "data"), "tally": rows("tally", None), "record": rows("record", None),
                  "set_aside": rows("set_aside", "value")}
    print(json.dumps(answer), flush=True)
"#;

#[derive(Debug, Deserialize)]
pub struct Tables {
    pub event: Vec<EventRow>,
    pub tally: Vec<TallyRow>,
    pub record: Vec<RecordRow>,
    pub set_aside: Vec<SetAsideRow>,
}

#[derive(Debug, Deserialize)]
pub struct EventRow {
    pub source: String,
    pub id: String,
    /// JSON.
    pub attributes: String,
    /// None only where the message has none.
    pub key: Option<String>,
    /// JSON.
    pub headers: String,
    #[serde(deserialize_with = "bytes")]
    pub data: Vec<u8>,
    pub position: String,
}

#[derive(Debug, Deserialize)]
pub struct TallyRow {
    pub r#type: String,
    pub events: u64,
}

#[derive(Debug, Deserialize)]
pub struct RecordRow {
    pub id: String,
    pub events: u64,
    pub merged_into: Option<String>,
}

#[derive(Debug, Deserialize)]
pub struct SetAsideRow {
    pub position: String,
    pub reason: String,
    #[serde(deserialize_with = "bytes")]
    pub value: Vec<u8>,
}

fn bytes<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
    let text = String::deserialize(deserializer)?;
    STANDARD.decode(text).map_err(serde::de::Error::custom)
}

impl Tables {
    /// Handled events by type.
    pub fn tally(&self) -> BTreeMap<String, u64> {
        self.tally.iter().map(|row| (row.r#type.clone(), row.events)).collect()
    }
}

pub struct Inbox {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Inbox {
    pub fn open(path: &Path) -> Self {
        let mut child = Command::new(kit("python/installed.txt").join("python/bin/python"))
            .args(["-c", SERVER])
            .arg(path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("Python starts");
        let (stdin, stdout) = (child.stdin.take().expect("piped"), child.stdout.take().expect("piped"));
        Self { child, stdin, stdout: BufReader::new(stdout) }
    }

    /// The number of events handled.
    pub fn count(&mut self) -> usize {
        self.ask("count").parse().expect("a number")
    }

    pub fn tables(&mut self) -> Tables {
        serde_json::from_str(&self.ask("tables")).expect("the tables that an example's README names")
    }

    /// Takes the lock that every write needs.
    pub fn lock(&mut self) {
        self.ask("lock");
    }

    pub fn unlock(&mut self) {
        self.ask("unlock");
    }

    fn ask(&mut self, word: &str) -> String {
        writeln!(self.stdin, "{word}").expect("it reads");
        let mut answer = String::new();
        self.stdout.read_line(&mut answer).expect("it can be read");
        assert!(!answer.is_empty(), "the reader of the inbox has ended; its words are on standard error");
        answer.trim().to_owned()
    }
}

impl Drop for Inbox {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
