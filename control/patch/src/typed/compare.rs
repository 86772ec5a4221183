//! What changed between two values, as sets of fields.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::{
    Atom, Keys, ListAtom, MapAtom, Shape, TypedError, items::element_of, validate::scalar,
};
use crate::{
    fields::{PathElement, Set},
    number,
};

/// What the right value removed, changed and added.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Comparison {
    pub removed: Set,
    pub modified: Set,
    pub added: Set,
}

impl Comparison {
    /// Leaves these fields and everything below them out.
    pub(crate) fn without(self, fields: &Set) -> Self {
        Self {
            removed: self.removed.recursive_difference(fields),
            modified: self.modified.recursive_difference(fields),
            added: self.added.recursive_difference(fields),
        }
    }
}

pub(crate) fn compare(
    shape: Shape<'_>,
    left: &Value,
    right: &Value,
) -> Result<Comparison, TypedError> {
    let mut walk = Walk {
        path: Vec::new(),
        found: Comparison::default(),
    };
    walk.visit(shape, Some(left), Some(right))?;
    Ok(walk.found)
}

struct Walk {
    path: Vec<PathElement>,
    found: Comparison,
}

/// Whether a value was compared as a whole.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Depth {
    Leaf,
    Inner,
}

type Side<'v> = Option<&'v Value>;

impl Walk {
    fn visit(
        &mut self,
        shape: Shape<'_>,
        left: Side<'_>,
        right: Side<'_>,
    ) -> Result<(), TypedError> {
        if let (Some(a), Some(b)) = (left, right)
            && !shape.agrees(a, b)
        {
            self.visit_as(shape.atom(left), left, right)?;
        }
        let depth = self.visit_as(shape.atom(right.or(left)), left, right)?;
        if depth == Depth::Inner {
            if left.is_none() {
                self.found.added.insert(&self.path);
            } else if right.is_none() {
                self.found.removed.insert(&self.path);
            }
        }
        Ok(())
    }

    fn visit_as(
        &mut self,
        atom: Atom<'_>,
        left: Side<'_>,
        right: Side<'_>,
    ) -> Result<Depth, TypedError> {
        match atom {
            Atom::Scalar(kind) => {
                let check = |side: Side<'_>| side.map_or(Ok(()), |value| scalar(kind, value));
                if let (Err(mut left), Err(right)) = (check(left), check(right)) {
                    left.0.extend(right.0);
                    return Err(left);
                }
                Ok(self.leaf(left, right))
            }
            Atom::List(list) => self.lists(&list, left, right),
            Atom::Map(map) => self.maps(&map, left, right),
        }
    }

    fn leaf(&mut self, left: Side<'_>, right: Side<'_>) -> Depth {
        let set = match (left, right) {
            (None, _) => &mut self.found.added,
            (_, None) => &mut self.found.removed,
            (Some(left), Some(right)) if number::equal(left, right) => return Depth::Leaf,
            _ => &mut self.found.modified,
        };
        set.insert(&self.path);
        Depth::Leaf
    }

    fn below(
        &mut self,
        element: PathElement,
        visit: impl FnOnce(&mut Self) -> Result<(), TypedError>,
    ) -> Result<(), TypedError> {
        self.path.push(element);
        let result = visit(self);
        let element = self.path.pop().expect("pushed just above");
        result.map_err(|inner| inner.below(element))
    }

    fn maps(
        &mut self,
        atom: &MapAtom<'_>,
        left: Side<'_>,
        right: Side<'_>,
    ) -> Result<Depth, TypedError> {
        let empty = Map::new();
        let ours = left.and_then(Value::as_object).unwrap_or(&empty);
        let theirs = right.and_then(Value::as_object).unwrap_or(&empty);
        if atom.atomic || (ours.is_empty() && theirs.is_empty()) {
            return Ok(self.leaf(left, right));
        }
        for key in ours
            .keys()
            .chain(theirs.keys().filter(|key| !ours.contains_key(*key)))
        {
            self.below(PathElement::field(key.as_str()), |walk| {
                walk.visit(atom.at(key), ours.get(key), theirs.get(key))
            })?;
        }
        Ok(Depth::Inner)
    }

    fn lists(
        &mut self,
        atom: &ListAtom<'_>,
        left: Side<'_>,
        right: Side<'_>,
    ) -> Result<Depth, TypedError> {
        let ours = left
            .and_then(Value::as_array)
            .map_or(&[][..], Vec::as_slice);
        let theirs = right
            .and_then(Value::as_array)
            .map_or(&[][..], Vec::as_slice);
        if matches!(atom.keys, Keys::Atomic) || (ours.is_empty() && theirs.is_empty()) {
            return Ok(self.leaf(left, right));
        }
        let mut items: BTreeMap<PathElement, (Vec<&Value>, Vec<&Value>)> = BTreeMap::new();
        for (list, is_left) in [(ours, true), (theirs, false)] {
            for (i, item) in list.iter().enumerate() {
                let element = element_of(atom, item)
                    .map_err(|why| TypedError::new(format!("element {i}: {why}")))?;
                let entry = items.entry(element).or_default();
                if is_left {
                    entry.0.push(item)
                } else {
                    entry.1.push(item)
                }
            }
        }
        for (element, (ours, theirs)) in items {
            self.below(element, |walk| walk.items(atom.element, &ours, &theirs))?;
        }
        Ok(Depth::Inner)
    }

    /// The items of one path element. More than one on a side count as a whole.
    fn items(
        &mut self,
        shape: Shape<'_>,
        ours: &[&Value],
        theirs: &[&Value],
    ) -> Result<(), TypedError> {
        match (ours.len(), theirs.len()) {
            (0 | 1, 0 | 1) => self.visit(shape, ours.first().copied(), theirs.first().copied())?,
            (2.., 2..) => {
                let same = ours.len() == theirs.len()
                    && ours
                        .iter()
                        .zip(theirs)
                        .all(|(ours, theirs)| number::equal(ours, theirs));
                if !same {
                    self.found.modified.insert(&self.path);
                }
            }
            (2.., _) => {
                if let Some(first) = theirs.first() {
                    self.visit(shape, None, Some(first))?;
                }
                self.found.removed.insert(&self.path);
            }
            (_, 2..) => {
                if let Some(first) = ours.first() {
                    self.visit(shape, Some(first), None)?;
                }
                self.found.added.insert(&self.path);
            }
        }
        Ok(())
    }
}
