//! Objects made up from the schema of a definition: what it allows, and what it does not. The same seed makes the same ones.

use std::collections::HashMap;

use fastrand::Rng;
use proptest::{
    strategy::{Strategy as _, ValueTree as _},
    string::{RegexGeneratorStrategy, string_regex},
    test_runner::{Config, RngAlgorithm, TestRng, TestRunner},
};
use serde_json::{Map, Value, json};

/// Tries for a text that fits a pattern and its lengths.
const TRIES: usize = 200;

/// Makes up objects.
pub struct Generator {
    random: Rng,
    texts: TestRunner,
    patterns: HashMap<String, RegexGeneratorStrategy<String>>,
}

impl Generator {
    /// One that always makes up the same.
    pub fn new(seed: u64) -> Self {
        let texts = TestRng::from_seed(RngAlgorithm::ChaCha, &[seed.to_le_bytes(); 4].concat());
        Self {
            random: Rng::with_seed(seed),
            texts: TestRunner::new_with_rng(Config::default(), texts),
            patterns: HashMap::new(),
        }
    }

    /// A number below `end`.
    pub fn below(&mut self, end: usize) -> usize {
        self.random.usize(..end)
    }

    /// Any value that a schema allows.
    pub fn value(&mut self, schema: &Value) -> Value {
        if let Some(values) = schema["enum"].as_array() {
            return values[self.below(values.len())].clone();
        }
        match schema["type"].as_str().unwrap() {
            "string" => json!(self.text(schema)),
            "integer" => json!(self.number(schema)),
            "boolean" => json!(self.random.bool()),
            "array" => {
                let least = schema["minItems"].as_u64().unwrap_or(0);
                let most = schema["maxItems"].as_u64().unwrap_or(3).min(least + 3);
                (0..self.random.u64(least..=most)).map(|_| self.value(&schema["items"])).collect()
            }
            "object" if schema["additionalProperties"].is_object() => {
                let entries = 0..self.below(4);
                let key = ["app", "example.com/team", "A_b.c-9"];
                entries.map(|entry| (key[entry].to_owned(), self.value(&schema["additionalProperties"]))).collect()
            }
            "object" => {
                let mut object = Map::new();
                for (name, field) in schema["properties"].as_object().into_iter().flatten() {
                    if is_required(schema, name) || self.below(3) == 0 {
                        object.insert(name.clone(), self.value(field));
                    }
                }
                Value::Object(object)
            }
            other => panic!("a schema of the type {other}"),
        }
    }

    /// Changes one place of an object to something else that its schema allows, or takes it away where it need not be.
    pub fn change(&mut self, schema: &Value, object: &mut Value) {
        let Some(properties) = schema["properties"].as_object().filter(|properties| !properties.is_empty()) else {
            *object = self.value(schema);
            return;
        };
        let (name, field) = properties.iter().nth(self.below(properties.len())).unwrap();
        let present = object.get(name).is_some_and(|value| !value.is_null());
        if present && field["properties"].is_object() && self.below(4) > 0 {
            self.change(field, &mut object[name]);
        } else if present && !is_required(schema, name) && self.below(3) == 0 {
            object.as_object_mut().unwrap().remove(name);
        } else {
            object[name] = self.value(field);
        }
    }

    /// Changes one place of an object to something that its schema does not allow, and says what.
    pub fn spoil(&mut self, schema: &Value, object: &mut Value) -> String {
        let properties = schema["properties"].as_object().unwrap();
        let (name, field) = properties.iter().nth(self.below(properties.len())).unwrap();
        let has_fields = field["properties"].as_object().is_some_and(|fields| !fields.is_empty());
        if has_fields && self.below(5) > 0 {
            if !object.get(name).is_some_and(Value::is_object) {
                object[name] = self.value(field);
            }
            return format!("{name}.{}", self.spoil(field, &mut object[name]));
        }
        if is_required(schema, name) && self.below(4) == 0 {
            object.as_object_mut().unwrap().remove(name);
            return format!("{name} is missing");
        }
        let wrong = self.wrong(field);
        object[name] = wrong;
        format!("{name} is wrong")
    }

    /// A value that a schema does not allow.
    fn wrong(&mut self, schema: &Value) -> Value {
        let mut all = vec![match schema["type"].as_str().unwrap() {
            "string" | "integer" | "boolean" => json!([1]),
            _ => json!("text"),
        }];
        if schema["enum"].is_array() {
            all.extend([json!("Other"), json!(""), json!(1)]);
        }
        if let Some(least) = whole(&schema["minimum"]) {
            all.extend([json!(least - 1), json!(i64::MIN)]);
        }
        if let Some(most) = whole(&schema["maximum"]) {
            all.extend([json!(most + 1), json!(i64::MAX), json!(0.5)]);
        }
        if let Some(most) = schema["maxLength"].as_u64() {
            let most = usize::try_from(most).unwrap();
            all.extend([json!("x".repeat(most + 1)), json!("x".repeat(1 << 20))]);
        }
        if schema["minLength"].as_u64().is_some_and(|least| least > 0) {
            all.push(json!(""));
        }
        if let Some(most) = schema["maxItems"].as_u64() {
            let one = self.value(&schema["items"]);
            all.push((0..=most).map(|_| one.clone()).collect());
            all.push(json!([self.wrong(&schema["items"])]));
        }
        if schema["minItems"].as_u64().is_some_and(|least| least > 0) {
            all.push(json!([]));
        }
        if let Some(most) = schema["maxProperties"].as_u64() {
            let one = self.value(&schema["additionalProperties"]);
            all.push((0..=most).map(|number| (format!("key-{number}"), one.clone())).collect());
            all.push(json!({"key": self.wrong(&schema["additionalProperties"])}));
            all.push(json!({" ": one}));
        }
        all.swap_remove(self.below(all.len()))
    }

    fn number(&mut self, schema: &Value) -> i64 {
        let (least, most) = (whole(&schema["minimum"]).unwrap(), whole(&schema["maximum"]).unwrap());
        match self.below(4) {
            0 => least,
            1 => most,
            2 => self.random.i64(least..=most.min(least.saturating_add(100))),
            _ => self.random.i64(least..=most),
        }
    }

    fn text(&mut self, schema: &Value) -> String {
        let least = usize::try_from(schema["minLength"].as_u64().unwrap_or(0)).unwrap();
        let most = usize::try_from(schema["maxLength"].as_u64().unwrap()).unwrap();
        // Without a pattern: anything, and a little more often what is odd.
        let pattern = schema["pattern"].as_str().unwrap_or("([a-z]{1,8}|[ -~]{1,8}|\u{202e}|\u{0}|[^a]{1,8}){1,4}");
        let between = pattern.trim_start_matches('^').trim_end_matches('$').to_owned();
        let texts = self.patterns.entry(between).or_insert_with_key(|pattern| string_regex(pattern).unwrap());
        for _ in 0..TRIES {
            let text = texts.new_tree(&mut self.texts).unwrap().current();
            if (least..=most).contains(&text.chars().count()) {
                return text;
            }
        }
        panic!("no text of {least} to {most} characters fits {pattern}");
    }
}

/// Limits of whole numbers are written as fractions.
fn whole(limit: &Value) -> Option<i64> {
    limit.as_f64().map(|limit| format!("{limit:.0}").parse().unwrap())
}

fn is_required(schema: &Value, name: &str) -> bool {
    schema["required"].as_array().is_some_and(|required| required.iter().any(|one| one == name))
}
