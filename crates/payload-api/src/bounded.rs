//! Lists whose length a stranger chooses.
//!
//! A list is read element by element and refused at the first one beyond its bound, so that a few
//! bytes on the wire never become many in memory: an empty element costs ten times as much here as
//! there. Nothing is reserved for elements that have not been read.

use std::{fmt, marker::PhantomData};

use serde::{
    Deserialize, Deserializer,
    de::{Error, SeqAccess, Visitor},
};

/// At most `MAX` elements.
pub(crate) struct Bounded<T, const MAX: usize>(pub(crate) Vec<T>);

/// The elements; none if there is no list.
pub(crate) fn or_empty<T, const MAX: usize>(list: Option<Bounded<T, MAX>>) -> Vec<T> {
    list.map_or_else(Vec::new, |Bounded(list)| list)
}

impl<'de, T: Deserialize<'de>, const MAX: usize> Deserialize<'de> for Bounded<T, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(Elements(PhantomData))
    }
}

struct Elements<T, const MAX: usize>(PhantomData<T>);

impl<'de, T: Deserialize<'de>, const MAX: usize> Visitor<'de> for Elements<T, MAX> {
    type Value = Bounded<T, MAX>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a list of at most {MAX}")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Self::Value, A::Error> {
        let mut list = Vec::new();
        while let Some(element) = elements.next_element()? {
            if list.len() == MAX {
                return Err(A::Error::custom(format_args!("a list of more than {MAX}")));
            }
            list.push(element);
        }
        Ok(Bounded(list))
    }
}
