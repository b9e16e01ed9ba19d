//! A shop in a namespace of its own: NATS, a mail sink, and whatever consumers a scenario applies.

use std::{collections::BTreeMap, time::Duration};

use serde_json::Value;

use crate::{
    cluster::Cluster,
    dead_letters::{self, DeadLetter},
    wait_for,
};

const PATIENCE: Duration = Duration::from_secs(90);

/// A shop in a namespace of its own. The namespace enforces the `restricted` Pod Security level.
#[derive(Debug)]
pub struct Shop {
    /// The cluster that it is on.
    pub cluster: Cluster,
    /// Its namespace.
    pub namespace: String,
}

/// What an `analytics` or `email` consumer has done, over all its pods that are there.
#[derive(Clone, Debug, Default)]
pub struct Totals {
    /// Sums of the totals in `/status`.
    pub sums: BTreeMap<String, u64>,
    /// Deliveries at work.
    pub in_flight: u64,
}

impl Totals {
    /// One of the sums.
    pub fn of(&self, name: &str) -> u64 {
        self.sums.get(name).copied().unwrap_or_default()
    }
}

impl Shop {
    /// Opens a shop in a fresh namespace.
    pub fn open(cluster: Cluster, namespace: &str) -> Self {
        let namespace = namespace.to_owned();
        drop(cluster.try_kubectl(&["delete", "namespace", &namespace, "--wait", "--timeout=120s"], ""));
        cluster.kubectl(&["create", "namespace", &namespace]);
        cluster.kubectl(&["label", "namespace", &namespace, "pod-security.kubernetes.io/enforce=restricted"]);
        let shop = Self { cluster, namespace };
        shop.apply_manifest("broker");
        shop
    }

    /// Applies one of `e2e/manifests` and waits until its Deployments are there.
    pub fn apply_manifest(&self, name: &str) {
        let versions = std::fs::read_to_string(self.cluster.path("deploy/tools/versions")).unwrap();
        let path = self.cluster.path(&format!("e2e/manifests/{name}.yaml"));
        let mut manifest = std::fs::read_to_string(path).unwrap();
        for (name, version) in versions.lines().filter_map(|line| line.split_once('=')) {
            manifest = manifest.replace(name, version);
        }
        self.cluster.apply(&self.namespace, &manifest).unwrap();
        let available =
            ["-n", &self.namespace, "wait", "deployment", "--all", "--for=condition=Available", "--timeout=90s"];
        self.cluster.kubectl(&available);
    }

    /// Closes the shop.
    pub fn close(self) {
        self.cluster.kubectl(&["delete", "namespace", &self.namespace, "--wait", "--timeout=120s"]);
    }

    /// Applies one of `deploy/examples`, pointed at this shop's broker and changed by `edit`.
    pub fn apply_example(&self, example: &str, edit: impl Fn(String) -> String) {
        let path = self.cluster.path(&format!("deploy/examples/{example}.yaml"));
        let yaml = std::fs::read_to_string(path).unwrap().replace("nats.nats.svc", "nats");
        self.cluster.apply(&self.namespace, &edit(yaml)).unwrap();
    }

    /// Waits until a consumer is ready.
    pub fn wait_ready(&self, name: &str) {
        wait_for(&format!("{name} is ready"), PATIENCE, || {
            let (status, ..) = self.cluster.condition(&self.namespace, name, "Ready")?;
            (status == "True").then_some(())
        });
    }

    /// Waits until a condition of a consumer has a reason, and gives its message.
    pub fn wait_reason(&self, name: &str, condition: &str, reason: &str, patience: Duration) -> String {
        wait_for(&format!("{name} has {condition} with {reason}"), patience, || {
            let (_, seen, message) = self.cluster.condition(&self.namespace, name, condition)?;
            (seen == reason).then_some(message)
        })
    }

    /// Starts the producer as a Job, which creates the streams too.
    pub fn start_producer(&self, name: &str, arguments: &[&str]) {
        self.start_producer_to(&["--server=nats://nats:4222"], name, arguments);
    }

    /// The same, to topics of Kafka.
    pub fn start_producer_to_kafka(&self, name: &str, arguments: &[&str]) {
        self.start_producer_to(&["--broker=kafka", "--server=kafka:9092"], name, arguments);
    }

    fn start_producer_to(&self, broker: &[&str], name: &str, arguments: &[&str]) {
        let arguments = [broker, &["--create-streams", "--summary-json"], arguments].concat();
        let job = serde_json::json!({
            "apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name},
            "spec": {"backoffLimit": 0, "template": {"spec": {
                "restartPolicy": "Never", "automountServiceAccountToken": false,
                "securityContext": {"runAsNonRoot": true, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"}},
                "containers": [{
                    "name": "producer", "image": "millrace/producer:dev", "imagePullPolicy": "IfNotPresent", "args": arguments,
                    "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}},
                }],
            }}},
        });
        self.cluster.apply(&self.namespace, &job.to_string()).unwrap();
    }

    /// The producer's summary, once it has ended.
    pub fn producer_summary(&self, name: &str, patience: Duration) -> Value {
        let job = wait_for("the producer ends", patience, || {
            let job = self.cluster.get(&self.namespace, &["job", name])?;
            let ended = job["status"]["succeeded"] == 1 || job["status"]["failed"] == 1;
            ended.then_some(job)
        });
        let log = self.cluster.kubectl(&["-n", &self.namespace, "logs", &format!("job/{name}")]);
        assert_eq!(job["status"]["succeeded"], 1, "the producer failed: {log}");
        let summary = log.lines().find(|line| line.starts_with('{')).expect("the producer prints its summary");
        serde_json::from_str(summary).unwrap()
    }

    /// Pods of a consumer.
    pub fn pods(&self, consumer: &str) -> Vec<Value> {
        let selector = format!("millrace.dev/consumer={consumer}");
        let list = self.cluster.get(&self.namespace, &["pods", "-l", &selector]);
        list.and_then(|list| list["items"].as_array().cloned()).unwrap_or_default()
    }

    /// What a pod's `/status` says.
    pub fn status(&self, pod: &str) -> Option<Value> {
        self.cluster.ask(&self.namespace, &format!("pods/{pod}:8080"), "/status")
    }

    /// The totals of a consumer over its pods.
    pub fn totals(&self, consumer: &str) -> Totals {
        let mut totals = Totals::default();
        for pod in self.pods(consumer) {
            let Some(status) = self.status(pod["metadata"]["name"].as_str().unwrap()) else { continue };
            for (name, value) in status["totals"].as_object().unwrap() {
                *totals.sums.entry(name.clone()).or_default() += value.as_u64().unwrap();
            }
            totals.in_flight += status["lag"]["inFlight"].as_u64().unwrap();
        }
        totals
    }

    /// What the server says of a durable: events not delivered, and delivered and not acked. `None` while it is not there.
    pub fn pending(&self, durable: &str) -> Option<(u64, u64)> {
        let streams = self.cluster.ask(&self.namespace, "services/nats:8222", "/jsz?streams=true&consumers=true")?;
        let details = streams["account_details"][0]["stream_detail"].as_array()?.clone();
        let consumers =
            details.iter().flat_map(|stream| stream["consumer_detail"].as_array().cloned().unwrap_or_default());
        let durable = consumers.into_iter().find(|consumer| consumer["name"] == durable)?;
        Some((durable["num_pending"].as_u64()?, durable["num_ack_pending"].as_u64()?))
    }

    /// Waits until a durable has nothing left.
    pub fn wait_drained(&self, durable: &str, patience: Duration) {
        wait_for(&format!("nothing is pending for {durable}"), patience, || {
            (self.pending(durable)? == (0, 0)).then_some(())
        });
    }

    /// What is in the dead-letter stream, each beside the message that it was made of.
    pub fn dead_letters(&self) -> Vec<DeadLetter> {
        dead_letters::read(&self.cluster, &self.namespace)
    }

    /// How often the sink has got each e-mail, by `Message-ID`.
    pub fn mails(&self) -> BTreeMap<String, u64> {
        let mut mails = BTreeMap::new();
        for start in (0..).step_by(1000) {
            let path = format!("/api/v1/messages?limit=1000&start={start}");
            let page =
                self.cluster.ask(&self.namespace, "services/mailpit:8025", &path).expect("the mail sink answers");
            let messages = page["messages"].as_array().unwrap();
            if messages.is_empty() {
                break;
            }
            for mail in messages {
                *mails.entry(mail["MessageID"].as_str().unwrap().to_owned()).or_default() += 1;
            }
        }
        mails
    }

    /// Dead letters of a consumer by reason, as its pods count them.
    pub fn dead_letters_by_reason(&self, consumer: &str) -> BTreeMap<String, u64> {
        let mut reasons = BTreeMap::new();
        for pod in self.pods(consumer) {
            let name = pod["metadata"]["name"].as_str().unwrap();
            let raw = format!("/api/v1/namespaces/{}/pods/{name}:8080/proxy/metrics", self.namespace);
            let metrics = self.cluster.try_kubectl(&["get", "--raw", &raw], "").unwrap_or_default();
            for (reason, count) in crate::dead_letters(&metrics) {
                *reasons.entry(reason).or_default() += count;
            }
        }
        reasons
    }
}
