//! Why there is no plan: what stands in the way, when it could be done, and what would work.

use serde::{Deserialize, Serialize};

/// Why there is no plan. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{}", .obstacles.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
pub struct Refusal {
    /// Everything that stands in the way, not only the first thing found. Never empty.
    pub obstacles: Vec<Obstacle>,
}

/// One thing that stands in the way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Obstacle {
    /// When it could be done, if ever.
    pub when: When,
    /// Why not now.
    pub reason: String,
    /// What would work.
    pub way_out: String,
}

impl std::fmt::Display for Obstacle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}; {}", self.when, self.reason, self.way_out)
    }
}

/// When a change can be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum When {
    /// Possible while the machine runs, but not as it stands now.
    NotNow,
    /// Only across a stop and start with another configuration.
    Cold,
    /// Never on such a machine, or only at the price of data.
    Impossible,
}

impl std::fmt::Display for When {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            When::NotNow => "NOT NOW",
            When::Cold => "COLD",
            When::Impossible => "IMPOSSIBLE",
        })
    }
}
