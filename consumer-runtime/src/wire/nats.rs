//! NATS: the connection, the two sources, and their dead letters.

use std::sync::Arc;

use millrace_config::{InitialPosition as ConfiguredPosition, JetStream, Ordering, SecretRef};
use millrace_core::{
    health::Part,
    kept::Kept,
    ports::{IdempotencyStore, Reader, Settler},
};
use millrace_engine::OnExhausted;
use millrace_nats::{
    Connection, ConnectionOptions, CoreDeadLetters, CoreOptions, DeadLetterOptions, DeadLetterStream, InitialPosition,
    JetStreamDeadLetters, JetStreamOptions, MountedSecret, TlsOptions, connect, delete_durable, set_up, subscribe,
};

use crate::{
    report::Reporter,
    wire::{Connected, Letters, Parts, pauses, seconds},
};

/// Where deliveries come from and go back to.
struct Source {
    reader: Box<dyn Reader>,
    settler: Arc<dyn Settler>,
    on_exhausted: OnExhausted,
}

impl Parts {
    pub(super) async fn connect_nats(&self, reporter: &Reporter) -> Connected {
        let options = self.connection_options();
        let connection = self.until_it_works(Part::Broker, || connect(&options, &self.health)).await;
        let store = self.open_store(Some(&connection)).await;
        let Source { reader, settler, on_exhausted } = self.open_source(&connection, reporter).await;
        Connected { reader, settler, on_exhausted, store }
    }

    /// Says when the server answers and the store can be used.
    pub(super) async fn check_nats(&self) {
        let options = self.connection_options();
        let connection = self.until_it_works(Part::Broker, || connect(&options, &self.health)).await;
        self.health.works(Part::Broker);
        self.open_store(Some(&connection)).await;
    }

    /// Deletes the durable of this consumer, once its broker lets it; there is none with another broker than JetStream.
    pub(crate) async fn delete_durable(&self) {
        let Some(jet_stream) = &self.config.broker.jet_stream else { return };
        let (connecting, options) = (self.connection_options(), self.jet_stream_options(jet_stream));
        let connection = self.until_it_works(Part::Broker, || connect(&connecting, &self.health)).await;
        self.until_it_works(Part::Broker, || delete_durable(&connection, &options)).await;
    }

    pub(super) async fn nats_letters(&self) -> Letters {
        let subject = self.dead_letter_subject();
        let options = self.connection_options();
        let connection = self.until_it_works(Part::Broker, || connect(&options, &self.health)).await;
        let letters = self.until_it_works(Part::Broker, || DeadLetterStream::open(&connection, &subject)).await;
        Letters { reader: Box::new(letters.reader()), keeper: Arc::new(letters) }
    }

    /// Where events that are given up go, and where claims are kept, for a source of another kind.
    pub(super) async fn nats_store(&self) -> (OnExhausted, Option<Arc<dyn IdempotencyStore>>) {
        let options = self.connection_options();
        let connection = self.until_it_works(Part::Broker, || connect(&options, &self.health)).await;
        // What a letter has left at its origin stays there when the letter is put back.
        (self.jet_stream_exhausted(&connection, Kept::Forever), self.open_store(Some(&connection)).await)
    }

    fn jet_stream_exhausted(&self, connection: &Connection, kept: Kept) -> OnExhausted {
        self.on_exhausted(|subject, max_bytes| {
            let options = DeadLetterOptions { subject, max_bytes };
            Arc::new(JetStreamDeadLetters::new(connection.clone(), options, kept))
        })
    }

    fn connection_options(&self) -> ConnectionOptions {
        let broker = &self.config.broker;
        let mounted = |SecretRef { name }: &SecretRef, folder: &str| MountedSecret {
            name: name.clone(),
            directory: self.folders.secrets.join(folder),
        };
        ConnectionOptions {
            servers: broker.servers().to_vec(),
            auth: broker.auth_secret_ref().map(|secret| mounted(secret, "broker")),
            tls: broker.tls().map(|tls| TlsOptions {
                ca: tls.ca_secret_ref.as_ref().map(|secret| mounted(secret, "broker-ca")),
                client: tls.client_secret_ref.as_ref().map(|secret| mounted(secret, "broker-client")),
            }),
            name: format!("millrace {}/{}", self.config.consumer.namespace, self.config.consumer.name),
            request_timeout: self.request_timeout(),
            reconnect: pauses(&self.config),
        }
    }

    async fn open_source(&self, connection: &Connection, reporter: &Reporter) -> Source {
        if let Some(jet_stream) = &self.config.broker.jet_stream {
            let options = self.jet_stream_options(jet_stream);
            let setting_up = || set_up(connection, &options, &self.clock, &self.health);
            let source = self.until_it_works(Part::Broker, setting_up).await;
            reporter.lag_from(Box::new(source.lag));
            if let Some(remembered) = self.remembered() {
                remembered.compare(&format!("stream {:?}", source.stream), source.kept, &self.health);
            }
            return Source {
                reader: Box::new(source.reader),
                settler: Arc::new(source.settler),
                on_exhausted: self.jet_stream_exhausted(connection, source.kept),
            };
        }
        let options = CoreOptions {
            subjects: self.config.subjects.clone(),
            queue_group: self.config.queue_group(),
            // The engine has the other half.
            waiting_bytes: self.config.limits.in_flight_bytes / 2,
        };
        let subscribing = || subscribe(connection, &options, &self.clock, &self.health);
        let (reader, settler) = self.until_it_works(Part::Broker, subscribing).await;
        Source {
            reader: Box::new(reader),
            settler: Arc::new(settler),
            on_exhausted: self.on_exhausted(|subject, max_bytes| {
                Arc::new(CoreDeadLetters::new(connection.clone(), DeadLetterOptions { subject, max_bytes }))
            }),
        }
    }

    fn jet_stream_options(&self, jet_stream: &JetStream) -> JetStreamOptions {
        JetStreamOptions {
            stream: jet_stream.stream.clone(),
            durable: self.config.queue_group(),
            subjects: self.config.subjects.clone(),
            initial_position: match jet_stream.initial_position {
                ConfiguredPosition::All => InitialPosition::All,
                ConfiguredPosition::New => InitialPosition::New,
            },
            in_order: self.config.ordering == Ordering::Key,
            ack_wait: seconds(jet_stream.ack_wait_seconds),
            dead_letter_subject: self.config.delivery.dead_letter.as_ref().map(|letter| letter.subject.clone()),
        }
    }
}
