//! Dead letters in their topic: read until they are taken out, and put back as they were.

use std::time::Duration;

use millrace_core::{
    kept::Kept,
    letters::{LetterKeeper as _, LetterPlace, LetterReader as _, LettersError, StoredLetter},
    ports::DeadLetters as _,
};
use millrace_events::{DeadLetter, Headers};
use millrace_kafka::{
    Auth, DeadLetterOptions, KafkaDeadLetters, KafkaLetterKeeper, KafkaOptions, Mechanism, MountedSecret, kept,
    open_letters,
};
use millrace_testkit::kafka_server::{KafkaServer, USER};
use tempfile::TempDir;

use crate::support::{connection, letter, options};

/// A topic of orders, and one of dead letters.
struct Scene {
    server: KafkaServer,
    options: KafkaOptions,
    dead_letters: KafkaDeadLetters,
}

impl Scene {
    async fn start(settings: &[(&str, &str)]) -> Self {
        let server = KafkaServer::start().await;
        server.create_topic("orders", 3, &[]).await;
        server.create_topic("dlq", 2, settings).await;
        let mut options = options(server.bootstrap(), "orders", "shop-emails");
        options.dead_letter_topic = Some("dlq".to_owned());
        let to = DeadLetterOptions { topic: "dlq".to_owned(), max_bytes: 100_000, timeout: Duration::from_secs(5) };
        let dead_letters = KafkaDeadLetters::new(connection(server.bootstrap()), to);
        Self { server, options, dead_letters }
    }

    /// The letters that are not taken out, and what takes them out.
    async fn letters(&self) -> (Vec<StoredLetter>, KafkaLetterKeeper) {
        let (mut reader, keeper) = open_letters(&self.options).await.unwrap();
        let mut letters = Vec::new();
        while let Some(letter) = reader.next().await.unwrap() {
            letters.push(letter);
        }
        assert!(reader.next().await.unwrap().is_none(), "it ends once and for all");
        (letters, keeper)
    }
}

/// What was read, by the letters' payloads; those that cannot be read say why.
fn said(letters: &[StoredLetter]) -> Vec<String> {
    let one = |stored: &StoredLetter| match &stored.letter {
        Ok(letter) => String::from_utf8_lossy(&letter.payload).chars().take(10).collect(),
        Err(problem) => problem.clone(),
    };
    let mut said: Vec<String> = letters.iter().map(one).collect();
    said.sort_unstable();
    said
}

fn place_of(letters: &[StoredLetter], wanted: &DeadLetter) -> LetterPlace {
    let found = letters.iter().find(|stored| stored.letter.as_ref().is_ok_and(|letter| letter == wanted));
    found.expect("it is there as it was given up").place
}

#[tokio::test(flavor = "multi_thread")]
async fn a_letter_is_read_as_it_was_given_up_until_it_is_taken_out_whatever_is_left_before_it() {
    let scene = Scene::start(&[]).await;
    let publisher = scene.server.publisher();
    let large = "x".repeat(200_000);
    publisher.send("orders", Some(b"large"), &Headers::new(), Some(large.as_bytes()));
    publisher.send("dlq", Some(b"stray"), &Headers::new(), Some(b"not a dead letter"));
    publisher.flush();
    let at = scene.server.read("orders", 3, 1)[0].partition;
    let by_reference = letter("large", at.try_into().unwrap(), 0, large);
    let [first, second, third] = ["first", "second", "third"].map(|payload| letter("same key", 1, 7, payload));
    // A crash in the middle of giving it up made two of the second.
    for letter in [&by_reference, &first, &second, &second, &third] {
        scene.dead_letters.publish(letter).await.unwrap();
    }

    let (letters, keeper) = scene.letters().await;
    let stray = "no dead letter: the header \"millrace-origin\" is missing or wrong";
    assert_eq!(said(&letters), ["first", stray, "second", "second", "third", "xxxxxxxxxx"]);
    place_of(&letters, &by_reference);
    for _ in 0..2 {
        keeper.take_out(place_of(&letters, &second), &second.id).await.unwrap();
    }
    assert_eq!(said(&scene.letters().await.0), ["first", stray, "third", "xxxxxxxxxx"]);

    // What is given up after that is another matter, also with the same id.
    let (mut early, _) = open_letters(&scene.options).await.unwrap();
    scene.dead_letters.publish(&second).await.unwrap();
    let (letters, keeper) = scene.letters().await;
    assert_eq!(said(&letters), ["first", stray, "second", "third", "xxxxxxxxxx"]);
    let mut seen_early = 0;
    while early.next().await.unwrap().is_some() {
        seen_early += 1;
    }
    assert_eq!(seen_early, 4, "what comes after the start is left for another time");

    for letter in [&first, &second, &third, &by_reference] {
        keeper.take_out(place_of(&letters, letter), &letter.id).await.unwrap();
    }
    assert_eq!(said(&scene.letters().await.0), [stray]);

    let gone = letter("large", at.try_into().unwrap(), 99, "y".repeat(200_000));
    scene.dead_letters.publish(&gone).await.unwrap();
    assert_eq!(said(&scene.letters().await.0), ["its payload is not at its origin any more", stray]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_put_back_goes_to_its_own_partition_as_it_was_and_a_compacted_topic_loses_nothing_by_marks() {
    let mut scene = Scene::start(&[("cleanup.policy", "compact")]).await;
    let letters = [letter("a", 0, 1, "one"), letter("a", 2, 2, "two"), letter("a", 9, 3, "three")];
    for letter in &letters {
        scene.dead_letters.publish(letter).await.unwrap();
    }
    let (stored, keeper) = scene.letters().await;
    assert_eq!(stored.len(), 3);

    for letter in &letters {
        keeper.put_back(letter).await.unwrap();
    }
    let mut records = scene.server.read("orders", 3, 3);
    records.sort_unstable_by_key(|record| record.payload.clone());
    for (record, (payload, partition)) in records.iter().zip([("one", Some(0)), ("three", None), ("two", Some(2))]) {
        assert_eq!(record.payload.as_deref(), Some(payload.as_bytes()));
        assert_eq!(record.key.as_deref(), Some(b"a".as_slice()));
        assert_eq!(record.headers.get("other").unwrap(), [0xff, 0x00].as_slice());
        assert_eq!(record.headers.get_str("ce_id"), Some("1"));
        assert_eq!(record.headers.get_str("millrace-replays"), Some("1"));
        assert!(partition.is_none_or(|partition| record.partition == partition), "{record:?}");
    }
    keeper.take_out(place_of(&stored, &letters[0]), &letters[0].id).await.unwrap();
    assert_eq!(said(&scene.letters().await.0), ["three", "two"]);

    // Nobody takes the word: it is not gone. And a reader that is in the middle waits for a broker that comes back.
    for number in 0..100_u64 {
        scene.dead_letters.publish(&letter("large", 1, number, vec![b'x'; 90_000])).await.unwrap();
    }
    let (mut reader, keeper) = open_letters(&scene.options).await.unwrap();
    scene.server.kill();
    let refused = keeper.put_back(&letters[1]).await.unwrap_err();
    assert!(matches!(refused, LettersError::PutBack(_)), "{refused}");
    let refused = keeper.take_out(place_of(&stored, &letters[1]), &letters[1].id).await.unwrap_err();
    assert!(matches!(refused, LettersError::TakeOut(_)), "{refused}");
    scene.server.restart().await;
    let mut left = Vec::new();
    loop {
        match reader.next().await {
            Ok(Some(letter)) => left.push(letter),
            Ok(None) => break,
            Err(error) => assert!(matches!(error, LettersError::Read(_)), "{error}"),
        }
    }
    assert_eq!(left.len(), 102);
}

#[tokio::test(flavor = "multi_thread")]
async fn how_long_topics_keep_events_is_asked_and_not_known_without_the_right_to_ask() {
    let server = KafkaServer::start().await;
    server.create_topic("hour", 1, &[("retention.ms", "3600000")]).await;
    server.create_topic("forever", 1, &[("retention.ms", "-1")]).await;
    server.create_topic("compacted", 1, &[("cleanup.policy", "compact")]).await;
    let topics = ["hour", "forever", "compacted", "missing"];
    let mut options = options(server.bootstrap(), "", "shop-emails");
    options.topics = topics.map(str::to_owned).to_vec();

    let answers = kept(&options).await;
    assert_eq!(answers.iter().map(|(topic, _)| topic.as_str()).collect::<Vec<_>>(), topics);
    assert_eq!(answers[0].1, Ok(Kept::For(Duration::from_hours(1))));
    assert_eq!((&answers[1].1, &answers[2].1), (&Ok(Kept::Forever), &Ok(Kept::Forever)));
    assert!(answers[3].1.is_err());

    server.allow_only("hour", "Read");
    let secret = TempDir::new().unwrap();
    for (key, value) in [("username", USER.0), ("password", USER.1)] {
        std::fs::write(secret.path().join(key), value).unwrap();
    }
    let secret = MountedSecret { name: "kafka".to_owned(), directory: secret.path().to_owned() };
    options.connection.bootstrap_servers = vec![server.sasl()];
    options.connection.auth = Some(Auth { secret, mechanism: Mechanism::ScramSha256 });
    let answers = kept(&options).await;
    let problem = answers[0].1.clone().unwrap_err();
    assert!(problem.contains("grant DescribeConfigs"), "{problem}");
    assert_eq!(answers[1].1, Ok(Kept::Forever));
}
