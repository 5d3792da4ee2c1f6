//! What `kubectl get .. -A -o json` prints → [`Inventory`].
//!
//! The file is read as a stream, one object at a time, so memory holds what is kept and one object
//! more. A document is a List (of any kind), one object, or an array of these; several may follow
//! each other. Kinds and fields that are not needed are skipped without being stored.

use std::{fmt, fs::File, io, path::Path};

use serde::{
    Deserialize, Deserializer,
    de::{DeserializeSeed, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor, value::MapAccessDeserializer},
};

use self::collect::Collect;
use self::object::{Kind, Object};
use crate::model::inventory::Inventory;

mod collect;
pub(super) mod convert;
pub(super) mod object;

/// Why an inventory could not be read.
#[derive(Debug)]
pub enum InventoryError {
    /// The file could not be opened or read.
    Read {
        /// File.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// It does not hold what kubectl prints.
    Content {
        /// File.
        path: String,
        /// Line, from 1.
        line: usize,
        /// Column, from 1.
        column: usize,
        /// What is wrong there.
        reason: String,
    },
}

impl fmt::Display for InventoryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read { path, source } => write!(f, "cannot read inventory {path}: {source}"),
            Self::Content { path, line, column, reason } => {
                write!(f, "inventory {path}, line {line}, column {column}: {reason}")
            }
        }
    }
}

impl std::error::Error for InventoryError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Read { source, .. } => Some(source),
            Self::Content { .. } => None,
        }
    }
}

/// Reads the inventory file `path`.
///
/// # Errors
///
/// The file cannot be read, is no JSON, holds no Kubernetes objects, or an address in it is none.
pub fn load(path: &Path) -> Result<Inventory, InventoryError> {
    let name = path.display().to_string();
    let file = File::open(path).map_err(|source| InventoryError::Read { path: name.clone(), source })?;
    read(io::BufReader::with_capacity(1 << 16, file), &name)
}

/// Reads an inventory from `reader`; `name` is what errors call it.
///
/// # Errors
///
/// As [`load`].
pub fn read(reader: impl io::Read, name: &str) -> Result<Inventory, InventoryError> {
    let mut collect = Collect::default();
    let mut documents = 0_usize;
    let mut reader = serde_json::Deserializer::from_reader(reader);
    loop {
        match reader.end() {
            Ok(()) if documents > 0 => return Ok(collect.finish()),
            Ok(()) => return Err(explain(serde_json::Error::custom("the file is empty"), name)),
            // More follows, or nothing was read yet.
            Err(_) => Document { into: &mut collect }.deserialize(&mut reader).map_err(|e| explain(e, name))?,
        }
        documents += 1;
    }
}

/// serde_json appends the position to its text; here it is told first.
fn explain(error: serde_json::Error, name: &str) -> InventoryError {
    let (line, column) = (error.line(), error.column());
    if error.is_io() {
        return InventoryError::Read { path: name.to_owned(), source: error.into() };
    }
    let text = error.to_string();
    let reason = text.strip_suffix(&format!(" at line {line} column {column}")).unwrap_or(&text);
    InventoryError::Content {
        path: name.to_owned(),
        line: line.max(1),
        column: column.max(1),
        reason: reason.to_owned(),
    }
}

/// A List, one object, or an array of these.
struct Document<'a> {
    into: &'a mut Collect,
}

impl<'de> DeserializeSeed<'de> for Document<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Document<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a List of Kubernetes objects, as `kubectl get pods,services,.. -A -o json` prints it")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        while seq.next_element_seed(Document { into: &mut *self.into })?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let (mut kind, mut listed, mut parts) = (None, false, serde_json::Map::new());
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "kind" => kind = Some(map.next_value::<Kind>()?),
                "items" => {
                    // `kubectl get --raw` and the API leave the kind out of the items of a PodList.
                    map.next_value_seed(Items { into: &mut *self.into, kind: kind.unwrap_or_default() })?;
                    listed = true;
                }
                _ if kind.is_some_and(Kind::is_object) || object::PARTS.contains(&key.as_str()) => {
                    parts.insert(key, map.next_value()?);
                }
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        match kind {
            _ if listed => Ok(()),
            Some(kind) if kind.is_object() => {
                let object = Object::deserialize(serde_json::Value::Object(parts)).map_err(A::Error::custom)?;
                self.into.add(kind, object).map_err(A::Error::custom)
            }
            _ => Err(A::Error::custom(
                "this is JSON, but no List of Kubernetes objects: it has no `items`; make it with `kubectl get \
                 pods,services,endpointslices,nodes,networkpolicies -A -o json`",
            )),
        }
    }
}

/// The items of a List.
struct Items<'a> {
    into: &'a mut Collect,
    kind: Kind,
}

impl<'de> DeserializeSeed<'de> for Items<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Items<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of Kubernetes objects under `items`")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        while let Some((kind, object)) = seq.next_element_seed(Item { kind: self.kind })? {
            self.into.add(kind, object).map_err(A::Error::custom)?;
        }
        Ok(())
    }
}

/// One object. Its kind decides what its other fields mean, so fields before the kind are set aside.
struct Item {
    kind: Kind,
}

impl<'de> DeserializeSeed<'de> for Item {
    type Value = (Kind, Object);

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Item {
    type Value = (Kind, Object);

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a Kubernetes object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let (mut kind, mut early) = (self.kind, serde_json::Map::new());
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "kind" => {
                    kind = map.next_value()?;
                    if early.is_empty() {
                        return Ok((kind, rest(kind, map)?));
                    }
                }
                key if object::PARTS.contains(&key) => drop(early.insert(key.to_owned(), map.next_value()?)),
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        if !kind.is_object() {
            return Ok((kind, Object::default()));
        }
        Object::deserialize(serde_json::Value::Object(early)).map(|object| (kind, object)).map_err(A::Error::custom)
    }
}

fn rest<'de, A: MapAccess<'de>>(kind: Kind, map: A) -> Result<Object, A::Error> {
    if kind.is_object() {
        return Object::deserialize(MapAccessDeserializer::new(map));
    }
    IgnoredAny.visit_map(map).map(|_| Object::default())
}

#[cfg(test)]
mod tests;
