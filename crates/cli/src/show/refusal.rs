//! A refusal: every obstacle, when it could be done if ever, and what would work.

use scale::plan::{Refusal, When};

use crate::paint::{BAD, WARN, paint};
use crate::show::paragraph;

/// The whole refusal in `room` columns.
pub(crate) fn refusal(refusal: &Refusal, room: usize) -> String {
    let mut out = format!("{}; nothing was changed\n", paint(BAD, "refused"));
    for obstacle in &refusal.obstacles {
        let style = match obstacle.when {
            When::NotNow | When::Cold => WARN,
            When::Impossible => BAD,
        };
        let word = obstacle.when.to_string();
        // Painted last: a paragraph counts columns.
        let reason = paragraph(&format!("  {word}  "), &obstacle.reason, room);
        out.push('\n');
        out.push_str(&reason.replacen(&word, &paint(style, &word), 1));
        out.push_str(&paragraph("    instead: ", &obstacle.way_out, room));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::example;
    use scale::plan::Obstacle;

    #[test]
    fn every_obstacle_has_its_way_out() {
        let obstacle = |when, reason: &str, way_out: &str| Obstacle {
            when,
            reason: reason.to_owned(),
            way_out: way_out.to_owned(),
        };
        let both = Refusal {
            obstacles: vec![
                obstacle(
                    When::Cold,
                    "the machine was started with room for 8 GiB, and 9 GiB are asked",
                    "ask for 8 GiB at most, or stop it and start it with -m maxmem=9G",
                ),
                obstacle(When::Impossible, "boot vCPUs cannot be removed", "ask for 1 or more"),
            ],
        };
        let expected = "\
refused; nothing was changed

  COLD  the machine was started with room for 8 GiB, and 9
        GiB are asked
    instead: ask for 8 GiB at most, or stop it and start it
             with -m maxmem=9G

  IMPOSSIBLE  boot vCPUs cannot be removed
    instead: ask for 1 or more
";
        assert_eq!(example::text(&refusal(&both, 60)), expected);
    }
}
