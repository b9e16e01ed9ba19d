//! What became of each letter, so that a redrive that is killed and goes on counts each letter once.
//!
//! A redo log. That an event has ended is written before its letter is taken out, and that again before the next line. A run
//! that finds the first without the second takes the letter out once more, which is safe to repeat, and counts nothing
//! again. An event that fails again gets a new dead letter before it has ended: that is announced before it is published,
//! and a later run looks whether it is there. So a letter is counted if and only if it is out, or will be.
//!
//! Lines are not synced: the file outlives the process and not the machine, and so does the volume that it is on.

use std::{
    collections::HashMap,
    fs::{File, OpenOptions},
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    path::Path,
    sync::{Mutex, MutexGuard, PoisonError},
};

use millrace_core::letters::LetterPlace;
use serde::{Deserialize, Serialize};

/// What became of the letters that are out, or will be.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Fates {
    /// Their event was handled, or is back at its source.
    pub(super) succeeded: u64,
    /// Their event failed again, and has a new dead letter.
    pub(super) failed: u64,
}

/// What became of each letter.
#[derive(Debug, Default)]
pub(super) struct Journal(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// Where it is kept; in memory only where nobody asked for more.
    file: Option<File>,
    fates: Fates,
    /// Letters whose event may have a new dead letter.
    announced: HashMap<LetterPlace, Announced>,
    /// Letters whose event has ended and that may not be out.
    ended: HashMap<LetterPlace, String>,
}

#[derive(Clone, Debug)]
struct Announced {
    id: String,
    letter: String,
    is_published: bool,
}

/// What an earlier run left in the middle.
#[derive(Debug, Default)]
pub(super) struct Unfinished {
    /// Letters whose event may have a new dead letter: place, id, and the id of the new one.
    pub(super) announced: Vec<(LetterPlace, String, String)>,
    /// Letters to be taken out.
    pub(super) ended: Vec<(LetterPlace, String)>,
}

#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
enum Fate {
    Succeeded,
    Failed,
}

/// One line. Do not change what there is: a run of another release may read it.
#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
enum Line {
    Announced { place: String, id: String, letter: String },
    Ended { place: String, id: String, fate: Fate },
    Out { place: String },
}

impl Journal {
    /// Goes on with the journal of this name, or begins one; without a name it is kept in memory.
    pub(super) fn open(path: Option<&Path>) -> io::Result<Self> {
        let Some(path) = path else { return Ok(Self::default()) };
        let mut file = OpenOptions::new().read(true).append(true).create(true).open(path)?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        // A line that its process did not live to end says nothing.
        let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |last| last.saturating_add(1));
        file.set_len(u64::try_from(whole).unwrap_or(u64::MAX))?;
        file.seek(SeekFrom::End(0))?;
        let mut inner = Inner::default();
        for line in bytes.get(..whole).unwrap_or_default().split(|byte| *byte == b'\n').filter(|line| !line.is_empty())
        {
            inner.apply(&serde_json::from_slice(line)?)?;
        }
        Ok(Self(Mutex::new(Inner { file: Some(file), ..inner })))
    }

    pub(super) fn fates(&self) -> Fates {
        self.lock().fates
    }

    pub(super) fn unfinished(&self) -> Unfinished {
        let inner = self.lock();
        Unfinished {
            announced: inner
                .announced
                .iter()
                .map(|(place, said)| (*place, said.id.clone(), said.letter.clone()))
                .collect(),
            ended: inner.ended.iter().map(|(place, id)| (*place, id.clone())).collect(),
        }
    }

    /// Whether every letter whose event has ended is out.
    pub(super) fn is_finished(&self) -> bool {
        self.lock().ended.is_empty()
    }

    /// A new dead letter is about to be published for the event of the letter at `place`.
    pub(super) fn announce(&self, place: LetterPlace, id: &str, letter: &str) -> io::Result<()> {
        let mut inner = self.lock();
        if inner.announced.contains_key(&place) {
            return Ok(());
        }
        inner.write(&Line::Announced { place: place.to_string(), id: id.to_owned(), letter: letter.to_owned() })
    }

    /// The new dead letter that was announced is there.
    pub(super) fn published(&self, place: LetterPlace) {
        if let Some(announced) = self.lock().announced.get_mut(&place) {
            announced.is_published = true;
        }
    }

    /// The new dead letter that an earlier run announced is not there.
    pub(super) fn withdraw(&self, place: LetterPlace) {
        self.lock().announced.remove(&place);
    }

    /// The event of the letter at `place` has ended: the letter is to be taken out.
    pub(super) fn ended(&self, place: LetterPlace, id: &str) -> io::Result<()> {
        let mut inner = self.lock();
        if inner.ended.contains_key(&place) {
            return Ok(());
        }
        let failed = inner.announced.get(&place).is_some_and(|announced| announced.is_published);
        let fate = if failed { Fate::Failed } else { Fate::Succeeded };
        inner.write(&Line::Ended { place: place.to_string(), id: id.to_owned(), fate })
    }

    /// The letter at `place` is out.
    pub(super) fn out(&self, place: LetterPlace) -> io::Result<()> {
        self.lock().write(&Line::Out { place: place.to_string() })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// Writes a line, and takes it to be true when it is written.
    fn write(&mut self, line: &Line) -> io::Result<()> {
        if let Some(file) = &mut self.file {
            let mut bytes = serde_json::to_vec(line)?;
            bytes.push(b'\n');
            file.write_all(&bytes)?;
        }
        self.apply(line)
    }

    fn apply(&mut self, line: &Line) -> io::Result<()> {
        let place = |place: &str| place.parse::<LetterPlace>().map_err(io::Error::other);
        match line {
            Line::Announced { place: at, id, letter } => {
                let announced = Announced { id: id.clone(), letter: letter.clone(), is_published: false };
                self.announced.insert(place(at)?, announced);
            }
            Line::Ended { place: at, id, fate } => {
                let count = match fate {
                    Fate::Succeeded => &mut self.fates.succeeded,
                    Fate::Failed => &mut self.fates.failed,
                };
                *count = count.saturating_add(1);
                self.announced.remove(&place(at)?);
                self.ended.insert(place(at)?, id.clone());
            }
            Line::Out { place: at } => {
                self.ended.remove(&place(at)?);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use tempfile::TempDir;

    use super::*;

    fn place(sequence: u64) -> LetterPlace {
        LetterPlace { partition: Some(3), sequence }
    }

    fn journal() -> (TempDir, PathBuf) {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("journal");
        (folder, path)
    }

    #[test]
    fn a_later_run_finds_each_letter_counted_once_and_what_it_has_to_finish() {
        let (_folder, path) = journal();
        let first = Journal::open(Some(&path)).unwrap();
        first.ended(place(1), "a").unwrap();
        first.out(place(1)).unwrap();
        first.announce(place(2), "b", "b again").unwrap();
        first.published(place(2));
        first.ended(place(2), "b").unwrap();
        first.announce(place(3), "c", "c again").unwrap();
        drop(first);

        let second = Journal::open(Some(&path)).unwrap();

        assert_eq!(second.fates(), Fates { succeeded: 1, failed: 1 });
        let unfinished = second.unfinished();
        assert_eq!(unfinished.ended, [(place(2), "b".to_owned())]);
        assert_eq!(unfinished.announced, [(place(3), "c".to_owned(), "c again".to_owned())]);
        // What is taken out once more is not counted once more.
        second.ended(place(2), "b").unwrap();
        second.out(place(2)).unwrap();
        second.withdraw(place(3));
        second.ended(place(3), "c").unwrap();
        assert_eq!((second.fates(), second.is_finished()), (Fates { succeeded: 2, failed: 1 }, false));
    }

    #[test]
    fn a_line_that_was_cut_says_nothing_and_the_next_one_stands_by_itself() {
        let (_folder, path) = journal();
        Journal::open(Some(&path)).unwrap().ended(place(1), "a").unwrap();
        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, [&whole[..], &whole[..whole.len() / 2]].concat()).unwrap();

        let second = Journal::open(Some(&path)).unwrap();
        second.ended(place(2), "b").unwrap();

        assert_eq!(Journal::open(Some(&path)).unwrap().fates(), Fates { succeeded: 2, failed: 0 });
    }
}
