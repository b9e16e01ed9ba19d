//! The tables of the file, and what one transaction does to them.

use std::time::Duration;

use jiff::Timestamp;
use millrace_core::{
    claim::{Record, State, Verdict, Wish, judge},
    ports::{Claim, Claimed, StoreError},
};
use redb::{Database, ReadableTable as _, Table, TableDefinition, WriteTransaction};

use crate::lifetime::lifetime;

/// A key as the file holds it: half as long as its text.
pub(super) type RawKey = [u8; 32];

/// Token, opening, end of life in milliseconds, record as JSON.
type Row = (u64, u64, u64, &'static [u8]);

// Files outlive releases: do not change these tables without a new FORMAT.
const CLAIMS: TableDefinition<'static, &RawKey, Row> = TableDefinition::new("claims");
/// The keys in the order in which they are forgotten.
const EXPIRIES: TableDefinition<'static, (u64, &RawKey), ()> = TableDefinition::new("expiries");
const META: TableDefinition<'static, &str, u64> = TableDefinition::new("meta");
const FORMAT: u64 = 1;

/// Where a file stands, from one transaction to the next.
#[derive(Clone, Copy, Debug)]
pub(super) struct Progress {
    /// The number of this opening of the file. Only one process has it open at a time, so whoever claimed in another
    /// opening is gone.
    pub(super) opening: u64,
    /// The newest token. None is given out twice, also when the transaction of the first time has failed.
    pub(super) last_token: u64,
    /// The latest time that was written, in milliseconds: the store's time never goes back.
    pub(super) latest: u64,
}

/// Makes the tables of a new file, or reads where an existing one stands, and counts this opening.
pub(super) fn begin(database: &Database) -> Result<Progress, redb::Error> {
    let transaction = database.begin_write()?;
    let progress = {
        transaction.open_table(CLAIMS)?;
        transaction.open_table(EXPIRIES)?;
        let mut meta = transaction.open_table(META)?;
        let format = get(&meta, "format")?.unwrap_or(FORMAT);
        if format != FORMAT {
            return Err(redb::Error::Corrupted(format!(
                "the file has format {format} and this release reads {FORMAT}"
            )));
        }
        meta.insert("format", FORMAT)?;
        let progress = Progress {
            opening: get(&meta, "opening")?.unwrap_or_default().saturating_add(1),
            last_token: get(&meta, "token")?.unwrap_or_default(),
            latest: get(&meta, "time")?.unwrap_or_default(),
        };
        meta.insert("opening", progress.opening)?;
        progress
    };
    transaction.commit()?;
    Ok(progress)
}

fn get(meta: &Table<'_, &'static str, u64>, name: &str) -> Result<Option<u64>, redb::Error> {
    Ok(meta.get(name)?.map(|value| value.value()))
}

/// One transaction: what is done in it is answered when all of it is durable.
pub(super) struct Step<'a> {
    claims: Table<'a, &'static RawKey, Row>,
    expiries: Table<'a, (u64, &'static RawKey), ()>,
    meta: Table<'a, &'static str, u64>,
    progress: &'a mut Progress,
    now: Timestamp,
    retention: Duration,
    /// Records written.
    pub(super) written: usize,
}

/// A record as the file holds it.
struct Entry {
    token: u64,
    opening: u64,
    forgotten_at: u64,
    record: Record,
}

impl<'a> Step<'a> {
    pub(super) fn begin(
        transaction: &'a WriteTransaction,
        progress: &'a mut Progress,
        now: Timestamp,
        retention: Duration,
    ) -> Result<Self, redb::Error> {
        Ok(Self {
            claims: transaction.open_table(CLAIMS)?,
            expiries: transaction.open_table(EXPIRIES)?,
            meta: transaction.open_table(META)?,
            progress,
            now,
            retention,
            written: 0,
        })
    }

    /// Claims. `undelivered` is the token of a claim that its caller never heard of: no attempt has started on it.
    pub(super) fn claim(
        &mut self,
        key: &RawKey,
        wish: &Wish,
        undelivered: Option<u64>,
    ) -> Result<Result<Claim, StoreError>, redb::Error> {
        let entry = match self.read(key)? {
            Ok(entry) => entry,
            Err(error) => return Ok(Err(error)),
        };
        let known = entry.as_ref().map(|entry| self.as_it_stands(entry, undelivered));
        Ok(Ok(match judge(known.as_ref(), wish, self.now) {
            Verdict::Claim(record) => {
                let token = self.put(key, entry.as_ref(), &record)?;
                Claim::Claimed(Claimed { token, record })
            }
            Verdict::Settled => Claim::Settled,
            Verdict::Busy(remaining) => Claim::Busy(remaining),
            Verdict::Conflict => Claim::Conflict,
        }))
    }

    /// Ends the claim with this token.
    pub(super) fn end(
        &mut self,
        key: &RawKey,
        token: u64,
        record: &Record,
    ) -> Result<Result<(), StoreError>, redb::Error> {
        match self.read(key)? {
            Ok(Some(entry)) if entry.token == token => self.put(key, Some(&entry), record).map(|_| Ok(())),
            // Said before: a later claim has a higher number of attempts, so this record is the caller's own.
            Ok(Some(entry)) if entry.record == *record => Ok(Ok(())),
            Ok(_) => Ok(Err(StoreError::Fenced)),
            Err(error) => Ok(Err(error)),
        }
    }

    /// Forgets at most `max` records whose time is over, the oldest first.
    pub(super) fn forget(&mut self, max: usize) -> Result<(), redb::Error> {
        let over: Vec<(u64, RawKey)> = self
            .expiries
            .range(..(milliseconds(self.now), &[0; 32]))?
            .take(max)
            .map(|row| row.map(|(row, _)| (row.value().0, *row.value().1)))
            .collect::<Result<_, _>>()?;
        for (forgotten_at, key) in &over {
            self.expiries.remove((*forgotten_at, key))?;
            self.claims.remove(key)?;
        }
        Ok(())
    }

    /// Writes down where the file stands. A write of its own, so it also tells whether the file can be written.
    pub(super) fn finish(&mut self) -> Result<(), redb::Error> {
        self.progress.latest = milliseconds(self.now).max(self.progress.latest);
        self.meta.insert("token", self.progress.last_token)?;
        self.meta.insert("time", self.progress.latest)?;
        Ok(())
    }

    fn read(&self, key: &RawKey) -> Result<Result<Option<Entry>, StoreError>, redb::Error> {
        let Some(row) = self.claims.get(key)? else { return Ok(Ok(None)) };
        let (token, opening, forgotten_at, json) = row.value();
        Ok(match serde_json::from_slice(json) {
            Ok(record) => Ok(Some(Entry { token, opening, forgotten_at, record })),
            Err(error) => Err(StoreError::Unavailable(format!("a record of the file cannot be read: {error}"))),
        })
    }

    /// What a record says now. The claim of a process that is gone has ended, whenever it was to end.
    fn as_it_stands(&self, entry: &Entry, undelivered: Option<u64>) -> Record {
        let record = entry.record;
        match record.state {
            State::Claimed { .. } if undelivered == Some(entry.token) => {
                Record { state: State::Released, ..record.unspent() }
            }
            State::Claimed { until } if entry.opening != self.progress.opening => {
                record.ended(State::Claimed { until: until.min(self.now) })
            }
            State::Claimed { .. } | State::Released | State::Done | State::Dead => record,
        }
    }

    fn put(&mut self, key: &RawKey, before: Option<&Entry>, record: &Record) -> Result<u64, redb::Error> {
        let life = u64::try_from(lifetime(record, self.retention, self.now).as_millis()).unwrap_or(u64::MAX);
        // A claim is kept for longer than its end needs, so that the end moves nothing in the order of forgetting.
        let planned = before.map(|before| before.forgotten_at);
        let forgotten_at = milliseconds(self.now).saturating_add(life).max(planned.unwrap_or_default());
        if planned != Some(forgotten_at) {
            if let Some(planned) = planned {
                self.expiries.remove((planned, key))?;
            }
            self.expiries.insert((forgotten_at, key), ())?;
        }
        let json = serde_json::to_vec(record).map_err(|error| redb::Error::Io(error.into()))?;
        self.progress.last_token = self.progress.last_token.saturating_add(1);
        let token = self.progress.last_token;
        self.claims.insert(key, (token, self.progress.opening, forgotten_at, json.as_slice()))?;
        self.written = self.written.saturating_add(1);
        Ok(token)
    }
}

fn milliseconds(time: Timestamp) -> u64 {
    u64::try_from(time.as_millisecond()).unwrap_or_default()
}
