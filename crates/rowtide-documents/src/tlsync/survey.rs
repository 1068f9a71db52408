//! A look at the text of a record without making a value of it: that all of it can be read, what its id is, and
//! how much it weighs. Most records of a document are loaded, sent and stored, and never changed.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{self, Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::json::{KEY_WEIGHT, PROTOTYPE, VALUE_WEIGHT};

/// What the text of a record says.
pub(super) struct Survey {
    pub(super) id: Box<str>,
    /// The weight of the value that it is read as.
    pub(super) weight: usize,
    /// Whether it says to others what it is read as.
    pub(super) plain: bool,
}

/// A value, weighed.
struct Weighed {
    weight: usize,
    plain: bool,
}

/// What a key is.
enum Key {
    Id,
    TypeName,
    Prototype,
    Other { len: usize },
}

/// Reads a [`Survey`], a [`Weighed`] or a [`Key`].
struct Look<T>(PhantomData<T>);

impl Weighed {
    fn add(&mut self, other: Weighed) {
        self.weight += other.weight;
        self.plain &= other.plain;
    }

    fn light<E>() -> Result<Weighed, E> {
        Ok(Weighed { weight: VALUE_WEIGHT, plain: true })
    }
}

impl Key {
    fn len(&self) -> usize {
        match self {
            Key::Id => "id".len(),
            Key::TypeName => "typeName".len(),
            Key::Prototype => PROTOTYPE.len(),
            Key::Other { len } => *len,
        }
    }
}

impl<'de> Visitor<'de> for Look<Survey> {
    type Value = Survey;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a record")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Survey, A::Error> {
        let mut all = Weighed { weight: VALUE_WEIGHT, plain: true };
        let (mut id, mut type_name) = (None, None);
        while let Some(key) = map.next_key::<Key>()? {
            let own = KEY_WEIGHT + key.len();
            let named =
                |text: &str| Weighed { weight: own + VALUE_WEIGHT + text.len(), plain: true };
            match key {
                Key::Id => all.add(named(id.insert(map.next_value::<Box<str>>()?))),
                Key::TypeName => all.add(named(type_name.insert(map.next_value::<Box<str>>()?))),
                Key::Prototype => {
                    map.next_value::<IgnoredAny>()?;
                    all.plain = false;
                }
                Key::Other { .. } => {
                    all.weight += own;
                    all.add(map.next_value()?);
                }
            }
        }
        let id = id.ok_or_else(|| de::Error::missing_field("id"))?;
        type_name.ok_or_else(|| <A::Error as de::Error>::missing_field("typeName"))?;
        Ok(Survey { id, weight: all.weight, plain: all.plain })
    }
}

impl<'de> Visitor<'de> for Look<Weighed> {
    type Value = Weighed;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Weighed, E> {
        Weighed::light()
    }
    fn visit_bool<E>(self, _: bool) -> Result<Weighed, E> {
        Weighed::light()
    }
    fn visit_u64<E>(self, _: u64) -> Result<Weighed, E> {
        Weighed::light()
    }
    fn visit_i64<E>(self, _: i64) -> Result<Weighed, E> {
        Weighed::light()
    }
    fn visit_f64<E>(self, _: f64) -> Result<Weighed, E> {
        Weighed::light()
    }
    fn visit_str<E>(self, text: &str) -> Result<Weighed, E> {
        Ok(Weighed { weight: VALUE_WEIGHT + text.len(), plain: true })
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Weighed, A::Error> {
        let mut all = Weighed { weight: VALUE_WEIGHT, plain: true };
        while let Some(item) = seq.next_element()? {
            all.add(item);
        }
        Ok(all)
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Weighed, A::Error> {
        let mut all = Weighed { weight: VALUE_WEIGHT, plain: true };
        while let Some(key) = map.next_key::<Key>()? {
            if let Key::Prototype = key {
                map.next_value::<IgnoredAny>()?;
                all.plain = false;
            } else {
                all.weight += KEY_WEIGHT + key.len();
                all.add(map.next_value()?);
            }
        }
        Ok(all)
    }
}

impl Visitor<'_> for Look<Key> {
    type Value = Key;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E>(self, key: &str) -> Result<Key, E> {
        Ok(match key {
            "id" => Key::Id,
            "typeName" => Key::TypeName,
            PROTOTYPE => Key::Prototype,
            other => Key::Other { len: other.len() },
        })
    }
}

impl<'de> Deserialize<'de> for Survey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Survey, D::Error> {
        deserializer.deserialize_map(Look::<Survey>(PhantomData))
    }
}

impl<'de> Deserialize<'de> for Weighed {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Weighed, D::Error> {
        deserializer.deserialize_any(Look::<Weighed>(PhantomData))
    }
}

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Key, D::Error> {
        deserializer.deserialize_str(Look::<Key>(PhantomData))
    }
}
