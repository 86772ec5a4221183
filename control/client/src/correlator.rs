//! Keeps events few: equal ones are counted, similar ones combined, floods cut off.
//!
//! Pure: time is an argument. The limits are upstream's (client-go's event correlator): more than
//! 10 different messages of one kind within 10 minutes are combined; an object's events from one
//! source have a bucket of 25 that refills with one per 5 minutes. Keys are 64-bit hashes, because
//! the key strings would be most of the memory.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{api::core::v1::Event, apimachinery::pkg::apis::meta::v1::Time, jiff};
use std::{
    collections::{HashMap, HashSet},
    hash::{DefaultHasher, Hash, Hasher},
};

const REMEMBERED: usize = 1024;
const SIMILAR: usize = 10;
const SIMILAR_WITHIN: SignedDuration = SignedDuration::from_mins(10);
const BURST: f64 = 25.0;
const REFILL_PER_SECOND: f64 = 1.0 / 300.0;

/// What to send for an event.
#[derive(Debug, PartialEq)]
pub(crate) enum Send {
    Create(Box<Event>),
    /// The event was sent before: raise its count. If the server has forgotten it, create it.
    Count(Box<Event>),
    /// One of too many.
    Drop,
}

#[derive(Default)]
pub(crate) struct Correlator {
    buckets: Recent<Bucket>,
    similar: Recent<Similar>,
    sent: Recent<Sent>,
}

struct Bucket {
    tokens: f64,
    at: Timestamp,
}

struct Similar {
    messages: HashSet<u64>,
    last: Timestamp,
}

struct Sent {
    name: String,
    first: Timestamp,
    count: i32,
}

impl Correlator {
    /// Decides for an event as a caller reported it (count 1, both timestamps `now`).
    pub(crate) fn take(&mut self, mut event: Event, now: Timestamp) -> Send {
        let similar_key = hash(&similarity(&event));
        let key = self.combine(&mut event, similar_key, now);
        let send = match self.sent.get(key) {
            Some(sent) => {
                sent.count += 1;
                event.metadata.name = Some(sent.name.clone());
                event.first_timestamp = Some(Time(sent.first));
                event.count = Some(sent.count);
                Send::Count(Box::new(event.clone()))
            }
            None => Send::Create(Box::new(event.clone())),
        };
        if self.is_flood(&event, now) {
            return Send::Drop;
        }
        if let Send::Create(event) = &send {
            self.sent.put(
                key,
                Sent {
                    name: event.metadata.name.clone().unwrap_or_default(),
                    first: now,
                    count: 1,
                },
            );
        }
        send
    }

    /// The key under which the event is counted; after too many similar ones all share one.
    fn combine(&mut self, event: &mut Event, similar_key: u64, now: Timestamp) -> u64 {
        let message = hash(&event.message);
        let own_key = hash(&(similar_key, message, &event.involved_object.field_path));
        let similar = self.similar.get_or(similar_key, || Similar {
            messages: HashSet::new(),
            last: now,
        });
        if now.duration_since(similar.last) > SIMILAR_WITHIN {
            similar.messages.clear();
        }
        similar.last = now;
        similar.messages.insert(message);
        if similar.messages.len() < SIMILAR {
            return own_key;
        }
        // The set stays bounded: one goes for the one that came.
        if let Some(any) = similar.messages.iter().next().copied() {
            similar.messages.remove(&any);
        }
        let message = event.message.take().unwrap_or_default();
        event.message = Some(format!("(combined from similar events): {message}"));
        similar_key
    }

    fn is_flood(&mut self, event: &Event, now: Timestamp) -> bool {
        let object = &event.involved_object;
        let key = hash(&(
            source(event),
            (&object.kind, &object.namespace, &object.name, &object.uid),
        ));
        let bucket = self.buckets.get_or(key, || Bucket {
            tokens: BURST,
            at: now,
        });
        let seconds = now.duration_since(bucket.at).as_secs_f64().max(0.0);
        bucket.tokens = (bucket.tokens + seconds * REFILL_PER_SECOND).min(BURST);
        bucket.at = now;
        if bucket.tokens < 1.0 {
            return true;
        }
        bucket.tokens -= 1.0;
        false
    }
}

fn source(event: &Event) -> (Option<&String>, Option<&String>) {
    let source = event.source.as_ref();
    (
        source.and_then(|source| source.component.as_ref()),
        source.and_then(|source| source.host.as_ref()),
    )
}

fn similarity(event: &Event) -> impl Hash + '_ {
    let object = &event.involved_object;
    (
        source(event),
        (&object.kind, &object.api_version, &object.namespace),
        (&object.name, &object.uid),
        (&event.type_, &event.reason),
    )
}

fn hash(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

/// A map that forgets the half that was used longest ago when it is full.
struct Recent<V> {
    entries: HashMap<u64, (V, u64)>,
    clock: u64,
}

impl<V> Default for Recent<V> {
    fn default() -> Self {
        Self {
            entries: HashMap::new(),
            clock: 0,
        }
    }
}

impl<V> Recent<V> {
    fn get(&mut self, key: u64) -> Option<&mut V> {
        self.clock += 1;
        let clock = self.clock;
        self.entries.get_mut(&key).map(|(value, used)| {
            *used = clock;
            value
        })
    }

    fn put(&mut self, key: u64, value: V) {
        if self.entries.len() >= REMEMBERED && !self.entries.contains_key(&key) {
            let mut used: Vec<u64> = self.entries.values().map(|(_, used)| *used).collect();
            let (_, median, _) = used.select_nth_unstable(REMEMBERED / 2);
            let median = *median;
            self.entries.retain(|_, (_, used)| *used > median);
        }
        self.clock += 1;
        self.entries.insert(key, (value, self.clock));
    }

    fn get_or(&mut self, key: u64, new: impl FnOnce() -> V) -> &mut V {
        if !self.entries.contains_key(&key) {
            self.put(key, new());
        }
        self.get(key).expect("was put when it was missing")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::{EventSource, ObjectReference};

    fn event(object: &str, reason: &str, message: &str, number: usize) -> Event {
        let mut event = Event {
            involved_object: ObjectReference {
                name: Some(object.to_owned()),
                ..ObjectReference::default()
            },
            reason: Some(reason.to_owned()),
            message: Some(message.to_owned()),
            count: Some(1),
            source: Some(EventSource::default()),
            ..Event::default()
        };
        event.metadata.name = Some(format!("event{number}"));
        event
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).expect("a time")
    }

    #[test]
    fn an_equal_event_raises_the_count_of_the_first() {
        let mut correlator = Correlator::default();
        let first = correlator.take(event("pod", "Failed", "x", 1), at(0));
        assert!(matches!(first, Send::Create(_)));
        for expected in 2..5 {
            let Send::Count(next) = correlator.take(event("pod", "Failed", "x", 9), at(1)) else {
                panic!("an equal event is counted");
            };
            assert_eq!(next.count, Some(expected));
            assert_eq!(next.metadata.name.as_deref(), Some("event1"));
            assert_eq!(next.first_timestamp, Some(Time(at(0))));
        }
        let other = correlator.take(event("pod", "Failed", "y", 5), at(1));
        assert!(matches!(other, Send::Create(_)));
    }

    #[test]
    fn many_similar_events_are_combined_until_they_have_been_quiet() {
        let mut correlator = Correlator::default();
        for number in 0..9 {
            let sent = correlator.take(event("pod", "Failed", &number.to_string(), number), at(0));
            assert!(matches!(sent, Send::Create(_)), "{number}");
        }
        let Send::Create(combined) = correlator.take(event("pod", "Failed", "x", 10), at(1)) else {
            panic!("the first combined one is new");
        };
        assert_eq!(
            combined.message.as_deref(),
            Some("(combined from similar events): x")
        );
        let again = correlator.take(event("pod", "Failed", "y", 11), at(2));
        assert!(matches!(again, Send::Count(_)));
        let Send::Create(quiet) = correlator.take(event("pod", "Failed", "z", 12), at(700)) else {
            panic!("after ten minutes it begins anew");
        };
        assert_eq!(quiet.message.as_deref(), Some("z"));
    }

    #[test]
    fn a_flood_about_one_object_is_cut_off_and_others_are_not() {
        let mut correlator = Correlator::default();
        let mut sent = 0;
        for number in 0..40 {
            let reason = format!("Reason{number}");
            if correlator.take(event("pod", &reason, "x", number), at(0)) != Send::Drop {
                sent += 1;
            }
        }
        assert_eq!(sent, 25);
        let other = correlator.take(event("other", "Failed", "x", 50), at(0));
        assert!(matches!(other, Send::Create(_)));
        let later = correlator.take(event("pod", "Late", "x", 51), at(301));
        assert!(
            matches!(later, Send::Create(_)),
            "one more after five minutes"
        );
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut recent: Recent<u64> = Recent::default();
        for key in 0..5000 {
            recent.put(key, key);
            recent.get(0);
        }
        assert!(recent.entries.len() <= REMEMBERED);
        assert_eq!(recent.get(0), Some(&mut 0), "what is used stays");
        assert_eq!(recent.get(1), None);
        assert_eq!(recent.get(4999), Some(&mut 4999));
    }
}
