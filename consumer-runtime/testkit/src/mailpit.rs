//! A real SMTP server for one test: mailpit, which keeps what it gets and can be told to refuse.

use std::{
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::sleep,
};

use crate::{
    nats_server::{free_port, tool},
    wait::START,
};

/// How often a start is tried. Mailpit cannot choose its ports by itself, so one may be taken when it starts.
const STARTS_MAX: u32 = 5;

/// A mailpit on loopback. It ends with this value.
pub struct Mailpit {
    smtp_port: u16,
    http_port: u16,
    process: Child,
}

/// A message that mailpit has got.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Mail {
    /// Its `Message-ID`, without the angle brackets.
    pub message_id: String,
    /// The address of its first receiver.
    pub to: String,
    /// Its subject.
    pub subject: String,
}

impl Mailpit {
    /// Starts a server that takes everything, with `arguments` for mailpit beside, and waits until it answers.
    pub async fn start(arguments: &[&str]) -> Self {
        for _ in 0..STARTS_MAX {
            let mut server = Self::spawn(arguments);
            if server.answers().await {
                return server;
            }
        }
        panic!("mailpit ended at once, {STARTS_MAX} times");
    }

    fn spawn(arguments: &[&str]) -> Self {
        let (smtp_port, http_port) = (free_port(), free_port());
        let process = Command::new(tool("mailpit", "MAILPIT"))
            .args(["--smtp", &format!("127.0.0.1:{smtp_port}"), "--listen", &format!("127.0.0.1:{http_port}")])
            .args(["--disable-version-check", "--max", "0", "--enable-chaos"])
            .args(arguments)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("mailpit cannot be started");
        Self { smtp_port, http_port, process }
    }

    /// Waits until it answers. False when it has ended: somebody else took its ports in between.
    async fn answers(&mut self) -> bool {
        let deadline = Instant::now() + START;
        for port in [self.smtp_port, self.http_port] {
            while TcpStream::connect(("127.0.0.1", port)).await.is_err() {
                if self.has_ended() {
                    return false;
                }
                assert!(Instant::now() < deadline, "mailpit does not answer on port {port}");
                sleep(Duration::from_millis(10)).await;
            }
        }
        !self.has_ended()
    }

    fn has_ended(&mut self) -> bool {
        self.process.try_wait().unwrap().is_some()
    }

    /// Where it takes mail.
    pub fn smtp_port(&self) -> u16 {
        self.smtp_port
    }

    /// What it has got, newest first.
    pub async fn mails(&self) -> Vec<Mail> {
        let answer = self.request("GET", "/api/v1/messages?limit=10000", "").await;
        let messages = answer["messages"].as_array().expect("mailpit lists messages");
        let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
        messages
            .iter()
            .map(|mail| Mail {
                message_id: text(&mail["MessageID"]),
                to: text(&mail["To"][0]["Address"]),
                subject: text(&mail["Subject"]),
            })
            .collect()
    }

    /// Refuses every receiver with this SMTP code from now on; 0 takes them again.
    pub async fn refuse_recipients(&self, code: u16) {
        let (code, probability) = if code == 0 { (451, 0) } else { (code, 100) };
        let body = format!("{{\"Recipient\":{{\"ErrorCode\":{code},\"Probability\":{probability}}}}}");
        self.request("PUT", "/api/v1/chaos", &body).await;
    }

    async fn request(&self, method: &str, path: &str, body: &str) -> serde_json::Value {
        let mut stream = TcpStream::connect(("127.0.0.1", self.http_port)).await.unwrap();
        let request = format!(
            "{method} {path} HTTP/1.0\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").expect("mailpit answers with HTTP");
        assert!(head.contains(" 200 "), "{head}");
        serde_json::from_str(body).expect("mailpit answers with JSON")
    }
}

impl Drop for Mailpit {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}
