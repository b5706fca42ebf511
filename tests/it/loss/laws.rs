//! The laws that join the two sides of the ledger.

/// One law, and what broke it.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Law {
    pub name: &'static str,
    pub text: &'static str,
    pub violations: usize,
    /// The first of them.
    pub examples: Vec<String>,
}

const EXAMPLES: usize = 8;

impl Law {
    fn new(name: &'static str, text: &'static str) -> Self {
        Self { name, text, violations: 0, examples: Vec::new() }
    }

    pub fn broken(&mut self, how: impl FnOnce() -> String) {
        self.violations += 1;
        if self.examples.len() < EXAMPLES {
            self.examples.push(how());
        }
    }
}

/// All of them.
pub struct Laws {
    pub stored: Law,
    pub genuine: Law,
    pub explained: Law,
    pub refused: Law,
    pub acknowledged: Law,
    pub balanced: Law,
    pub drained: Law,
}

impl Laws {
    pub fn new() -> Self {
        Self {
            stored: Law::new("L1", "what was acknowledged is stored"),
            genuine: Law::new("L2", "what is stored was signed, and is equal byte for byte"),
            explained: Law::new("L3", "every duplicate is explained by an attempt that did not end in 200"),
            refused: Law::new("L4", "nothing that got a 4xx is stored"),
            acknowledged: Law::new("L5", "everything is acknowledged within the budget after the faults"),
            balanced: Law::new("L6", "/metrics balances, and each result is what was answered and is stored"),
            drained: Law::new("L7", "a drain answers what it accepted, and ends with 0 in time"),
        }
    }

    /// In their order.
    pub fn all(&self) -> [&Law; 7] {
        let Self { stored, genuine, explained, refused, acknowledged, balanced, drained } = self;
        [stored, genuine, explained, refused, acknowledged, balanced, drained]
    }

    /// Whether none is broken.
    pub fn hold(&self) -> bool {
        self.all().iter().all(|law| law.violations == 0)
    }

    /// The names of those that are broken.
    pub fn broken(&self) -> Vec<&'static str> {
        self.all().iter().filter(|law| law.violations > 0).map(|law| law.name).collect()
    }
}
