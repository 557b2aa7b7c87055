//! Strict JSON: one value, bounded depth, and every duplicate field named.
//!
//! Like Go's decoder it keeps the last of two equal keys; unlike it, it says so.

use std::cell::RefCell;
use std::fmt;

use serde::de::{DeserializeSeed, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// How deep a document may nest; serde_json itself stops at 128, and no real object comes near it.
pub const MAX_DEPTH: usize = 100;
/// How many duplicates are named; the rest is not worth a client's while.
pub const MAX_DUPLICATES: usize = 100;

/// Parses one document. The second part are the paths of duplicate fields, as in `spec.containers[0].name`.
pub fn parse(text: &[u8]) -> Result<(Value, Vec<String>), serde_json::Error> {
    let state = State::default();
    let mut deserializer = serde_json::Deserializer::from_slice(text);
    let value = Node(&state).deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok((value, state.duplicates.into_inner()))
}

#[derive(Default)]
struct State {
    path: RefCell<Vec<Step>>,
    duplicates: RefCell<Vec<String>>,
}

enum Step {
    Field(String),
    Index(usize),
}

impl State {
    fn duplicate(&self, key: &str) {
        let mut found = self.duplicates.borrow_mut();
        if found.len() < MAX_DUPLICATES {
            let mut path = String::new();
            for step in self.path.borrow().iter() {
                match step {
                    Step::Field(name) if path.is_empty() => path.push_str(name),
                    Step::Field(name) => path.extend([".", name]),
                    Step::Index(at) => path.push_str(&format!("[{at}]")),
                }
            }
            found.push(if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") });
        }
    }

    fn enter<E: Error>(&self, step: Step) -> Result<(), E> {
        let mut path = self.path.borrow_mut();
        path.push(step);
        if path.len() > MAX_DEPTH { Err(E::custom("exceeded max depth")) } else { Ok(()) }
    }

    fn leave(&self) {
        self.path.borrow_mut().pop();
    }
}

/// One value of the document.
struct Node<'a>(&'a State);

impl<'de> DeserializeSeed<'de> for Node<'_> {
    type Value = Value;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Node<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        loop {
            self.0.enter(Step::Index(list.len()))?;
            let item = items.next_element_seed(Node(self.0))?;
            self.0.leave();
            match item {
                Some(item) => list.push(item),
                None => return Ok(Value::Array(list)),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            if map.contains_key(&key) {
                self.0.duplicate(&key);
            }
            self.0.enter(Step::Field(key.clone()))?;
            let value = entries.next_value_seed(Node(self.0))?;
            self.0.leave();
            map.insert(key, value);
        }
        Ok(Value::Object(map))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_duplicates_and_keeps_the_last() {
        let (value, duplicates) =
            parse(br#"{"a": 1, "a": 2, "s": {"c": [{"n": 1}, {"n": 1, "n": -3}]}}"#).unwrap();
        assert_eq!(duplicates, ["a", "s.c[1].n"]);
        assert_eq!(value["a"], 2);
        assert_eq!(value["s"]["c"][1]["n"], -3);
    }

    #[test]
    fn refuses() {
        for bad in
            ["", "{", "{} x", "[1,]", &"[".repeat(101), &format!("{}1{}", "[".repeat(101), "]".repeat(101))]
        {
            assert!(parse(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn agrees_with_serde_json(text in r#"[\[\]{},:"a0-9. ntrue]{0,40}"#) {
            if let (Ok((ours, _)), Ok(theirs)) = (parse(text.as_bytes()), serde_json::from_str::<Value>(&text)) {
                prop_assert_eq!(ours, theirs);
            }
        }
    }
}
