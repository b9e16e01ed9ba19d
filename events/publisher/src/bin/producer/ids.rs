//! The list of what was published, for whoever looks for what is missing.

use std::{
    fs::File,
    io::{BufWriter, Write},
    path::Path,
};

use crate::{generate::Message, run::Error};

/// A file with the id and the type of every unique valid event, one a line; nothing where none is asked for.
pub(crate) struct Ids(Option<(String, BufWriter<File>)>);

impl Ids {
    pub(crate) fn create(path: Option<&Path>) -> Result<Self, Error> {
        let Some(path) = path else { return Ok(Self(None)) };
        let name = path.display().to_string();
        match File::create(path) {
            Ok(file) => Ok(Self(Some((name, BufWriter::new(file))))),
            Err(source) => Err(Error::Write { path: name, source }),
        }
    }

    /// Adds a message that the broker has confirmed.
    pub(crate) fn add(&mut self, message: &Message) -> Result<(), Error> {
        let (Self(Some((path, file))), Message::New(valid)) = (self, message) else { return Ok(()) };
        let written = writeln!(file, "{} {}", valid.event.id, valid.event.event_type);
        written.map_err(|source| Error::Write { path: path.clone(), source })
    }

    pub(crate) fn finish(self) -> Result<(), Error> {
        let Some((path, mut file)) = self.0 else { return Ok(()) };
        file.flush().map_err(|source| Error::Write { path, source })
    }
}
