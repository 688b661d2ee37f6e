//! Things measured in turn, A B A B: what else the machine does meets all of them. What is found compares only within one run.

use std::fmt;

/// The median of some rounds, and how far they lie apart.
#[derive(Clone, Copy)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) least: f64,
    pub(crate) most: f64,
}

impl Spread {
    /// Of what some rounds found.
    ///
    /// # Panics
    /// If there were none.
    pub(crate) fn of(mut values: Vec<f64>) -> Self {
        values.sort_unstable_by(f64::total_cmp);
        Self { median: values[values.len() / 2], least: values[0], most: values[values.len() - 1] }
    }
}

impl fmt::Display for Spread {
    /// With as many decimals as the format says, none if it does not.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { median, least, most } = self;
        let decimals = f.precision().unwrap_or(0);
        f.pad_integral(true, "", &format!("{median:.decimals$} ({least:.decimals$} to {most:.decimals$})"))
    }
}

/// Measures each of the things so many times.
///
/// # Panics
/// If there are no rounds.
pub(crate) fn in_turn<T>(
    rounds: usize,
    things: &mut [T],
    mut measure: impl FnMut(&mut T) -> f64,
) -> Vec<Spread> {
    let mut found = vec![Vec::new(); things.len()];
    for _ in 0..rounds {
        for (thing, found) in things.iter_mut().zip(&mut found) {
            found.push(measure(thing));
        }
    }
    found.into_iter().map(Spread::of).collect()
}
