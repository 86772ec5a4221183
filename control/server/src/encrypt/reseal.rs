//! At start: what is stored plain, or sealed with another key than the first, is sealed with the first.

use kernelet_store::{Compare, Op, Put, Range, Txn};

use super::SealedStore;

/// Values that are read at once.
const PAGE: usize = 128;

/// Seals what isn't sealed with the first key; answers how many values that were. What is written meanwhile is
/// sealed by whoever writes it.
pub async fn reseal(store: &SealedStore) -> usize {
    let mut done = 0;
    let Some(keys) = store.keys().cloned() else {
        return 0;
    };
    for prefix in keys.prefixes() {
        let range = Range::prefix(prefix.clone()).limit(PAGE);
        let mut next = range.clone();
        loop {
            let page = match store.range_sealed(next.clone()).await {
                Ok(page) => page,
                Err(error) => {
                    tracing::warn!(%error, "sealing what is stored");
                    return done;
                }
            };
            for kv in page.kvs.iter().filter(|kv| !keys.is_current(&kv.value)) {
                let mut plain = kv.clone();
                if let Err(error) = store.open(&mut plain) {
                    tracing::error!(%error, "sealing what is stored");
                    continue;
                }
                let put = Put::new(kv.key.clone(), plain.value).lease(kv.lease);
                let txn = Txn {
                    compares: vec![Compare::mod_revision(kv.key.clone(), kv.mod_revision)],
                    success: vec![Op::Put(put)],
                    failure: Vec::new(),
                };
                match store.txn(txn).await {
                    Ok(response) => done += usize::from(response.succeeded),
                    Err(error) => {
                        tracing::warn!(%error, "sealing what is stored");
                        return done;
                    }
                }
            }
            let Some(last) = page.kvs.last().filter(|_| page.more) else {
                break;
            };
            next = range.clone();
            next.key = [&last.key, &b"\0"[..]].concat().into();
        }
    }
    done
}
