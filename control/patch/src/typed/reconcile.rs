//! Bringing a stored set of fields in line with a schema that has changed since: what was granular and is atomic now
//! is owned as a whole.

use super::{Atom, Keys, Shape};
use crate::fields::{PathElement, Set};

/// `None` when nothing has to change.
pub(crate) fn reconcile(shape: Shape<'_>, set: &Set) -> Option<Set> {
    let mut now_atomic = Set::new();
    visit(shape, set, &mut Vec::new(), &mut now_atomic);
    let changed = !now_atomic.is_empty();
    changed.then(|| set.recursive_difference(&now_atomic).union(&now_atomic))
}

fn visit(shape: Shape<'_>, set: &Set, path: &mut Vec<PathElement>, now_atomic: &mut Set) {
    for (element, member, below) in set.level() {
        let Some(child) = shape.child(element) else {
            continue;
        };
        if child.is_untyped() {
            continue;
        }
        let atomic = match child.atom(None) {
            Atom::Scalar(_) => continue,
            Atom::List(list) => matches!(list.keys, Keys::Atomic),
            Atom::Map(map) => map.atomic,
        };
        path.push(element.clone());
        match below {
            Some(below) if !atomic => visit(child, below, path, now_atomic),
            Some(_) => now_atomic.insert(path),
            None => debug_assert!(member, "a set holds no empty nodes"),
        }
        path.pop();
    }
}
