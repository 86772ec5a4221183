//! Images that nobody uses go when the disk fills up: from a high threshold of usage down to a low one, the longest
//! unused first, as upstream's kubelet does it.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use k8s_openapi::api::core::v1::ObjectReference;
use kernelet_client::EventType;
use kernelet_image::{ImageError, ImageId, ImageStore};

use crate::{HELLO_IMAGE, context::Context, errors::chain, images::ImageSettings};

const EVERY: Duration = Duration::from_secs(300);

/// What is remembered of an image between two looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Seen {
    first: Instant,
    used: Option<Instant>,
}

/// An image that may go.
#[derive(Clone, Copy, Debug)]
struct Candidate {
    id: ImageId,
    size: u64,
    seen: Seen,
}

/// Bytes of the images' disk.
#[derive(Clone, Copy, Debug)]
struct Disk {
    capacity: u64,
    available: u64,
}

pub(crate) async fn keep(ctx: Arc<Context>) {
    let mut known = HashMap::new();
    let mut failed_before = false;
    loop {
        let (store, settings) = (ctx.images.store().clone(), ctx.config.images.clone());
        let looked = tokio::task::spawn_blocking(move || {
            let result = collect(&store, &settings, &mut known, Instant::now());
            (known, result)
        });
        let result = match looked.await {
            Ok((seen, result)) => {
                known = seen;
                result
            }
            Err(panic) => {
                known = HashMap::new();
                Err(Failure::Look(panic.to_string()))
            }
        };
        match result {
            Ok(()) => failed_before = false,
            Err(failure) => {
                let message = failure.to_string();
                tracing::warn!(error = %message, "collect images that nobody uses");
                let tell = |reason: &str| {
                    let node = ObjectReference {
                        kind: Some("Node".to_owned()),
                        name: Some(ctx.config.node_name.clone()),
                        uid: Some(ctx.config.node_name.clone()),
                        ..ObjectReference::default()
                    };
                    ctx.recorder
                        .event_about(node, EventType::Warning, reason, message.clone());
                };
                match failure {
                    Failure::NotEnough { .. } => tell("FreeDiskSpaceFailed"),
                    Failure::NoCapacity => tell("InvalidDiskCapacity"),
                    Failure::Look(_) => {}
                }
                // Once may be chance.
                if failed_before {
                    tell("ImageGCFailed");
                }
                failed_before = true;
            }
        }
        tokio::select! {
            () = ctx.shutdown.cancelled() => return,
            () = tokio::time::sleep(EVERY) => {}
        }
    }
}

/// Why there was no room to be made.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(
        "Failed to garbage collect required amount of images. Attempted to free {wanted} bytes, but only found {freed} \
         bytes eligible to free."
    )]
    NotEnough { wanted: u64, freed: u64 },
    #[error("invalid capacity 0 on image filesystem")]
    NoCapacity,
    #[error("{0}")]
    Look(String),
}

fn collect(
    store: &ImageStore,
    settings: &ImageSettings,
    known: &mut HashMap<ImageId, Seen>,
    now: Instant,
) -> Result<(), Failure> {
    let look = |error: ImageError| Failure::Look(chain(&error));
    let used: HashSet<ImageId> = store
        .holders()
        .map_err(look)?
        .into_iter()
        .map(|(id, _)| id)
        .collect();
    let mut candidates = Vec::new();
    let mut there = HashSet::new();
    for image in store.ls().map_err(look)? {
        there.insert(image.id);
        let seen = known.entry(image.id).or_insert(Seen {
            first: now,
            used: None,
        });
        if used.contains(&image.id) {
            seen.used = Some(now);
        } else if image
            .references
            .iter()
            .all(|name| name.to_string() != HELLO_IMAGE)
        {
            candidates.push(Candidate {
                id: image.id,
                size: image.size,
                seen: *seen,
            });
        }
    }
    known.retain(|id, _| there.contains(id));
    let disk = disk(store).map_err(|error| Failure::Look(error.to_string()))?;
    let wanted = needed(disk, settings)?;
    if wanted == 0 {
        return Ok(());
    }
    let mut freed = 0;
    for candidate in order(candidates, settings.gc_min_age, now) {
        if freed >= wanted {
            break;
        }
        match store.rm(&candidate.id.to_string()) {
            Ok(()) => {
                tracing::info!(image = %candidate.id, bytes = candidate.size, "removed, to free disk space");
                known.remove(&candidate.id);
                freed += candidate.size;
            }
            // A container has begun to use it just now, or somebody else removed it.
            Err(ImageError::InUse { .. } | ImageError::NotFound(_)) => {}
            Err(error) => return Err(look(error)),
        }
    }
    if freed < wanted {
        return Err(Failure::NotEnough { wanted, freed });
    }
    Ok(())
}

fn disk(store: &ImageStore) -> nix::Result<Disk> {
    let disk = nix::sys::statvfs::statvfs(store.dir())?;
    Ok(Disk {
        capacity: disk.blocks().saturating_mul(disk.fragment_size()),
        available: disk.blocks_available().saturating_mul(disk.fragment_size()),
    })
}

/// How many bytes are to be freed.
fn needed(disk: Disk, settings: &ImageSettings) -> Result<u64, Failure> {
    if disk.capacity == 0 {
        return Err(Failure::NoCapacity);
    }
    let available = disk.available.min(disk.capacity);
    let share = |percent: u64| {
        u64::try_from(u128::from(disk.capacity) * u128::from(percent) / 100).unwrap_or(u64::MAX)
    };
    let free_percent = u128::from(available) * 100 / u128::from(disk.capacity);
    if 100 - free_percent < u128::from(settings.gc_high_percent) {
        return Ok(0);
    }
    Ok(share(100 - u64::from(settings.gc_low_percent.min(100))).saturating_sub(available))
}

/// The longest unused first, and among those the longest known; the young ones are spared.
fn order(mut all: Vec<Candidate>, min_age: Duration, now: Instant) -> Vec<Candidate> {
    all.retain(|c| now.saturating_duration_since(c.seen.first) >= min_age);
    all.sort_by_key(|c| (c.seen.used, c.seen.first));
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(high: u8, low: u8) -> ImageSettings {
        ImageSettings {
            gc_high_percent: high,
            gc_low_percent: low,
            ..ImageSettings::default()
        }
    }

    #[test]
    fn space_is_made_from_the_high_threshold_down_to_the_low_one() {
        let check = |available: u64, expect: u64| {
            let disk = Disk {
                capacity: 1000,
                available,
            };
            assert_eq!(
                needed(disk, &settings(85, 80)).unwrap(),
                expect,
                "{available}"
            );
        };
        check(1000, 0);
        check(160, 0);
        // The percentage that is free is rounded down, as upstream's.
        check(159, 41);
        check(150, 50);
        check(0, 200);
        let none = Disk {
            capacity: 0,
            available: 0,
        };
        assert!(matches!(
            needed(none, &settings(85, 80)),
            Err(Failure::NoCapacity)
        ));
        let huge = Disk {
            capacity: u64::MAX,
            available: 0,
        };
        assert_eq!(needed(huge, &settings(85, 100)).unwrap(), 0);
    }

    #[test]
    fn the_longest_unused_goes_first_and_the_young_stay() {
        let begin = Instant::now();
        let at = |secs| begin + Duration::from_secs(secs);
        let candidate = |n: u8, first, used: Option<u64>| Candidate {
            id: ImageId(kernelet_image::Digest([n; 32])),
            size: 1,
            seen: Seen {
                first: at(first),
                used: used.map(at),
            },
        };
        let all = vec![
            candidate(1, 0, Some(50)),
            candidate(2, 10, None),
            candidate(3, 5, None),
            candidate(4, 0, Some(40)),
            candidate(5, 90, None),
        ];
        let order: Vec<_> = order(all, Duration::from_secs(60), at(100))
            .iter()
            .map(|c| c.id.0.0[0])
            .collect();
        assert_eq!(order, [3, 2, 4, 1]);
    }
}
