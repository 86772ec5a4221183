//! What few processes ask for. Everything at its default costs nothing: no call is made for it.

use serde::{Deserialize, Serialize};

/// Attributes of one process, beyond user, capabilities and limits.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessAttributes {
    /// Taken with the program's execution. An error on hosts without AppArmor.
    pub apparmor_profile: Option<String>,
    /// Taken with the program's execution. An error on hosts without SELinux.
    pub selinux_label: Option<String>,
    pub scheduler: Option<Scheduler>,
    /// As ioprio_set(2) takes it: the class in the bits from 13 on, the priority (0..=7) below.
    pub io_priority: Option<u16>,
    /// Of processes that exec adds; a container's first one passes it over, as OCI has it.
    pub exec_cpu_affinity: Option<CpuAffinity>,
    /// Rows and columns of the terminal before the program sees it.
    pub console_size: Option<(u16, u16)>,
    /// personality(2)'s domain.
    pub personality: Option<u32>,
    pub memory_policy: Option<MemoryPolicy>,
}

/// sched_setattr(2), field by field.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scheduler {
    /// `SCHED_OTHER` is 0, `SCHED_FIFO` 1, and so on, as in the kernel's headers.
    pub policy: u32,
    pub flags: u64,
    /// -20..=19; of `SCHED_OTHER` and `SCHED_BATCH`.
    pub nice: i32,
    /// 1..=99; of `SCHED_FIFO` and `SCHED_RR`.
    pub priority: u32,
    /// Nanoseconds, as the two that follow; of `SCHED_DEADLINE`.
    pub runtime: u64,
    pub deadline: u64,
    pub period: u64,
}

/// Numbers from 0 to 1023: CPUs, or memory nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NumberSet {
    /// Bit masks of 64 numbers each, the lowest first; no empty word at the end.
    pub words: Vec<u64>,
}

/// Where a process that exec adds may run: before it joins the container's cgroup, and from then on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CpuAffinity {
    pub initial: Option<NumberSet>,
    pub after: Option<NumberSet>,
}

/// set_mempolicy(2).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryPolicy {
    /// The mode with its flags.
    pub mode: u32,
    pub nodes: NumberSet,
}

/// Why a text is no set of numbers.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidSet(pub String);

impl NumberSet {
    const NUMBERS: u32 = 1024;

    /// The kernel's list format, `0-3,7`; spaces around and empty elements are passed over, as runc does.
    pub fn parse(text: &str) -> Result<Self, InvalidSet> {
        let number = |text: &str| match text.parse::<u32>() {
            Ok(n) if n < Self::NUMBERS => Ok(n),
            Ok(_) => {
                let what = format!("values larger than {} are not supported", Self::NUMBERS - 1);
                Err(InvalidSet(what))
            }
            Err(_) => Err(InvalidSet(format!("{text:?} is no number"))),
        };
        let mut set = NumberSet::default();
        for part in text.split(',').map(str::trim).filter(|p| !p.is_empty()) {
            let (first, last) = match part.split_once('-') {
                Some((first, last)) => (number(first)?, number(last)?),
                None => (number(part)?, number(part)?),
            };
            if first > last {
                return Err(InvalidSet(format!("invalid range: {part}")));
            }
            for n in first..=last {
                set.insert(n);
            }
        }
        if set.words.is_empty() {
            return Err(InvalidSet(format!("no members found in set {text:?}")));
        }
        Ok(set)
    }

    fn insert(&mut self, number: u32) {
        let word = (number / 64) as usize;
        if self.words.len() <= word {
            self.words.resize(word + 1, 0);
        }
        self.words[word] |= 1 << (number % 64);
    }

    pub fn is_empty(&self) -> bool {
        self.words.is_empty()
    }

    /// How many numbers it holds.
    pub fn count(&self) -> u32 {
        self.words.iter().map(|word| word.count_ones()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_become_masks() {
        let words = |text| NumberSet::parse(text).map(|set| set.words);
        assert_eq!(words("0-2, 5,,"), Ok(vec![0b10_0111]));
        assert_eq!(words("64"), Ok(vec![0, 1]));
        for (text, error) in [
            ("1024", "values larger than 1023 are not supported"),
            ("3-1", "invalid range: 3-1"),
            ("x", "\"x\" is no number"),
            (" , ", "no members found in set \" , \""),
        ] {
            assert_eq!(words(text), Err(InvalidSet(error.into())));
        }
    }
}
