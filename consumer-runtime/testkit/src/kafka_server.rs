//! A real Apache Kafka for one test: one node, which is its own controller.

use std::{
    env,
    fmt::Write as _,
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use bytes::Bytes;
use millrace_events::Headers;
use rdkafka::{
    ClientConfig, Message as _, Offset, TopicPartitionList,
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    client::DefaultClientContext,
    consumer::{BaseConsumer, Consumer as _},
    message::{Header, Headers as _, OwnedHeaders},
    producer::{BaseProducer, BaseRecord, Producer as _},
};
use tempfile::TempDir;
use tokio::time::sleep;

use crate::nats_server::{free_port, tool};

/// How long a JVM may take until it serves, on a busy machine.
const START: Duration = Duration::from_secs(90);

/// How long one request of a test may take.
const REQUEST: Duration = Duration::from_secs(10);

/// The user that every server knows, by SCRAM and by PLAIN, and its password.
pub const USER: (&str, &str) = ("ada", "lovelace");

/// A Kafka on loopback ports with its own data. It ends with this value.
pub struct KafkaServer {
    data: TempDir,
    ports: Ports,
    process: Option<Child>,
}

#[derive(Clone, Copy)]
struct Ports {
    plain: u16,
    controller: u16,
    sasl: u16,
    tls: u16,
    sasl_tls: u16,
}

/// The certificate of a server, and the authority that its clients' are from; PEM.
#[derive(Clone, Debug)]
pub struct ServerCertificate {
    /// Certificate.
    pub certificate: String,
    /// Its key.
    pub key: String,
    /// The authority that clients' certificates are from.
    pub authority: String,
}

/// A record that a test reads.
#[derive(Clone, Debug)]
pub struct Record {
    /// Its key.
    pub key: Option<Bytes>,
    /// Its headers.
    pub headers: Headers,
    /// Its value.
    pub payload: Option<Bytes>,
    /// Its partition.
    pub partition: i32,
}

impl KafkaServer {
    /// Starts a server and waits until it answers.
    pub async fn start() -> Self {
        Self::start_with(None).await
    }

    /// Starts a server that has listeners with TLS too, and waits until it answers.
    pub async fn secured(certificate: &ServerCertificate) -> Self {
        Self::start_with(Some(certificate)).await
    }

    async fn start_with(certificate: Option<&ServerCertificate>) -> Self {
        let data = TempDir::new().unwrap();
        let [plain, controller, sasl, tls, sasl_tls] = [(); 5].map(|()| free_port());
        let ports = Ports { plain, controller, sasl, tls, sasl_tls };
        let mut server = Self { data, ports, process: None };
        copy(&formatted(), &server.data.path().join("log"));
        fs::write(server.data.path().join("server.properties"), server.properties(certificate)).unwrap();
        server.restart().await;
        server
    }

    fn properties(&self, certificate: Option<&ServerCertificate>) -> String {
        let Ports { plain, controller, sasl, tls, sasl_tls } = self.ports;
        let mut listeners = format!("PLAINTEXT://127.0.0.1:{plain},SASL://127.0.0.1:{sasl}");
        let mut security = String::new();
        if let Some(certificate) = certificate {
            write!(listeners, ",TLS://127.0.0.1:{tls},SASLTLS://127.0.0.1:{sasl_tls}").unwrap();
            let own = self.data.path().join("server.pem");
            fs::write(&own, format!("{}{}", certificate.key, certificate.certificate)).unwrap();
            let trusted = self.data.path().join("ca.pem");
            fs::write(&trusted, &certificate.authority).unwrap();
            security = format!(
                "ssl.keystore.type=PEM\nssl.keystore.location={}\nssl.truststore.type=PEM\nssl.truststore.location={}\n\
                 listener.name.tls.ssl.client.auth=required\n",
                own.display(),
                trusted.display()
            );
        }
        let (user, password) = USER;
        let plain_login = "org.apache.kafka.common.security.plain.PlainLoginModule required";
        let scram_login = "org.apache.kafka.common.security.scram.ScramLoginModule required;";
        for listener in ["sasl", "sasltls"] {
            write!(
                security,
                "listener.name.{listener}.sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512\n\
                 listener.name.{listener}.plain.sasl.jaas.config={plain_login} user_{user}=\"{password}\";\n\
                 listener.name.{listener}.scram-sha-256.sasl.jaas.config={scram_login}\n\
                 listener.name.{listener}.scram-sha-512.sasl.jaas.config={scram_login}\n"
            )
            .unwrap();
        }
        format!(
            "process.roles=broker,controller\nnode.id=1\ncontroller.quorum.voters=1@127.0.0.1:{controller}\n\
             listeners={listeners},CONTROLLER://127.0.0.1:{controller}\nadvertised.listeners={listeners}\n\
             controller.listener.names=CONTROLLER\ninter.broker.listener.name=PLAINTEXT\n\
             listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SASL:SASL_PLAINTEXT,TLS:SSL,SASLTLS:SASL_SSL\n\
             log.dirs={}\noffsets.topic.replication.factor=1\noffsets.topic.num.partitions=4\n\
             transaction.state.log.replication.factor=1\ntransaction.state.log.min.isr=1\ntransaction.state.log.num.partitions=1\n\
             auto.create.topics.enable=false\ngroup.initial.rebalance.delay.ms=0\ngroup.min.session.timeout.ms=1000\n\
             num.network.threads=2\nnum.io.threads=2\nlog.cleaner.backoff.ms=200\n\
             authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer\nsuper.users=User:ANONYMOUS\n\
             allow.everyone.if.no.acl.found=true\n{security}",
            self.data.path().join("log").display()
        )
    }

    /// Where clients find it.
    pub fn bootstrap(&self) -> String {
        format!("127.0.0.1:{}", self.ports.plain)
    }

    /// Where clients find it that have a user.
    pub fn sasl(&self) -> String {
        format!("127.0.0.1:{}", self.ports.sasl)
    }

    /// Where clients find it that speak TLS and have a certificate.
    pub fn tls(&self) -> String {
        format!("127.0.0.1:{}", self.ports.tls)
    }

    /// Where clients find it that speak TLS and have a user.
    pub fn sasl_tls(&self) -> String {
        format!("127.0.0.1:{}", self.ports.sasl_tls)
    }

    /// Kills the server with SIGKILL, as a crash would.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }

    /// Starts it again with the same data, and waits until it answers.
    pub async fn restart(&mut self) {
        self.kill();
        let log = File::create(self.data.path().join("out.log")).unwrap();
        let mut command = Command::new(tool("kafka", "KAFKA"));
        command
            .arg("kafka.Kafka")
            .arg(self.data.path().join("server.properties"))
            .env("KAFKA_JVM", "-Xms96m -Xmx384m -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -Xshare:auto")
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log);
        self.process = Some(command.spawn().expect("kafka cannot be started"));
        let deadline = Instant::now() + START;
        let client: BaseConsumer = self.client().create().unwrap();
        while client.fetch_metadata(None, Duration::from_millis(500)).is_err() {
            let ended = self.process.as_mut().and_then(|process| process.try_wait().unwrap());
            let said = || fs::read_to_string(self.data.path().join("out.log")).unwrap_or_default();
            assert!(ended.is_none(), "kafka ended at once: {ended:?}\n{}", said());
            assert!(Instant::now() < deadline, "kafka does not answer:\n{}", said());
            sleep(Duration::from_millis(50)).await;
        }
    }

    fn client(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", self.bootstrap()).set("reconnect.backoff.max.ms", "200");
        config
    }

    /// Makes a topic.
    pub async fn create_topic(&self, name: &str, partitions: i32, settings: &[(&str, &str)]) {
        let admin: AdminClient<DefaultClientContext> = self.client().create().unwrap();
        let mut topic = NewTopic::new(name, partitions, TopicReplication::Fixed(1));
        for (key, value) in settings {
            topic = topic.set(key, value);
        }
        let made = admin.create_topics([&topic], &AdminOptions::new().operation_timeout(Some(REQUEST))).await;
        made.unwrap().remove(0).unwrap();
    }

    /// Deletes a topic.
    pub async fn delete_topic(&self, name: &str) {
        let admin: AdminClient<DefaultClientContext> = self.client().create().unwrap();
        admin.delete_topics(&[name], &AdminOptions::new()).await.unwrap().remove(0).unwrap();
    }

    /// From now on [`USER`] may do nothing with a topic but this. Who has no user may do everything.
    pub fn allow_only(&self, topic: &str, operation: &str) {
        let (user, _) = USER;
        let allowed = Command::new(tool("kafka", "KAFKA"))
            .arg("org.apache.kafka.tools.AclCommand")
            .args(["--bootstrap-server", &self.bootstrap(), "--add", "--topic", topic, "--operation", operation])
            .args(["--allow-principal", &format!("User:{user}")])
            .env("KAFKA_JVM", "-Xmx128m -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -Xshare:auto")
            .output()
            .unwrap();
        assert!(allowed.status.success(), "{allowed:?}");
    }

    /// A way to publish.
    pub fn publisher(&self) -> KafkaPublisher {
        let mut config = self.client();
        config.set("acks", "all").set("enable.idempotence", "true").set("linger.ms", "2");
        KafkaPublisher(config.create().unwrap())
    }

    /// What a group has committed of a topic: the position and metadata of each partition.
    pub fn committed(&self, group: &str, topic: &str, partitions: i32) -> Vec<(Option<i64>, String)> {
        let mut config = self.client();
        let client: BaseConsumer = config.set("group.id", group).create().unwrap();
        let mut list = TopicPartitionList::new();
        list.add_partition_range(topic, 0, partitions - 1);
        let committed = client.committed_offsets(list, REQUEST).unwrap();
        let offset = |offset| if let Offset::Offset(offset) = offset { Some(offset) } else { None };
        committed.elements().iter().map(|one| (offset(one.offset()), one.metadata().to_owned())).collect()
    }

    /// Records that a topic has ever had.
    pub fn ends(&self, topic: &str, partitions: i32) -> i64 {
        let client: BaseConsumer = self.client().create().unwrap();
        (0..partitions).map(|partition| client.fetch_watermarks(topic, partition, REQUEST).unwrap().1).sum()
    }

    /// The first `count` records of a topic.
    pub fn read(&self, topic: &str, partitions: i32, count: usize) -> Vec<Record> {
        let mut config = self.client();
        let client: BaseConsumer = config.set("group.id", "a test that looks").create().unwrap();
        let mut list = TopicPartitionList::new();
        for partition in 0..partitions {
            list.add_partition_offset(topic, partition, Offset::Beginning).unwrap();
        }
        client.assign(&list).unwrap();
        let deadline = Instant::now() + REQUEST;
        let mut records = Vec::new();
        while records.len() < count {
            assert!(Instant::now() < deadline, "{topic} has {} records and not {count}", records.len());
            let Some(Ok(message)) = client.poll(Duration::from_millis(100)) else { continue };
            let mut headers = Headers::new();
            for header in message.headers().into_iter().flat_map(|headers| headers.iter()) {
                headers.push(header.key, header.value.unwrap_or_default().to_vec());
            }
            let copy = |bytes: &[u8]| Bytes::copy_from_slice(bytes);
            let (key, payload, partition) = (message.key().map(copy), message.payload().map(copy), message.partition());
            records.push(Record { key, headers, payload, partition });
        }
        records
    }
}

impl Drop for KafkaServer {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Publishes to a [`KafkaServer`].
pub struct KafkaPublisher(BaseProducer);

impl KafkaPublisher {
    /// Publishes a record, without waiting. A payload of `None` is a tombstone.
    pub fn send(&self, topic: &str, key: Option<&[u8]>, headers: &Headers, payload: Option<&[u8]>) {
        let headers = headers
            .iter()
            .fold(OwnedHeaders::new(), |all, (key, value)| all.insert(Header { key, value: Some(value.as_ref()) }));
        let mut record: BaseRecord<'_, [u8], [u8]> = BaseRecord::to(topic).headers(headers);
        (record.key, record.payload) = (key, payload);
        self.enqueue(record);
    }

    /// Publishes with this time of its making, in milliseconds since 1970.
    pub fn send_at(&self, topic: &str, milliseconds: i64, payload: &[u8]) {
        self.enqueue(BaseRecord::to(topic).timestamp(milliseconds).payload(payload));
    }

    fn enqueue(&self, mut record: BaseRecord<'_, [u8], [u8]>) {
        while let Err((_, refused)) = self.0.send(record) {
            // Its queue is full.
            record = refused;
            self.0.poll(Duration::from_millis(10));
        }
    }

    /// Waits until the server has everything.
    pub fn flush(&self) {
        self.0.flush(Duration::from_secs(30)).unwrap();
    }
}

/// The data folder that `deploy/tools/get kafka` has formatted.
fn formatted() -> PathBuf {
    let cache = env::var_os("MILLRACE_CACHE")
        .map_or_else(|| PathBuf::from(env::var_os("HOME").unwrap_or_default()).join(".cache/millrace"), PathBuf::from);
    let formatted = cache.join("kafka/formatted");
    assert!(formatted.is_dir(), "{} not found: run deploy/tools/get kafka", formatted.display());
    formatted
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}
