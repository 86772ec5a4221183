//! The facts of `facts/seccomp_default.txt`, for the tests that hold the default profile and its compiled form against
//! them. Reads nothing that a program of ours needs.

/// Each call with the conditions that allow it.
pub struct Facts(Vec<(String, Vec<Condition>)>);

/// One way for a call to be answered: all of it must hold.
#[derive(Clone, Default)]
struct Condition {
    argument: Option<(char, u64, u64)>,
    with: Option<String>,
    without: Option<String>,
    machines: Vec<String>,
    errno: u16,
}

impl Condition {
    fn parse(text: &str) -> Condition {
        let mut condition = Condition::default();
        let hex = |text: &str| u64::from_str_radix(text, 16).expect("a hexadecimal number");
        for word in text.split(',').filter(|word| *word != "*") {
            let (kind, rest) = word.split_at(1);
            match kind {
                "+" => condition.with = Some(rest.to_owned()),
                "-" => condition.without = Some(rest.to_owned()),
                "@" => condition.machines.push(rest.to_owned()),
                "!" => condition.errno = rest.parse().expect("an error number"),
                _ => {
                    let test = word.strip_prefix("a0").expect("the first argument");
                    let (operator, value) = test.split_at(1);
                    let operator = operator.chars().next().expect("an operator");
                    let (mask, value) = match value.split_once('=') {
                        Some((mask, value)) => (hex(mask), hex(value)),
                        None => (u64::MAX, hex(value)),
                    };
                    condition.argument = Some((operator, mask, value));
                }
            }
        }
        condition
    }

    fn holds(&self, has: &dyn Fn(&str) -> bool, machine: &str, argument: u64) -> bool {
        self.argument
            .is_none_or(|(operator, mask, value)| match operator {
                '<' => argument < value,
                '>' => argument > value,
                '=' | '&' => argument & mask == value,
                other => panic!("the operator {other}"),
            })
            && self.with.as_deref().is_none_or(has)
            && !self.without.as_deref().is_some_and(has)
            && (self.machines.is_empty() || self.machines.iter().any(|name| name == machine))
    }
}

impl Facts {
    /// First arguments worth asking with: what the conditions name, and their neighbours.
    pub const ARGUMENTS: &[u64] = &[
        0,
        1,
        2,
        7,
        8,
        9,
        0x11,
        37,
        38,
        39,
        40,
        41,
        0x80,
        0x1_ffff,
        0x2_0000,
        0x2_0001,
        0x2_0008,
        0x200_0000,
        0x400_0000,
        0x800_0000,
        0x1000_0000,
        0x2000_0000,
        0x4000_0000,
        0x7e02_0000,
        0x8000_0000,
        0xffff_fffe,
        0xffff_ffff,
        0x1_0000_0000,
        0x1_0000_0026,
        0x1_ffff_ffff,
        u64::MAX,
    ];

    /// The committed table.
    pub fn read() -> Facts {
        let mut all = Vec::<(String, Vec<Condition>)>::new();
        let mut conditions = Vec::new();
        for line in include_str!("../facts/seccomp_default.txt").lines() {
            if line.starts_with('#') {
                continue;
            }
            let names = match line.split_once(':') {
                Some((words, names)) => {
                    conditions = words.split(' ').map(Condition::parse).collect();
                    names
                }
                None => line,
            };
            let named = names.split_whitespace();
            all.extend(named.map(|name| (name.to_owned(), conditions.clone())));
        }
        Facts(all)
    }

    /// The calls that are answered otherwise than by default.
    pub fn calls(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(name, _)| name.as_str())
    }

    /// The capabilities that matter.
    pub fn capabilities(&self) -> std::collections::BTreeSet<&str> {
        let conditions = self.0.iter().flat_map(|(_, conditions)| conditions);
        conditions.filter_map(|c| c.with.as_deref()).collect()
    }

    /// The error number of a call with this first argument; 0: it is allowed. Conditions that allow win.
    pub fn answer(
        &self,
        call: &str,
        has: &dyn Fn(&str) -> bool,
        machine: &str,
        argument: u64,
    ) -> u16 {
        let Some((_, conditions)) = self.0.iter().find(|(name, _)| name == call) else {
            return 1;
        };
        let holding = conditions
            .iter()
            .filter(|c| c.holds(has, machine, argument));
        holding.map(|c| c.errno).min().unwrap_or(1)
    }
}
