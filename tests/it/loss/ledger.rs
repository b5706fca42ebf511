//! What is stored, record by record.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::laws::Laws;
use super::options::Options;
use super::plan::{Kind, Plan};

/// The stored records read so far.
pub struct Ledger<'a> {
    pub(super) plan: &'a Plan,
    pub(super) options: &'a Options,
    /// The first element of each delivery in `copies`.
    pub(super) first: Vec<u32>,
    pub(super) copies: Vec<u8>,
    /// All records on the bus.
    pub(super) records: u64,
    /// Of these in quarantine.
    pub(super) quarantined: u64,
    pub laws: Laws,
}

#[derive(Deserialize)]
struct Envelope<'a> {
    id: &'a str,
    partitionkey: &'a str,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    data_base64: Option<&'a str>,
}

impl<'a> Ledger<'a> {
    pub fn new(plan: &'a Plan, options: &'a Options) -> Self {
        let (mut first, mut total) = (Vec::with_capacity(plan.deliveries as usize + 1), 0);
        for delivery in 0..plan.deliveries {
            first.push(total);
            total += u32::try_from(plan.stored(delivery)).expect("small batches");
        }
        first.push(total);
        Self {
            plan,
            options,
            first,
            copies: vec![0; total as usize],
            records: 0,
            quarantined: 0,
            laws: Laws::new(),
        }
    }

    /// Adds one record: L2, and L4 for forgeries.
    pub fn found(&mut self, category: &str, key: Option<&str>, value: &str) {
        self.records += 1;
        self.quarantined += u64::from(category == "quarantine");
        if let Err(wrong) = self.recognise(category, key, value) {
            self.laws.genuine.broken(|| format!("in {category}: {wrong}: {value}"));
        }
    }

    fn recognise(&mut self, category: &str, key: Option<&str>, value: &str) -> Result<(), String> {
        let envelope: Envelope<'_> = serde_json::from_str(value).map_err(|error| error.to_string())?;
        let data = match (envelope.data, envelope.data_base64) {
            (Some(data), None) => data.get().to_owned(),
            (None, Some(raw)) => {
                let raw = STANDARD.decode(raw).map_err(|error| error.to_string())?;
                String::from_utf8(raw).map_err(|error| error.to_string())?
            }
            _ => return Err("neither data nor data_base64".into()),
        };
        let (delivery, at) = Plan::position(&data).ok_or("not an element of the plan")?;
        if delivery >= self.plan.deliveries {
            return Err("it was never made".into());
        }
        if self.plan.kind(delivery) == Kind::Forged {
            self.laws.refused.broken(|| format!("forged delivery {delivery} is stored"));
            return Err("it was never signed".into());
        }
        if at >= self.plan.stored(delivery) {
            return Err("its delivery has no such element".into());
        }
        let expected = self.plan.element(delivery, at);
        if expected.data != data {
            return Err(format!("other bytes than {}", expected.data));
        }
        if expected.category != category {
            return Err(format!("it belongs in {}", expected.category));
        }
        if let Some(partition_key) = &expected.key {
            let id = Plan::id(delivery, at, &data);
            if envelope.id != id {
                return Err(format!("another id than {id}"));
            }
            if envelope.partitionkey != partition_key || key.is_some_and(|key| key != partition_key) {
                return Err(format!("another key than {partition_key}"));
            }
        }
        let copies = &mut self.copies[self.first[delivery as usize] as usize + at];
        *copies = copies.saturating_add(1);
        Ok(())
    }
}
