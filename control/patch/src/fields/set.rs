//! A set of paths as a tree, with the algebra that apply is made of.

use std::collections::BTreeMap;

use super::{Path, PathElement};
use crate::typed::Shape;

/// A set of paths. The root itself is never a member: nobody owns a whole object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Set {
    pub(super) nodes: BTreeMap<PathElement, Node>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Node {
    pub(super) member: bool,
    pub(super) below: Set,
}

impl Node {
    fn is_empty(&self) -> bool {
        !self.member && self.below.is_empty()
    }
}

impl Set {
    pub fn new() -> Self {
        Self::default()
    }

    /// The set of these paths of field names.
    pub fn of_fields(paths: &[&[&str]]) -> Self {
        let mut set = Self::new();
        for path in paths {
            set.insert(&Path::of_fields(path).0);
        }
        set
    }

    pub fn insert(&mut self, path: &[PathElement]) {
        let Some((first, rest)) = path.split_first() else {
            return;
        };
        let node = self.nodes.entry(first.clone()).or_default();
        if rest.is_empty() {
            node.member = true;
        } else {
            node.below.insert(rest);
        }
    }

    pub fn is_empty(&self) -> bool {
        self.nodes.values().all(Node::is_empty)
    }

    pub fn contains(&self, path: &[PathElement]) -> bool {
        let Some((first, rest)) = path.split_first() else {
            return false;
        };
        self.nodes.get(first).is_some_and(|node| {
            if rest.is_empty() {
                node.member
            } else {
                node.below.contains(rest)
            }
        })
    }

    /// Whether the one-element path is a member.
    pub(crate) fn has(&self, element: &PathElement) -> bool {
        self.nodes.get(element).is_some_and(|node| node.member)
    }

    /// What stands below `element`, if anything does.
    pub(crate) fn below(&self, element: &PathElement) -> Option<&Set> {
        self.nodes
            .get(element)
            .map(|node| &node.below)
            .filter(|below| !below.is_empty())
    }

    /// Every element of this level with its membership and what stands below it.
    pub(crate) fn level(&self) -> impl Iterator<Item = (&PathElement, bool, Option<&Set>)> {
        self.nodes.iter().map(|(element, node)| {
            (
                element,
                node.member,
                Some(&node.below).filter(|below| !below.is_empty()),
            )
        })
    }

    pub fn union(&self, other: &Set) -> Set {
        let mut nodes = self.nodes.clone();
        for (element, theirs) in &other.nodes {
            match nodes.get_mut(element) {
                None => {
                    nodes.insert(element.clone(), theirs.clone());
                }
                Some(ours) => {
                    ours.member |= theirs.member;
                    ours.below = ours.below.union(&theirs.below);
                }
            }
        }
        Set { nodes }
    }

    pub fn intersection(&self, other: &Set) -> Set {
        self.filter_nodes(|element, ours| {
            let theirs = other.nodes.get(element)?;
            Some(Node {
                member: ours.member && theirs.member,
                below: ours.below.intersection(&theirs.below),
            })
        })
    }

    /// This set without the members of `other`; what stands below a removed member stays.
    pub fn difference(&self, other: &Set) -> Set {
        self.filter_nodes(|element, ours| match other.nodes.get(element) {
            None => Some(ours.clone()),
            Some(theirs) => Some(Node {
                member: ours.member && !theirs.member,
                below: ours.below.difference(&theirs.below),
            }),
        })
    }

    /// This set without the members of `other` and everything below them.
    pub fn recursive_difference(&self, other: &Set) -> Set {
        self.filter_nodes(|element, ours| match other.nodes.get(element) {
            None => Some(ours.clone()),
            Some(theirs) if theirs.member => None,
            Some(theirs) => Some(Node {
                member: ours.member,
                below: ours.below.recursive_difference(&theirs.below),
            }),
        })
    }

    fn filter_nodes(&self, mut keep: impl FnMut(&PathElement, &Node) -> Option<Node>) -> Set {
        let nodes = self
            .nodes
            .iter()
            .filter_map(|(element, node)| Some((element.clone(), keep(element, node)?)))
            .filter(|(_, node)| !node.is_empty())
            .collect();
        Set { nodes }
    }

    /// Makes every declared field that has something below it a member itself: an apply owns `spec.strategy` by
    /// owning something in it, but says so nowhere.
    pub(crate) fn with_named_fields(&self, shape: Option<Shape<'_>>) -> Set {
        let nodes = self
            .nodes
            .iter()
            .map(|(element, node)| {
                let child = shape.and_then(|shape| shape.child(element));
                let named = match (element, shape) {
                    (PathElement::Field(name), Some(shape)) => shape.declares(name),
                    _ => false,
                };
                let below = node.below.with_named_fields(child);
                let member = node.member || (named && !node.below.is_empty());
                (element.clone(), Node { member, below })
            })
            .collect();
        Set { nodes }
    }

    /// Every path, the members of a level before what stands below them.
    pub fn paths(&self) -> Vec<Path> {
        let mut paths = Vec::new();
        self.collect(&mut Vec::new(), &mut paths);
        paths
    }

    fn collect(&self, prefix: &mut Vec<PathElement>, paths: &mut Vec<Path>) {
        for (element, _) in self.nodes.iter().filter(|(_, node)| node.member) {
            let mut path = prefix.clone();
            path.push(element.clone());
            paths.push(Path(path));
        }
        for (element, node) in &self.nodes {
            prefix.push(element.clone());
            node.below.collect(prefix, paths);
            prefix.pop();
        }
    }
}

impl FromIterator<Path> for Set {
    fn from_iter<I: IntoIterator<Item = Path>>(paths: I) -> Self {
        let mut set = Set::new();
        for path in paths {
            set.insert(&path.0);
        }
        set
    }
}
