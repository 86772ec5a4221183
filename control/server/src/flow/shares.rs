//! How the server's seats are split between levels: nominal shares, and lending what isn't needed. Pure.

/// A level's part of the whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    pub shares: u32,
    pub lendable_percent: u32,
    /// `None`: as much as there is.
    pub borrowing_percent: Option<u32>,
}

/// Seats of a level.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bounds {
    pub nominal: u32,
    pub lower: u32,
    pub upper: u32,
}

/// What a level lately wanted. Upstream's formula: what is smoothed falls slowly and rises at once.
#[derive(Clone, Copy, Debug, Default)]
pub struct Demand {
    pub peak: u32,
    pub smoothed: f64,
}

const SMOOTHING: f64 = 0.977;

impl Demand {
    /// After one more period with that peak.
    pub fn after(self, peak: u32) -> Demand {
        let now = f64::from(peak);
        Demand {
            peak,
            smoothed: now.max(SMOOTHING * self.smoothed + (1.0 - SMOOTHING) * now),
        }
    }
}

/// The seats of each level when nobody lends or borrows, and how far lending and borrowing may go.
pub fn bounds(server: u32, shares: &[Share]) -> Vec<Bounds> {
    let sum: f64 = shares.iter().map(|share| f64::from(share.shares)).sum();
    let percent =
        |of: u32, percent: u32| (f64::from(of) * f64::from(percent) / 100.0).round() as u32;
    shares
        .iter()
        .map(|share| {
            let nominal = if sum > 0.0 {
                (f64::from(server) * f64::from(share.shares) / sum).ceil() as u32
            } else {
                0
            };
            let borrowing = share
                .borrowing_percent
                .map_or(server, |limit| percent(nominal, limit));
            Bounds {
                nominal,
                lower: nominal - percent(nominal, share.lendable_percent).min(nominal),
                upper: nominal.saturating_add(borrowing),
            }
        })
        .collect()
}

/// Each level's seats now: all nominal seats together, split in proportion to what each wants, within its bounds. What
/// a level used lately, up to its nominal seats, isn't lent away.
pub fn allocate(levels: &[(Bounds, Demand)]) -> Vec<u32> {
    let total: f64 = levels.iter().map(|(b, _)| f64::from(b.nominal)).sum();
    let wants: Vec<(f64, f64, f64)> = levels
        .iter()
        .map(|(bounds, demand)| {
            let least = bounds.lower.max(bounds.nominal.min(demand.peak));
            let least = f64::from(least);
            // Never zero: proportions of nothing would be lost.
            let target = least.max(demand.smoothed).max(0.001);
            (least, target, f64::from(bounds.upper).max(least))
        })
        .collect();
    let at = |part: f64| -> Vec<f64> {
        wants
            .iter()
            .map(|(least, target, most)| (target * part).clamp(*least, *most))
            .collect()
    };
    // The sum grows with the part; its place is found by halving.
    let (mut low, mut high) = (0.0, 1.0);
    while at(high).iter().sum::<f64>() < total && high < 1e9 {
        high *= 2.0;
    }
    for _ in 0..100 {
        let middle = (low + high) / 2.0;
        if at(middle).iter().sum::<f64>() <= total {
            low = middle;
        } else {
            high = middle;
        }
    }
    at(low)
        .into_iter()
        .zip(levels)
        .map(|(seats, (bounds, _))| {
            let seats = seats.round() as u32;
            // Rounding takes nobody's last seat.
            seats.max(u32::from(bounds.nominal > 0))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn share(shares: u32, lendable_percent: u32, borrowing_percent: Option<u32>) -> Share {
        Share {
            shares,
            lendable_percent,
            borrowing_percent,
        }
    }

    /// Upstream's built-in levels: catch-all, system, node-high, leader-election, workload-high, -low, global-default.
    fn built_in() -> Vec<Bounds> {
        let rows = [
            (5, 0),
            (30, 33),
            (40, 25),
            (10, 0),
            (40, 50),
            (100, 90),
            (20, 50),
        ];
        bounds(
            600,
            &rows.map(|(shares, lendable)| share(shares, lendable, None)),
        )
    }

    #[test]
    fn nominal_seats_are_upstreams() {
        let seats: Vec<(u32, u32, u32)> = built_in()
            .iter()
            .map(|b| (b.nominal, b.lower, b.upper))
            .collect();
        assert_eq!(
            seats,
            [
                (13, 13, 613),
                (74, 50, 674),
                (98, 73, 698),
                (25, 25, 625),
                (98, 49, 698),
                (245, 24, 845),
                (49, 24, 649)
            ]
        );
    }

    #[test]
    fn what_one_wants_and_the_others_do_not_is_borrowed() {
        let built_in = built_in();
        let idle: Vec<_> = built_in.iter().map(|b| (*b, Demand::default())).collect();
        let mut busy = idle.clone();
        busy[6].1 = Demand::default().after(500);
        let (idle, busy) = (allocate(&idle), allocate(&busy));
        assert!(busy[6] > 300, "{busy:?}");
        for (i, bounds) in built_in.iter().enumerate() {
            assert!(busy[i] >= bounds.lower, "{busy:?}");
            assert!((bounds.lower..=bounds.upper).contains(&idle[i]), "{idle:?}");
        }
        let nominal: u32 = built_in.iter().map(|b| b.nominal).sum();
        let sum: u32 = busy.iter().sum();
        assert!(
            sum.abs_diff(nominal) <= built_in.len() as u32,
            "{sum} of {nominal}"
        );
    }

    #[test]
    fn who_needs_all_of_its_own_lends_nothing() {
        let levels: Vec<_> = built_in()
            .into_iter()
            .map(|b| (b, Demand::default().after(1000)))
            .collect();
        for (seats, (bounds, _)) in allocate(&levels).iter().zip(&levels) {
            assert!(*seats >= bounds.nominal);
        }
    }

    #[test]
    fn a_limit_to_borrowing_is_kept() {
        let levels = bounds(100, &[share(50, 100, None), share(50, 0, Some(10))]);
        let wanted = [
            (levels[0], Demand::default()),
            (levels[1], Demand::default().after(100)),
        ];
        assert_eq!(allocate(&wanted), [45, 55]);
    }
}
